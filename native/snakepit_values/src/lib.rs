//! JSON and extended JSON as `guides/values.md` has them, read into and written from values of any
//! kind: BEAM terms at one end, Python objects at the other.

mod dtype;
mod error;
mod format;
mod number;
mod read;
mod tagged;
mod text;
mod tokenizer;
mod write;

pub use dtype::Dtype;
pub use error::ReadError;
pub use format::{ALIGNMENT, Kind, MAX_DEPTH, MAX_DIGITS, TAG};
pub use read::{Builder, read, split_tail};
pub use tagged::Tagged;
pub use tokenizer::Form;
pub use write::Writer;
