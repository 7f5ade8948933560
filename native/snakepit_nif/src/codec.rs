//! Values between BEAM terms and the bytes of the wire, as `guides/values.md` has them.

mod decode;
mod encode;

pub(crate) use decode::{binary, copied, decode_extended, decode_fields};
pub(crate) use encode::{EncodeError, Rules, encode_args, encode_extended};

use bytes::Bytes;
use snakepit_values::Dtype;
use std::collections::BTreeMap;

/// A map of values as it travels.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fields {
    pub(crate) values: BTreeMap<String, Bytes>,
    /// How each was encoded; from a peer that does not say, nothing.
    pub(crate) kinds: Option<Bytes>,
}

impl Fields {
    pub(crate) fn size(&self) -> usize {
        self.values
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum()
    }
}

fn dtype_atom(dtype: Dtype) -> rustler::Atom {
    use crate::atoms;
    match dtype {
        Dtype::Bool => atoms::bool(),
        Dtype::Int8 => atoms::int8(),
        Dtype::Int16 => atoms::int16(),
        Dtype::Int32 => atoms::int32(),
        Dtype::Int64 => atoms::int64(),
        Dtype::Uint8 => atoms::uint8(),
        Dtype::Uint16 => atoms::uint16(),
        Dtype::Uint32 => atoms::uint32(),
        Dtype::Uint64 => atoms::uint64(),
        Dtype::Float16 => atoms::float16(),
        Dtype::Float32 => atoms::float32(),
        Dtype::Float64 => atoms::float64(),
    }
}
