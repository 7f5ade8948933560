//! Remembers how the handlers of recently cancelled calls ended.

use parking_lot::Mutex;
use snakepit_proto::HandlerExit;
use std::collections::VecDeque;

/// The number of calls that are remembered.
const KEPT: usize = 1024;

#[derive(Default)]
pub struct ExitLog(Mutex<VecDeque<(u64, HandlerExit)>>);

impl ExitLog {
    pub fn add(&self, call_id: u64, exit: HandlerExit) {
        let mut exits = self.0.lock();
        if exits.len() == KEPT {
            exits.pop_front();
        }
        exits.push_back((call_id, exit));
    }

    /// The exit of the latest call with this id.
    pub fn find(&self, call_id: u64) -> HandlerExit {
        let exits = self.0.lock();
        let found = exits.iter().rev().find(|(id, _)| *id == call_id);
        found.map_or(HandlerExit::Unknown, |(_, exit)| *exit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_exits_are_remembered() {
        let exits = ExitLog::default();
        exits.add(0, HandlerExit::Closed);
        for id in 1..=KEPT as u64 {
            exits.add(id, HandlerExit::Closed);
        }
        exits.add(7, HandlerExit::Stopped);
        assert_eq!(exits.find(0), HandlerExit::Unknown);
        assert_eq!(exits.find(7), HandlerExit::Stopped);
        assert_eq!(exits.find(KEPT as u64), HandlerExit::Closed);
    }
}
