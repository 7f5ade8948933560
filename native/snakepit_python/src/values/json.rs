//! Converts between Python objects and JSON. The result is None for types that Rust does not know, which
//! `snakepit_bridge._values` converts.

use pyo3::{
    prelude::*,
    sync::critical_section::with_critical_section,
    types::{PyBool, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple},
};
use snakepit_values::{Builder, Form, MAX_DEPTH, ReadError, TAG, Tagged, Writer};
use std::ops::Range;

pub(super) fn read<'py>(py: Python<'py>, bytes: &[u8]) -> Option<Bound<'py, PyAny>> {
    let text = std::str::from_utf8(bytes).ok()?;
    snakepit_values::read(text, Form::Json, &mut Objects(py)).ok()
}

struct Objects<'py>(Python<'py>);

fn unbuildable(error: &PyErr) -> ReadError {
    ReadError::Unbuildable(error.to_string())
}

impl<'py> Builder for Objects<'py> {
    type Value = Bound<'py, PyAny>;

    fn null(&mut self) -> Self::Value {
        self.0.None().into_bound(self.0)
    }

    fn bool(&mut self, value: bool) -> Self::Value {
        PyBool::new(self.0, value).to_owned().into_any()
    }

    fn int(&mut self, value: i64) -> Self::Value {
        PyInt::new(self.0, value).into_any()
    }

    fn big(&mut self, _digits: &str) -> Result<Self::Value, ReadError> {
        Err(ReadError::TooManyDigits)
    }

    fn float(&mut self, value: f64) -> Self::Value {
        PyFloat::new(self.0, value).into_any()
    }

    fn text(&mut self, text: &str) -> Self::Value {
        PyString::new(self.0, text).into_any()
    }

    fn list(&mut self, items: &[Self::Value]) -> Result<Self::Value, ReadError> {
        let list = PyList::new(self.0, items).map_err(|error| unbuildable(&error))?;
        Ok(list.into_any())
    }

    fn map(
        &mut self,
        keys: &[Self::Value],
        values: &[Self::Value],
    ) -> Result<Self::Value, ReadError> {
        let dict = PyDict::new(self.0);
        for (key, value) in keys.iter().zip(values) {
            dict.set_item(key, value)
                .map_err(|error| unbuildable(&error))?;
        }
        if dict.len() < keys.len() {
            return Err(ReadError::DuplicateKey(String::new()));
        }
        Ok(dict.into_any())
    }

    fn tagged(&mut self, _value: Tagged<Range<usize>>) -> Result<Self::Value, ReadError> {
        Err(ReadError::Unbuildable("a value with a tag".into()))
    }
}

pub(super) fn write(value: &Bound<'_, PyAny>) -> Option<Vec<u8>> {
    let mut writer = Writer::default();
    write_value(value, &mut writer, 0).ok()?;
    Some(writer.finish().1)
}

/// A value that JSON does not carry exactly, or whose type is not known here.
struct Other;

fn write_value(value: &Bound<'_, PyAny>, out: &mut Writer<'_>, depth: usize) -> Result<(), Other> {
    if value.is_none() {
        out.null();
    } else if let Ok(text) = value.cast_exact::<PyString>() {
        // A lone surrogate cannot be encoded as UTF-8.
        out.text(&text.to_cow().map_err(|_| Other)?);
    } else if value.is_exact_instance_of::<PyInt>() {
        out.int(value.extract::<i64>().map_err(|_| Other)?);
    } else if value.is_exact_instance_of::<PyFloat>() {
        let number: f64 = value.extract().map_err(|_| Other)?;
        if !number.is_finite() {
            return Err(Other);
        }
        out.float(number);
    } else if value.is_exact_instance_of::<PyBool>() {
        out.bool(value.is_truthy().map_err(|_| Other)?);
    } else if depth == MAX_DEPTH {
        return Err(Other);
    } else if let Ok(dict) = value.cast_exact::<PyDict>() {
        return write_dict(dict, out, depth);
    } else if let Ok(list) = value.cast_exact::<PyList>() {
        return out.array(list.iter(), |out, _, item| {
            write_value(&item, out, depth + 1)
        });
    } else if let Ok(tuple) = value.cast_exact::<PyTuple>() {
        return out.array(tuple.iter(), |out, _, item| {
            write_value(&item, out, depth + 1)
        });
    } else {
        return Err(Other);
    }
    Ok(())
}

fn write_dict(dict: &Bound<'_, PyDict>, out: &mut Writer<'_>, depth: usize) -> Result<(), Other> {
    // Keys of other types may have the same text as another, and the key of tags has a meaning.
    let name = |key: &Bound<'_, PyAny>| {
        let name = key.cast_exact::<PyString>().map_err(|_| Other)?;
        let name: String = name.extract().map_err(|_| Other)?;
        if name == TAG { Err(Other) } else { Ok(name) }
    };
    out.object(&entries(dict), name, |out, _, value| {
        write_value(value, out, depth + 1)
    })
}

/// The present items of a dict. Other threads and the encoders of its values may change it as soon as any
/// Python code runs.
pub(super) fn entries<'py>(
    dict: &Bound<'py, PyDict>,
) -> Vec<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
    with_critical_section(dict, || dict.iter().collect())
}
