//! A value of each kind that the wire has, what builds it and what writes it.

use snakepit_values::{Builder, Dtype, Form, Kind, ReadError, Tagged, Writer, read, split_tail};
use std::{convert::Infallible, ops::Range};

#[derive(Clone, Debug)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Big(String),
    Float(f64),
    Text(String),
    Bytes(Vec<u8>),
    Tensor(Dtype, Vec<usize>, Vec<u8>),
    Arrow(Vec<u8>),
    List(Vec<Value>),
    Map(Vec<(String, Value)>),
}

impl PartialEq for Value {
    /// Bit by bit for floats, except that there is one NaN.
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Float(a), Self::Float(b)) => {
                a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
            }
            (Self::Null, Self::Null) => true,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::Int(a), Self::Int(b)) => a == b,
            (Self::Big(a), Self::Big(b)) | (Self::Text(a), Self::Text(b)) => a == b,
            (Self::Bytes(a), Self::Bytes(b)) | (Self::Arrow(a), Self::Arrow(b)) => a == b,
            (Self::Tensor(d, s, b), Self::Tensor(d2, s2, b2)) => (d, s, b) == (d2, s2, b2),
            (Self::List(a), Self::List(b)) => a == b,
            (Self::Map(a), Self::Map(b)) => a == b,
            _ => false,
        }
    }
}

pub(crate) struct Values<'a>(pub(crate) &'a [u8]);

impl Builder for Values<'_> {
    type Value = Value;

    fn null(&mut self) -> Value {
        Value::Null
    }
    fn bool(&mut self, value: bool) -> Value {
        Value::Bool(value)
    }
    fn int(&mut self, value: i64) -> Value {
        Value::Int(value)
    }
    fn big(&mut self, digits: &str) -> Result<Value, ReadError> {
        Ok(Value::Big(digits.into()))
    }
    fn float(&mut self, value: f64) -> Value {
        Value::Float(value)
    }
    fn text(&mut self, text: &str) -> Value {
        Value::Text(text.into())
    }
    fn list(&mut self, items: &[Value]) -> Result<Value, ReadError> {
        Ok(Value::List(items.into()))
    }
    fn map(&mut self, keys: &[Value], values: &[Value]) -> Result<Value, ReadError> {
        let keys = keys.iter().filter_map(|key| match key {
            Value::Text(text) => Some(text.clone()),
            _ => None,
        });
        Ok(Value::Map(keys.zip(values.iter().cloned()).collect()))
    }
    fn tagged(&mut self, value: Tagged<Range<usize>>) -> Result<Value, ReadError> {
        Ok(match value {
            Tagged::Bytes(range) => Value::Bytes(self.0[range].into()),
            Tagged::Tensor { dtype, shape, data } => {
                Value::Tensor(dtype, shape, self.0[data].into())
            }
            Tagged::Arrow(range) => Value::Arrow(self.0[range].into()),
        })
    }
}

pub(crate) fn read_json(text: &str) -> Result<Value, ReadError> {
    read(text, Form::Json, &mut Values(b""))
}

/// Nothing where the text is no UTF-8.
pub(crate) fn read_extended(bytes: &[u8]) -> Option<Result<Value, ReadError>> {
    let (text, tail) = split_tail(bytes);
    let text = std::str::from_utf8(text).ok()?;
    let form = Form::Extended { tail: tail.len() };
    Some(read(text, form, &mut Values(&bytes[tail])))
}

pub(crate) fn written(value: &Value) -> (Kind, Vec<u8>) {
    let mut writer = Writer::default();
    write(&mut writer, value);
    writer.finish()
}

fn write<'a>(writer: &mut Writer<'a>, value: &'a Value) {
    match value {
        Value::Null => writer.null(),
        Value::Bool(value) => writer.bool(*value),
        Value::Int(value) => writer.int(value),
        Value::Big(digits) => writer.int(digits),
        Value::Float(value) => writer.float(*value),
        Value::Text(text) => writer.text(text),
        Value::Bytes(bytes) => writer.tagged(Tagged::Bytes(bytes)),
        Value::Tensor(dtype, shape, data) => writer.tagged(Tagged::Tensor {
            dtype: *dtype,
            shape: shape.clone(),
            data,
        }),
        Value::Arrow(stream) => writer.tagged(Tagged::Arrow(stream)),
        Value::List(items) => always(writer.array(items.iter(), |writer, _, item| {
            write(writer, item);
            Ok(())
        })),
        Value::Map(entries) => {
            let entries: Vec<_> = entries.iter().map(|(key, value)| (key, value)).collect();
            always(writer.object(
                &entries,
                |key| Ok(*key),
                |writer, _, value| {
                    write(writer, value);
                    Ok(())
                },
            ));
        }
    }
}

fn always(done: Result<(), Infallible>) {
    done.unwrap_or_else(|never| match never {});
}

/// What is read of any bytes is read again as it is written.
pub(crate) fn check(bytes: &[u8]) {
    if let Some(Ok(value)) = read_extended(bytes) {
        assert_eq!(read_extended(&written(&value).1), Some(Ok(value)));
    }
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(value) = read_json(text)
    {
        assert_eq!(read_extended(&written(&value).1), Some(Ok(value)));
    }
}
