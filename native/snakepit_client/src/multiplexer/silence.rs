//! How long the server of a connection has been silent. It does no I/O and has no timer.

use crate::keepalive::Keepalive;
use std::{sync::Arc, time::Instant};

pub(super) struct Silence {
    keepalive: Arc<Keepalive>,
    /// How often the connection had been read, and when that number last changed.
    reads: u64,
    heard: Instant,
    /// When the server was asked, if it has been silent since.
    pinged: Option<Instant>,
}

/// What is to be done about a silent server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Nothing,
    Ping,
    /// It has not answered in time.
    Lost,
}

impl Silence {
    pub(super) fn new(keepalive: Arc<Keepalive>) -> Self {
        Self {
            keepalive,
            reads: 0,
            heard: Instant::now(),
            pinged: None,
        }
    }

    /// Whatever has been read, also a part of a large reply, shows that the server is there.
    pub(super) fn heard(&mut self, reads: u64, now: Instant) {
        if self.reads != reads {
            self.reads = reads;
            self.heard = now;
            self.pinged = None;
        }
    }

    /// `idle`: whether no call is in flight. Then the server is not asked, but its answer is awaited.
    pub(super) fn due(&mut self, idle: bool, now: Instant) -> Step {
        match self.next(idle) {
            Some(next) if next <= now => {}
            _ => return Step::Nothing,
        }
        if self.pinged.is_some() {
            return Step::Lost;
        }
        self.pinged = Some(now);
        Step::Ping
    }

    /// When `due` is to be asked.
    pub(super) fn next(&self, idle: bool) -> Option<Instant> {
        match self.pinged {
            Some(pinged) => Some(pinged + self.keepalive.timeout()),
            None => (!idle).then(|| self.heard + self.keepalive.interval()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const INTERVAL: Duration = Duration::from_secs(20);
    const TIMEOUT: Duration = Duration::from_secs(10);

    fn silence() -> (Silence, Instant) {
        let silence = Silence::new(Keepalive::new(INTERVAL, TIMEOUT));
        let began = silence.heard;
        (silence, began)
    }

    #[test]
    fn a_silent_server_is_asked_after_the_interval_and_lost_after_the_timeout() {
        let (mut silence, began) = silence();
        let asked = began + INTERVAL;
        assert_eq!(silence.next(false), Some(asked));
        assert_eq!(silence.due(false, began), Step::Nothing);
        assert_eq!(silence.due(false, asked), Step::Ping);
        assert_eq!(silence.next(false), Some(asked + TIMEOUT));
        assert_eq!(silence.due(false, asked), Step::Nothing);
        assert_eq!(silence.due(false, asked + TIMEOUT), Step::Lost);
    }

    #[test]
    fn any_read_shows_that_the_server_is_there() {
        let (mut silence, began) = silence();
        let asked = began + INTERVAL;
        silence.due(false, asked);
        silence.heard(1, asked + TIMEOUT);
        assert_eq!(silence.due(false, asked + TIMEOUT), Step::Nothing);
        silence.heard(1, asked + INTERVAL);
        let next = asked + TIMEOUT + INTERVAL;
        assert_eq!(silence.next(false), Some(next));
        assert_eq!(silence.due(false, next), Step::Ping);
    }

    #[test]
    fn without_a_call_the_server_is_not_asked_but_its_answer_is_awaited() {
        let (mut silence, began) = silence();
        let later = began + 10 * INTERVAL;
        assert_eq!(silence.next(true), None);
        assert_eq!(silence.due(true, later), Step::Nothing);
        assert_eq!(silence.due(false, later), Step::Ping);
        assert_eq!(silence.next(true), Some(later + TIMEOUT));
        assert_eq!(silence.due(true, later + TIMEOUT), Step::Lost);
    }
}
