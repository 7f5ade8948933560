use crate::format::{MAX_DEPTH, MAX_DIGITS};

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error("is not valid JSON: {what} at byte {at}")]
    Syntax { what: &'static str, at: usize },
    #[error("is nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
    #[error("has an integer of more than {MAX_DIGITS} digits")]
    TooManyDigits,
    #[error("has the key {0:?} twice")]
    DuplicateKey(String),
    #[error("cannot be built: {0}")]
    Unbuildable(String),
}
