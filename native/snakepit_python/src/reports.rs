//! Sends what a command reports while it runs, for the context of its call.

use crate::call::Call;
use bytes::Bytes;
use pyo3::prelude::*;
use snakepit_proto::CallEvent;
use std::sync::{Arc, Weak};

/// The context of a call has it, and the call has the context: this does not keep the call alive.
#[pyclass(frozen, module = "snakepit_bridge._native")]
pub(crate) struct Reports(Weak<Call>);

impl Reports {
    /// `None` if the client takes no events.
    pub(crate) fn of(call: &Arc<Call>) -> Option<Self> {
        (call.header.takes_events() != 0).then(|| Self(Arc::downgrade(call)))
    }

    fn send(&self, py: Python<'_>, event: CallEvent) -> bool {
        let call = self.0.upgrade();
        py.detach(|| call.is_some_and(|call| call.responder.report(event)))
    }
}

#[pymethods]
impl Reports {
    fn progress(&self, py: Python<'_>, fraction: f64, message: String) {
        self.send(py, CallEvent::progress(fraction, message));
    }

    /// False if the event was dropped.
    fn telemetry(
        &self,
        py: Python<'_>,
        name: String,
        measurements: Vec<u8>,
        metadata: Vec<u8>,
    ) -> bool {
        let (measurements, metadata) = (Bytes::from(measurements), Bytes::from(metadata));
        self.send(py, CallEvent::telemetry(name, measurements, metadata))
    }
}
