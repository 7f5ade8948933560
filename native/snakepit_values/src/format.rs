//! What readers and writers of values share: the limits, the tag, and the kinds of fields.

/// The depth to which arrays and objects may be nested.
pub const MAX_DEPTH: usize = 128;
/// Converting an integer takes time that grows with the square of its length.
pub const MAX_DIGITS: usize = 100_000;
/// The key of an object that represents a value that JSON cannot.
pub const TAG: &str = "$snakepit";
/// The offsets of the tail, and of the tensors and tables in it, are multiples of this.
pub const ALIGNMENT: usize = 64;

/// How a field's value was encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Plain = 0,
    Text = 1,
    Bytes = 2,
    Json = 3,
    Extended = 4,
}

impl Kind {
    pub fn of(byte: u8) -> Option<Self> {
        [
            Self::Plain,
            Self::Text,
            Self::Bytes,
            Self::Json,
            Self::Extended,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == byte)
    }
}
