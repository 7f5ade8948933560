//! Values between BEAM terms and the bytes of the wire, as `guides/values.md` has them.

mod decode;
mod encode;

pub(crate) use decode::{binary, copied, decode_extended, decode_fields};
pub(crate) use encode::{EncodeError, Rules, encode_args, encode_extended};

use snakepit_values::Dtype;

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
        Dtype::Bfloat16 => atoms::bfloat16(),
        Dtype::Float8E4m3fn => atoms::float8_e4m3fn(),
        Dtype::Float8E5m2 => atoms::float8_e5m2(),
        Dtype::Complex64 => atoms::complex64(),
        Dtype::Complex128 => atoms::complex128(),
    }
}
