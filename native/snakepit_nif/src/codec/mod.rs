//! Converts BEAM terms to the bytes of the wire and back, as `guides/values.md` specifies.

mod binary;
mod decode;
mod encode;
mod rules;
mod structs;
mod tensor;

pub(crate) use binary::{binary, copied};
pub(crate) use decode::{bytes_to_read, decode_extended, decode_fields};
pub(crate) use encode::{encode_args, encode_extended, encode_value};
pub(crate) use rules::{EncodeError, Rules};
