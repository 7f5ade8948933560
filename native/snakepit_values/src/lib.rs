//! Reads and writes JSON and extended JSON, which `guides/values.md` specifies. The values are the caller's:
//! BEAM terms at one end, Python objects at the other.
//!
//! The reader is Snakepit's own because it is the fastest on what calls usually contain: it takes 2.52 ns per byte
//! of a small call's arguments and 1.75 ns per byte of nested rows, where jiter takes 3.66 and 2.87 ns and serde_json
//! 3.90 and 3.29 ns (`guides/performance.md`; measured by `cargo bench --locked -p snakepit_values`).

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
