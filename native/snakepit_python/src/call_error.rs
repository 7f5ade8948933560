//! Reads a Python `CallError` as a failure.

use pyo3::{FromPyObject, prelude::*};
use snakepit_proto::{ErrorDetail, ErrorFrame};
use snakepit_server::Failure;

#[derive(FromPyObject)]
struct CallError {
    reason: String,
    #[pyo3(attribute("type"))]
    kind: String,
    message: String,
    traceback: String,
    frames: Vec<(String, i32, String, String)>,
    notes: Vec<String>,
    code: String,
    data: Vec<u8>,
}

pub(crate) fn read(error: &Bound<'_, PyAny>) -> Failure {
    let text = error.str().map(|text| text.to_string()).unwrap_or_default();
    match detail(error) {
        Ok(detail) => Failure {
            text,
            detail: Box::new(detail),
        },
        Err(unknown) => Failure::new("python_error", format!("{text} ({unknown})")),
    }
}

fn detail(error: &Bound<'_, PyAny>) -> PyResult<ErrorDetail> {
    let cause = error.getattr("cause")?;
    let error: CallError = error.extract()?;
    let frames = error.frames.into_iter();
    Ok(ErrorDetail {
        reason: error.reason,
        r#type: error.kind,
        message: error.message,
        traceback: error.traceback,
        frames: frames
            .map(|(file, line, function, source)| ErrorFrame {
                file,
                line,
                function,
                source,
            })
            .collect(),
        notes: error.notes,
        cause: if cause.is_none() {
            None
        } else {
            Some(Box::new(detail(&cause)?))
        },
        code: error.code,
        data: error.data.into(),
    })
}
