//! The values that extended JSON represents by an object with a tag: how each is read and written.
//!
//! A new type is a variant here. Elixir's struct of it is in `codec/structs.rs` of the NIF and in
//! `lib/snakepit/structs.ex`, and Python's class in `_values/tagged.py`.

use crate::{
    dtype::Dtype,
    error::ReadError,
    format::{ALIGNMENT, TAG},
    tokenizer::Tokenizer,
    write::Writer,
};
use std::{io::Write as _, ops::Range};

/// A value with a tag. `B` represents bytes in the tail: a range of those that were read, or those to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tagged<B> {
    Bytes(B),
    /// `data` is little-endian and row-major, and as long as the shape requires.
    Tensor {
        dtype: Dtype,
        shape: Vec<usize>,
        data: B,
    },
    /// A stream in Arrow's IPC format, which is not checked here.
    Arrow(B),
}

/// Reads what follows the name of a tag.
pub(crate) fn read(
    name: &str,
    tokens: &mut Tokenizer<'_>,
) -> Result<Tagged<Range<usize>>, ReadError> {
    match name {
        "bytes" => tokens.range(1).map(Tagged::Bytes),
        "tensor" => tensor(tokens),
        "arrow" => tokens.range(ALIGNMENT).map(Tagged::Arrow),
        _ => Err(tokens.wrong("the tag has an unknown name")),
    }
}

fn tensor(tokens: &mut Tokenizer<'_>) -> Result<Tagged<Range<usize>>, ReadError> {
    if tokens.next() != Some(b'"') {
        return Err(tokens.wrong("expected a dtype"));
    }
    let name = tokens.string()?;
    let dtype = Dtype::of(&name).ok_or_else(|| tokens.wrong("the dtype is unknown"))?;
    tokens.expect(b',', "expected a comma")?;
    tokens.expect(b'[', "expected a shape")?;
    let mut shape = Vec::new();
    while tokens.another(shape.is_empty(), b']')? {
        shape.push(tokens.count()?);
    }
    tokens.expect(b',', "expected a comma")?;
    let data = tokens.range(ALIGNMENT)?;
    if dtype.bytes(&shape) != Some(data.len()) {
        return Err(tokens.wrong("the tensor's length does not match its shape"));
    }
    Ok(Tagged::Tensor { dtype, shape, data })
}

impl<'a> Writer<'a> {
    pub fn tagged(&mut self, value: Tagged<&'a [u8]>) {
        self.extended = true;
        // Writing to a vector never fails.
        let _ = match value {
            Tagged::Bytes(bytes) => {
                let (offset, size) = self.put(bytes, 1);
                write!(self.out, r#"{{"{TAG}":["bytes",{offset},{size}]}}"#)
            }
            Tagged::Tensor { dtype, shape, data } => {
                let (offset, size) = self.put(data, ALIGNMENT);
                let _ = write!(self.out, r#"{{"{TAG}":["tensor","{}",["#, dtype.name());
                for (index, side) in shape.iter().enumerate() {
                    let comma = if index == 0 { "" } else { "," };
                    let _ = write!(self.out, "{comma}{side}");
                }
                write!(self.out, "],{offset},{size}]}}")
            }
            Tagged::Arrow(stream) => {
                let (offset, size) = self.put(stream, ALIGNMENT);
                write!(self.out, r#"{{"{TAG}":["arrow",{offset},{size}]}}"#)
            }
        };
    }
}
