//! JSON and extended JSON as `guides/values.md` has them, read into and written from values of any
//! kind: BEAM terms at one end, Python objects at the other.

mod dtype;
mod error;
mod format;
mod read;
mod text;
mod write;

pub use dtype::Dtype;
pub use error::ReadError;
pub use format::{ALIGNMENT, Kind, MARK, MAX_DEPTH, MAX_DIGITS};
pub use read::{Builder, Form, read, split_tail};
pub use write::Writer;
