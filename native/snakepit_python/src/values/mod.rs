//! Converts between Python objects and the bytes that are sent (guides/values.md): common types here, the
//! others in `snakepit_bridge._values`.

mod json;

use crate::callbacks::Callbacks;
use bytes::Bytes;
use pyo3::{
    exceptions::PyValueError,
    prelude::*,
    pybacked::{PyBackedBytes, PyBackedStr},
    types::{PyBytes, PyDict, PyString},
};
use snakepit_proto::{Field, Fields, FieldsRef, copied, packed};
use snakepit_values::Kind;
use std::collections::BTreeMap;

/// From this size on Python's memory is shared until it is sent, and not copied.
const SHARED_FROM: usize = 4096;

pub(crate) fn decode_fields<'py>(
    py: Python<'py>,
    fields: FieldsRef<'_>,
    callbacks: &Callbacks,
) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    let kinds = fields.kinds.map(|kinds| &kinds[..]);
    if let Some(kinds) = kinds
        && kinds.len() != fields.values.len()
    {
        let plain = PyDict::new(py);
        for field in fields.values {
            plain.set_item(name(field)?, PyBytes::new(py, &field.value))?;
        }
        return Ok(callbacks.decode_fields(plain, kinds)?.cast_into()?);
    }
    for (index, field) in fields.values.iter().enumerate() {
        let kind = kinds.map_or(0, |kinds| kinds[index]);
        let name = name(field)?;
        dict.set_item(name, decode(py, kind, &field.value, name, callbacks)?)?;
    }
    Ok(dict)
}

fn name(field: &Field) -> PyResult<&str> {
    field.name().map_err(PyValueError::new_err)
}

/// Decodes one value, which errors call `name`.
pub(crate) fn decode<'py>(
    py: Python<'py>,
    kind: u8,
    bytes: &Bytes,
    name: &str,
    callbacks: &Callbacks,
) -> PyResult<Bound<'py, PyAny>> {
    let known = match Kind::of(kind) {
        Some(Kind::Text) => std::str::from_utf8(bytes)
            .ok()
            .map(|text| PyString::new(py, text).into_any()),
        Some(Kind::Bytes) => Some(PyBytes::new(py, bytes).into_any()),
        Some(Kind::Json) => json::read(py, bytes),
        _ => None,
    };
    match known {
        Some(value) => Ok(value),
        // It also raises the error of an invalid value.
        None => callbacks.decode(PyBytes::new(py, bytes), name, kind),
    }
}

/// Encodes a result: the items of a dict, or any other value as the field "result". Errors call the value
/// `root`.
pub(crate) fn encode_fields(
    value: &Bound<'_, PyAny>,
    root: &str,
    kinds: bool,
    callbacks: &Callbacks,
) -> PyResult<Fields> {
    let Ok(dict) = value.cast::<PyDict>() else {
        let (kind, bytes) = encode(value, kinds, || callbacks.encode_whole(value, root, kinds))?;
        return Ok(Fields::sent(
            vec![(Field::new("result", bytes), kind)],
            kinds,
        ));
    };
    if !value.is_exact_instance_of::<PyDict>() {
        // A subclass may override its items.
        return encode_all(value, root, kinds, callbacks);
    }
    let entries = json::entries(dict);
    let mut found = Vec::with_capacity(entries.len());
    for (key, item) in entries {
        let name = key
            .cast_exact::<PyString>()
            .ok()
            .and_then(|name| name.extract::<String>().ok());
        let Some(name) = name else {
            return encode_all(value, root, kinds, callbacks);
        };
        let (kind, bytes) = encode(&item, kinds, || callbacks.encode(&item, root, &key, kinds))?;
        found.push((Field::new(name, bytes), kind));
    }
    Ok(Fields::sent(found, kinds))
}

/// Encodes a dict whose items, or the texts of their keys, only Python knows.
fn encode_all(
    value: &Bound<'_, PyAny>,
    root: &str,
    kinds: bool,
    callbacks: &Callbacks,
) -> PyResult<Fields> {
    let encoded = callbacks.encode_fields(value, root, kinds)?;
    let (fields, kinds): (BTreeMap<String, PyBackedBytes>, Option<PyBackedBytes>) =
        encoded.extract()?;
    let fields = fields
        .into_iter()
        .map(|(name, bytes)| Field::new(name, shared(bytes)));
    Ok(Fields {
        values: fields.collect(),
        kinds: kinds.map(shared),
    })
}

fn encode<'py>(
    value: &Bound<'py, PyAny>,
    kinds: bool,
    other: impl FnOnce() -> PyResult<Bound<'py, PyAny>>,
) -> PyResult<(u8, Bytes)> {
    if kinds
        && value.is_exact_instance_of::<PyString>()
        && let Ok(text) = value.extract::<PyBackedStr>()
    {
        return Ok((Kind::Text as u8, shared(text)));
    }
    if value.is_exact_instance_of::<PyBytes>() {
        return Ok((Kind::Bytes as u8, shared(value.extract::<PyBackedBytes>()?)));
    }
    if let Some(json) = json::write(value) {
        return Ok((Kind::Json as u8, packed(json)));
    }
    let (kind, bytes): (u8, PyBackedBytes) = other()?.extract()?;
    Ok((kind, shared(bytes)))
}

fn shared(memory: impl AsRef<[u8]> + Send + 'static) -> Bytes {
    if memory.as_ref().len() < SHARED_FROM {
        copied(memory.as_ref())
    } else {
        Bytes::from_owner(memory)
    }
}
