use std::fmt;

/// The rules by which a value is encoded.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rules {
    /// The plain rules. No kinds are sent, and a value that the rules do not support is refused.
    Plain,
    /// The kind of each value is sent with it.
    Kinds,
}

impl Rules {
    /// Refuses, by the plain rules, a value that only extended JSON represents.
    pub(super) fn check_extended(self, what: &str) -> Result<(), EncodeError> {
        if self == Self::Plain {
            return Err(EncodeError::invalid(format!(
                "is {what}, which the plain rules support only as an argument of its own"
            )));
        }
        Ok(())
    }
}

#[derive(Debug)]
pub(crate) enum EncodeError {
    /// The value is valid, but more work than the budget allows.
    OverBudget,
    /// A struct that only Elixir can convert, by `Snakepit.Encoder`.
    Struct {
        path: String,
        name: String,
    },
    Invalid {
        path: String,
        message: String,
    },
}

impl EncodeError {
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::Invalid {
            path: String::new(),
            message: message.into(),
        }
    }

    /// Prepends a step to the path.
    pub(crate) fn under(mut self, step: impl fmt::Display) -> Self {
        if let Self::Invalid { path, .. } | Self::Struct { path, .. } = &mut self {
            path.insert_str(0, &step.to_string());
        }
        self
    }
}
