//! How the handler of a cancelled call exited. It is sent as an enum and, for peers that do not know the
//! enum, as text.

use crate::messages::{HandlerExit, HealthResponse, ReplyFrame};

impl HandlerExit {
    /// Empty if it is not known.
    pub fn text(self) -> &'static str {
        match self {
            Self::Unknown => "",
            Self::Stopped => "stopped",
            Self::Closed => "closed",
        }
    }

    fn from_text(text: &str) -> Self {
        let known = [Self::Stopped, Self::Closed];
        let found = known.into_iter().find(|exit| exit.text() == text);
        found.unwrap_or(Self::Unknown)
    }

    /// The text counts if the server does not send the enum.
    fn read(self, text: &str) -> Self {
        match self {
            Self::Unknown => Self::from_text(text),
            known => known,
        }
    }
}

impl ReplyFrame {
    /// How the handler exited, if the call was cancelled.
    pub fn exit(&self) -> HandlerExit {
        self.handler_exit().read(&self.ended)
    }

    pub fn set_exit(&mut self, exit: HandlerExit) {
        self.set_handler_exit(exit);
        self.ended = exit.text().into();
    }
}

impl HealthResponse {
    /// How the handler of the awaited call exited, if that was cancelled.
    pub fn exit(&self) -> HandlerExit {
        self.await_exit().read(&self.await_ended)
    }

    pub fn set_exit(&mut self, exit: HandlerExit) {
        self.set_await_exit(exit);
        self.await_ended = exit.text().into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_is_sent_as_an_enum_and_as_text() {
        let mut reply = ReplyFrame::default();
        let mut health = HealthResponse::default();
        for exit in [
            HandlerExit::Stopped,
            HandlerExit::Closed,
            HandlerExit::Unknown,
        ] {
            reply.set_exit(exit);
            health.set_exit(exit);
            assert_eq!((reply.exit(), health.exit()), (exit, exit));
            assert_eq!(
                (reply.ended.as_str(), reply.handler_exit()),
                (exit.text(), exit)
            );
            assert_eq!(health.await_ended, exit.text());
        }
    }

    #[test]
    fn the_text_of_a_server_without_the_enum_is_understood_and_other_text_is_not() {
        for (text, exit) in [
            ("stopped", HandlerExit::Stopped),
            ("closed", HandlerExit::Closed),
            ("", HandlerExit::Unknown),
            ("vanished", HandlerExit::Unknown),
        ] {
            let reply = ReplyFrame {
                ended: text.into(),
                ..ReplyFrame::default()
            };
            let health = HealthResponse {
                await_ended: text.into(),
                ..HealthResponse::default()
            };
            assert_eq!((reply.exit(), health.exit()), (exit, exit));
        }
    }

    #[test]
    fn an_exit_that_only_a_newer_server_knows_is_read_from_its_text() {
        let reply = ReplyFrame {
            handler_exit: 99,
            ended: "closed".into(),
            ..ReplyFrame::default()
        };
        assert_eq!(reply.exit(), HandlerExit::Closed);
    }
}
