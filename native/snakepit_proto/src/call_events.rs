//! What a command reports about its call while that runs.

use crate::messages::{CallEvent, Progress, TelemetryEvent, call_event::Event};
use bytes::Bytes;

/// The events that a client may take, of which `takes_events` is the sum.
pub const TAKES_TELEMETRY: u32 = 1;
pub const TAKES_PROGRESS: u32 = 2;

impl CallEvent {
    pub fn progress(fraction: f64, message: String) -> Self {
        let event = Event::Progress(Progress { fraction, message });
        Self { event: Some(event) }
    }

    pub fn telemetry(name: String, measurements: Bytes, metadata: Bytes) -> Self {
        let event = Event::Telemetry(TelemetryEvent {
            name,
            measurements,
            metadata,
        });
        Self { event: Some(event) }
    }

    /// Whether it may be dropped: of the progress the last report must arrive.
    pub fn is_telemetry(&self) -> bool {
        matches!(self.event, Some(Event::Telemetry(_)))
    }
}
