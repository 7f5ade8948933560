//! Values between BEAM terms and the bytes of the wire, as `guides/values.md` has them.

mod binary;
mod decode;
mod encode;
mod rules;
mod structs;
mod tensor;

pub(crate) use binary::{binary, copied};
pub(crate) use decode::{decode_extended, decode_fields};
pub(crate) use encode::{encode_args, encode_extended};
pub(crate) use rules::{EncodeError, Rules};
