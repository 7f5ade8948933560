use std::fmt;

/// What the reader of a value is told about it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rules {
    /// Nothing: what the plain rules do not carry is refused.
    Plain,
    Kinds,
}

impl Rules {
    /// Refuses, by the plain rules, a value that only extended JSON carries.
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
    /// More work than the caller's budget allows; nothing is wrong.
    OverBudget,
    /// A struct, which only Elixir can turn into something else.
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

    /// Puts the step that led here in front of the path.
    pub(super) fn under(mut self, step: impl fmt::Display) -> Self {
        if let Self::Invalid { path, .. } | Self::Struct { path, .. } = &mut self {
            path.insert_str(0, &step.to_string());
        }
        self
    }
}
