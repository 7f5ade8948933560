//! Snakepit's structs, which are values with a tag on the wire: how each is encoded and decoded.

use super::{
    binary::binary,
    rules::{EncodeError, Rules},
    tensor,
};
use crate::{atoms, map};
use bytes::Bytes;
use rustler::{Binary, Env, Term, TermType};
use snakepit_values::Tagged;
use std::ops::Range;

mod names {
    rustler::atoms! {
        arrow = "Elixir.Snakepit.Arrow",
        bytes = "Elixir.Snakepit.Bytes",
        tensor = "Elixir.Snakepit.Tensor",
    }
}

/// The name of a struct.
pub(super) fn name(term: Term<'_>) -> Option<Term<'_>> {
    let name = term.map_get(atoms::__struct__()).ok()?;
    name.is_atom().then_some(name)
}

/// The value of the struct `term`, which has that `name`; `None` if it is not one of Snakepit's.
pub(super) fn encode<'a>(
    term: Term<'a>,
    name: Term<'a>,
    rules: Rules,
) -> Result<Option<Tagged<&'a [u8]>>, EncodeError> {
    let value = if names::bytes() == name {
        let bytes = data(term).ok_or_else(|| {
            EncodeError::invalid("is a %Snakepit.Bytes{} whose data is not a binary")
        })?;
        rules.check_extended("a binary to be sent as bytes")?;
        Tagged::Bytes(bytes.as_slice())
    } else if names::tensor() == name {
        rules.check_extended("a tensor")?;
        tensor::encode(term).ok_or_else(|| {
            EncodeError::invalid("is not a valid tensor: create it with Snakepit.Tensor.new/3")
        })?
    } else if names::arrow() == name {
        rules.check_extended("an Arrow table")?;
        let stream = data(term).ok_or_else(|| {
            EncodeError::invalid("is not a valid Arrow table: create it with Snakepit.Arrow.new/1")
        })?;
        Tagged::Arrow(stream.as_slice())
    } else {
        return Ok(None);
    };
    Ok(Some(value))
}

/// The term of a value; `tail` has its bytes.
pub(super) fn decode<'a>(env: Env<'a>, value: Tagged<Range<usize>>, tail: &Bytes) -> Term<'a> {
    match value {
        Tagged::Bytes(range) => binary(env, &tail.slice(range)),
        Tagged::Tensor { dtype, shape, data } => {
            let data = binary(env, &tail.slice(data));
            tensor::decode(env, names::tensor(), dtype, &shape, data)
        }
        Tagged::Arrow(range) => {
            let stream = binary(env, &tail.slice(range));
            let pairs = [
                (atoms::__struct__(), names::arrow().to_term(env)),
                (atoms::data(), stream),
            ];
            map::from_pairs(env, pairs)
        }
    }
}

/// The binary of a `%Snakepit.Bytes{}`.
pub(super) fn forced_bytes(term: Term<'_>) -> Option<Binary<'_>> {
    if term.get_type() != TermType::Map || names::bytes() != name(term)? {
        return None;
    }
    data(term)
}

fn data(term: Term<'_>) -> Option<Binary<'_>> {
    term.map_get(atoms::data()).ok()?.decode().ok()
}
