//! The reason why a call failed, as it is sent.

use snakepit_proto::ErrorDetail;

#[derive(Clone, Debug, Default)]
pub struct Failure {
    /// For clients that do not read `detail`.
    pub text: String,
    pub detail: Box<ErrorDetail>,
}

impl Failure {
    pub fn new(reason: &str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self {
            text: message.clone(),
            detail: Box::new(ErrorDetail {
                reason: reason.into(),
                message,
                ..ErrorDetail::default()
            }),
        }
    }

    pub fn cancelled() -> Self {
        Self::new("cancelled", "the call was cancelled")
    }

    pub fn too_large(size: usize, limit: usize) -> Self {
        Self::new(
            "message_too_large",
            format!(
                "the result has {size} bytes, over the limit of {limit}: send less at a time, or raise \
                 max_message_size"
            ),
        )
    }
}
