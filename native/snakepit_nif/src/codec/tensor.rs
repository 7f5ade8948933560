use crate::{atoms, map};
use rustler::{Atom, Binary, Encoder, Env, Term, types::tuple};
use snakepit_values::{Dtype, Tagged};

mod fields {
    rustler::atoms! { dtype, shape }
}

mod dtypes {
    rustler::atoms! {
        bfloat16,
        bool,
        complex128,
        complex64,
        float16,
        float32,
        float64,
        float8_e4m3fn,
        float8_e5m2,
        int16,
        int32,
        int64,
        int8,
        uint16,
        uint32,
        uint64,
        uint8,
    }
}

fn dtype_atom(dtype: Dtype) -> Atom {
    match dtype {
        Dtype::Bool => dtypes::bool(),
        Dtype::Int8 => dtypes::int8(),
        Dtype::Int16 => dtypes::int16(),
        Dtype::Int32 => dtypes::int32(),
        Dtype::Int64 => dtypes::int64(),
        Dtype::Uint8 => dtypes::uint8(),
        Dtype::Uint16 => dtypes::uint16(),
        Dtype::Uint32 => dtypes::uint32(),
        Dtype::Uint64 => dtypes::uint64(),
        Dtype::Float16 => dtypes::float16(),
        Dtype::Float32 => dtypes::float32(),
        Dtype::Float64 => dtypes::float64(),
        Dtype::Bfloat16 => dtypes::bfloat16(),
        Dtype::Float8E4m3fn => dtypes::float8_e4m3fn(),
        Dtype::Float8E5m2 => dtypes::float8_e5m2(),
        Dtype::Complex64 => dtypes::complex64(),
        Dtype::Complex128 => dtypes::complex128(),
    }
}

/// The value of a `%Snakepit.Tensor{}`, if its fields match each other.
pub(super) fn encode(term: Term<'_>) -> Option<Tagged<&[u8]>> {
    let field = |name: Atom| term.map_get(name).ok();
    let dtype = field(fields::dtype())?;
    let dtype = Dtype::ALL
        .into_iter()
        .find(|known| dtype_atom(*known) == dtype)?;
    let sides = tuple::get_tuple(field(fields::shape())?).ok()?;
    let shape: Vec<usize> = sides
        .into_iter()
        .map(|side| side.decode().ok())
        .collect::<Option<_>>()?;
    let data: Binary<'_> = field(atoms::data())?.decode().ok()?;
    let data = data.as_slice();
    (dtype.bytes(&shape) == Some(data.len())).then_some(Tagged::Tensor { dtype, shape, data })
}

pub(super) fn decode<'a>(
    env: Env<'a>,
    name: Atom,
    dtype: Dtype,
    shape: &[usize],
    data: Term<'a>,
) -> Term<'a> {
    let shape: Vec<Term<'a>> = shape.iter().map(|side| side.encode(env)).collect();
    let pairs = [
        (atoms::__struct__(), name.to_term(env)),
        (fields::dtype(), dtype_atom(dtype).to_term(env)),
        (fields::shape(), tuple::make_tuple(env, &shape)),
        (atoms::data(), data),
    ];
    map::from_pairs(env, pairs)
}
