//! How the handler of a cancelled call ended. It is sent as an enum and, for peers that do not know
//! that, in words.

use crate::messages::{HandlerExit, HealthResponse, ReplyFrame};

impl HandlerExit {
    /// Empty: not known.
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

    /// What the enum says, or the words of a server that does not send it.
    fn read(self, text: &str) -> Self {
        match self {
            Self::Unknown => Self::from_text(text),
            known => known,
        }
    }
}

impl ReplyFrame {
    /// How the handler ended, if the call was cancelled.
    pub fn exit(&self) -> HandlerExit {
        self.handler_exit().read(&self.ended)
    }

    pub fn set_exit(&mut self, exit: HandlerExit) {
        self.set_handler_exit(exit);
        self.ended = exit.text().into();
    }
}

impl HealthResponse {
    /// How the handler of the awaited call ended, if that was cancelled.
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
    fn an_exit_is_sent_in_both_ways() {
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
    fn a_server_that_sends_words_alone_is_understood_and_new_words_are_not_known() {
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
    fn an_exit_that_a_newer_server_knows_reads_as_its_words() {
        let reply = ReplyFrame {
            handler_exit: 99,
            ended: "closed".into(),
            ..ReplyFrame::default()
        };
        assert_eq!(reply.exit(), HandlerExit::Closed);
    }
}
