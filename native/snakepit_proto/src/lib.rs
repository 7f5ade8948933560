//! The wire contract of `proto/snakepit.proto`, as prost types and a tonic client, and the shape of a
//! call, which several of its messages share.

mod call_events;
mod call_header;
mod fields;
mod handler_exit;
mod messages;
mod parts;
mod standard;

pub use call_events::{TAKES_PROGRESS, TAKES_TELEMETRY};
pub use call_header::{CallHeader, SessionKey};
pub use fields::{Fields, FieldsRef, copied, packed};
pub use messages::*;
pub use parts::CarriesValues;
pub use standard::{DESCRIPTORS, health, reflection};
