//! Decodes bytes of the wire to BEAM terms. It never makes an atom of received text.

use super::{
    binary::{binary, copied, is_text},
    structs,
};
use crate::{atoms, map};
use bytes::Bytes;
use rustler::{BigInt, Encoder, Env, Term};
use snakepit_client::error::Failure;
use snakepit_proto::Fields;
use snakepit_values::{Builder, Form, Kind, ReadError, Tagged, read, split_tail};
use std::{ops::Range, str};

/// Decodes a result, or with `is_final` a chunk, into a map with string keys.
pub(crate) fn decode_fields<'a>(
    env: Env<'a>,
    fields: &Fields,
    is_final: Option<bool>,
) -> Result<Term<'a>, Failure> {
    if let Some(kinds) = &fields.kinds
        && kinds.len() != fields.values.len()
    {
        return Err(Failure::InvalidResult(format!(
            "the server sent {} values but {} kinds",
            fields.values.len(),
            kinds.len()
        )));
    }
    let mut keys = Vec::with_capacity(fields.values.len() + 1);
    let mut values = Vec::with_capacity(fields.values.len() + 1);
    for (index, field) in fields.values.iter().enumerate() {
        let name = field.name().map_err(Failure::InvalidResult)?;
        if is_final.is_some() && name == "is_final" {
            continue;
        }
        let kind = fields.kinds.as_ref().map_or(0, |kinds| kinds[index]);
        keys.push(name.encode(env));
        values.push(
            decode_value(env, &field.value, kind)
                .map_err(|problem| Failure::InvalidResult(format!("result.{name} {problem}")))?,
        );
    }
    if let Some(is_final) = is_final {
        keys.push("is_final".encode(env));
        values.push(is_final.encode(env));
    }
    Ok(map::from_terms(env, &keys, &values))
}

/// How many bytes decoding reads. A value of the kind `Bytes` is passed on unread, and shared if it is large.
pub(crate) fn bytes_to_read(fields: &Fields) -> usize {
    let is_read = |index: usize| {
        let kind = fields.kinds.as_ref().and_then(|kinds| kinds.get(index));
        kind.and_then(|kind| Kind::of(*kind)) != Some(Kind::Bytes)
    };
    let values = fields.values.iter().enumerate();
    values
        .filter(|(index, _)| is_read(*index))
        .map(|(_, field)| field.value.len())
        .sum()
}

fn decode_value<'a>(env: Env<'a>, bytes: &Bytes, kind: u8) -> Result<Term<'a>, String> {
    match Kind::of(kind) {
        Some(Kind::Plain) => decode_plain(env, bytes),
        Some(Kind::Text) if is_text(bytes) => Ok(binary(env, bytes)),
        Some(Kind::Text) => Err("is marked as text but is not valid UTF-8".into()),
        Some(Kind::Bytes) => Ok(binary(env, bytes)),
        Some(Kind::Json) => read_text(env, bytes, Form::Json, &Bytes::new()),
        Some(Kind::Extended) => decode_extended(env, bytes),
        None => Err(format!("has the unknown kind {kind}")),
    }
}

/// Decodes by the plain rules: JSON if it parses, otherwise a binary.
fn decode_plain<'a>(env: Env<'a>, bytes: &Bytes) -> Result<Term<'a>, String> {
    let mut builder = Terms {
        env,
        tail: &Bytes::new(),
        last_counts: true,
    };
    let read = str::from_utf8(bytes).map(|text| read(text, Form::Json, &mut builder));
    match read {
        Ok(Ok(term)) => Ok(term),
        Ok(Err(ReadError::TooDeep)) => Err(ReadError::TooDeep.to_string()),
        _ => Ok(binary(env, bytes)),
    }
}

pub(crate) fn decode_extended<'a>(env: Env<'a>, bytes: &Bytes) -> Result<Term<'a>, String> {
    let (text, tail) = split_tail(bytes);
    let form = Form::Extended { tail: tail.len() };
    read_text(env, text, form, &bytes.slice(tail))
}

fn read_text<'a>(env: Env<'a>, text: &[u8], form: Form, tail: &Bytes) -> Result<Term<'a>, String> {
    let text = str::from_utf8(text).map_err(|_| "is marked as JSON but is not valid UTF-8")?;
    let mut builder = Terms {
        env,
        tail,
        last_counts: false,
    };
    read(text, form, &mut builder).map_err(|error| error.to_string())
}

struct Terms<'a, 'b> {
    env: Env<'a>,
    tail: &'b Bytes,
    /// Whether the last of several values with the same key counts; otherwise duplicate keys are an error.
    last_counts: bool,
}

impl<'a> Builder for Terms<'a, '_> {
    type Value = Term<'a>;

    fn null(&mut self) -> Term<'a> {
        atoms::nil().to_term(self.env)
    }

    fn bool(&mut self, value: bool) -> Term<'a> {
        value.encode(self.env)
    }

    fn int(&mut self, value: i64) -> Term<'a> {
        value.encode(self.env)
    }

    fn big(&mut self, digits: &str) -> Result<Term<'a>, ReadError> {
        digits
            .parse::<BigInt>()
            .map(|big| big.encode(self.env))
            .map_err(|error| ReadError::Unbuildable(error.to_string()))
    }

    fn float(&mut self, value: f64) -> Term<'a> {
        if value.is_finite() {
            return value.encode(self.env);
        }
        let name = if value.is_nan() {
            atoms::nan()
        } else if value > 0.0 {
            atoms::infinity()
        } else {
            atoms::neg_infinity()
        };
        name.to_term(self.env)
    }

    fn text(&mut self, text: &str) -> Term<'a> {
        copied(self.env, text.as_bytes())
    }

    fn list(&mut self, items: &[Term<'a>]) -> Result<Term<'a>, ReadError> {
        Ok(items.encode(self.env))
    }

    fn map(&mut self, keys: &[Term<'a>], values: &[Term<'a>]) -> Result<Term<'a>, ReadError> {
        if self.last_counts {
            return Ok(map::from_terms(self.env, keys, values));
        }
        map::from_unique_terms(self.env, keys, values)
            .map_err(|twice| ReadError::DuplicateKey(twice.decode().unwrap_or_default()))
    }

    fn tagged(&mut self, value: Tagged<Range<usize>>) -> Result<Term<'a>, ReadError> {
        Ok(structs::decode(self.env, value, self.tail))
    }
}
