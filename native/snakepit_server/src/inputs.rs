//! The items of one input stream, between the network and the command that reads them.

use crate::demand::Demand;
use bytes::Bytes;
use snakepit_proto::{ErrorDetail, InputArgument, InputDemand, InputItems};
use std::collections::VecDeque;
use tonic::Status;

/// How far the client may run ahead if it names no bounds.
const MAX_ITEMS: u32 = 64;
const MAX_BYTES: u64 = 256 * 1024;
/// How far at most, whatever it names.
const MOST_ITEMS: u32 = 64 * 1024;
const MOST_BYTES: u64 = 16 * 1024 * 1024;

/// Called once something is there. The event loop must not block.
pub type Wake = Box<dyn FnOnce() + Send>;

/// Why nothing more comes from the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The call was cancelled.
    Cancelled,
    /// The command has ended.
    Finished,
    /// The client has ended its side.
    ByClient,
}

/// What a command reads from an input.
#[derive(Debug)]
pub enum Read {
    /// Some items, each with its kind.
    Items(Vec<(u8, Bytes)>),
    End,
    /// What produces the items has failed.
    Failed(Box<ErrorDetail>),
    Ended(Ended),
}

pub(crate) struct Input {
    pub(crate) id: u32,
    pub(crate) name: String,
    pub(crate) on_ready: Option<Wake>,
    max_items: u32,
    max_bytes: u64,
    items: VecDeque<(u8, Bytes)>,
    /// What the client may still send.
    demand: Demand,
    /// The command reads these.
    handed: snakepit_proto::Demand,
    /// It has read these, for which the client has not been asked again.
    read: snakepit_proto::Demand,
    state: InputState,
}

enum InputState {
    Open,
    /// There are no further items than those that wait.
    Over(Option<Box<ErrorDetail>>),
    /// The command reads no more.
    Stopped,
}

impl Input {
    pub(crate) fn new(argument: InputArgument) -> Self {
        Self {
            id: argument.input_id,
            name: argument.name,
            on_ready: None,
            max_items: match argument.max_items {
                0 => MAX_ITEMS,
                most => most.min(MOST_ITEMS),
            },
            max_bytes: match argument.max_bytes {
                0 => MAX_BYTES,
                most => most.min(MOST_BYTES),
            },
            items: VecDeque::new(),
            demand: Demand::default(),
            handed: snakepit_proto::Demand::default(),
            read: snakepit_proto::Demand::default(),
            state: InputState::Open,
        }
    }

    /// The first demand.
    pub(crate) fn start(&mut self) -> Option<InputDemand> {
        let all = snakepit_proto::Demand {
            count: self.max_items,
            bytes: self.max_bytes,
        };
        self.ask_for(all)
    }

    /// What was handed out before counts as read. Returns a demand once that is half of what the client may be ahead:
    /// a message for each item would cost more than the item.
    pub(crate) fn grant(&mut self) -> Option<InputDemand> {
        let handed = std::mem::take(&mut self.handed);
        self.read.count += handed.count;
        self.read.bytes += handed.bytes;
        let enough = self.read.count >= self.half_of_items()
            || self.read.bytes >= (self.max_bytes / 2).max(1);
        if !enough {
            return None;
        }
        let read = std::mem::take(&mut self.read);
        self.ask_for(read)
    }

    fn ask_for(&mut self, more: snakepit_proto::Demand) -> Option<InputDemand> {
        if !matches!(self.state, InputState::Open) {
            return None;
        }
        self.demand.add(&more);
        Some(InputDemand {
            input_id: self.id,
            demand: Some(more),
        })
    }

    fn half_of_items(&self) -> u32 {
        (self.max_items / 2).max(1)
    }

    pub(crate) fn is_readable(&self, ended: Option<Ended>) -> bool {
        !self.items.is_empty() || !matches!(self.state, InputState::Open) || ended.is_some()
    }

    /// Hands out items, some of them at most, so that others arrive while the command reads these.
    pub(crate) fn read(&mut self, ended: Option<Ended>) -> Option<Read> {
        if ended == Some(Ended::Cancelled) {
            return Some(Read::Ended(Ended::Cancelled));
        }
        if !self.items.is_empty() {
            return Some(Read::Items(self.hand_out()));
        }
        match &mut self.state {
            InputState::Open => ended.map(Read::Ended),
            InputState::Over(error) => Some(error.take().map_or(Read::End, Read::Failed)),
            InputState::Stopped => Some(Read::End),
        }
    }

    fn hand_out(&mut self) -> Vec<(u8, Bytes)> {
        let half = self.half_of_items() as usize;
        let items: Vec<_> = self.items.drain(..half.min(self.items.len())).collect();
        let bytes: usize = items.iter().map(|(_, value)| value.len()).sum();
        self.handed = snakepit_proto::Demand {
            count: u32::try_from(items.len()).unwrap_or(u32::MAX),
            bytes: bytes as u64,
        };
        items
    }

    /// The client has sent items.
    pub(crate) fn add(&mut self, items: InputItems) -> Result<(), Status> {
        let (values, kinds) = (items.values, items.kinds);
        if values.len() != kinds.len() {
            return Err(Status::invalid_argument(format!(
                "{} items came with {} kinds",
                values.len(),
                kinds.len()
            )));
        }
        for (value, kind) in values.into_iter().zip(kinds) {
            if !self.demand.is_open() {
                return Err(Status::invalid_argument(format!(
                    "the input {} got more items than it has asked for",
                    self.id
                )));
            }
            self.demand.spend(value.len());
            if matches!(self.state, InputState::Open) {
                self.items.push_back((kind, value));
            }
        }
        Ok(())
    }

    /// The client sends no further items.
    pub(crate) fn end(&mut self, error: Option<Box<ErrorDetail>>) {
        if matches!(self.state, InputState::Open) {
            self.state = InputState::Over(error);
        }
    }

    /// The command reads no further items. Returns whether the client must be told.
    pub(crate) fn stop(&mut self) -> bool {
        self.items.clear();
        let was_open = matches!(self.state, InputState::Open);
        self.state = InputState::Stopped;
        was_open
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    fn input(max_items: u32, max_bytes: u64) -> Input {
        let mut input = Input::new(InputArgument {
            name: "rows".into(),
            input_id: 1,
            max_items,
            max_bytes,
        });
        input.start();
        input
    }

    fn send(input: &mut Input, count: usize) -> Result<(), Status> {
        input.add(InputItems {
            input_id: 1,
            values: vec![Bytes::from_static(b"7"); count],
            kinds: vec![3; count].into(),
        })
    }

    fn count(read: Option<Read>) -> usize {
        match read {
            Some(Read::Items(items)) => items.len(),
            other => panic!("no items, but {other:?}"),
        }
    }

    #[test]
    fn a_client_gets_the_bounds_that_it_names_up_to_a_limit_or_the_usual_ones() {
        for (given, expected) in [
            ((0, 0), (64, 262_144)),
            ((3, 5), (3, 5)),
            ((u32::MAX, u64::MAX), (65_536, 16_777_216)),
        ] {
            let demand = input(given.0, given.1).start().unwrap().demand.unwrap();
            assert_eq!((demand.count, demand.bytes), expected);
        }
    }

    #[test]
    fn items_count_as_read_when_the_next_ones_are_taken() {
        let mut input = input(4, 1000);
        send(&mut input, 4).unwrap();
        assert!(send(&mut input, 1).is_err());
        assert!(input.grant().is_none());
        assert_eq!(count(input.read(None)), 2);
        let more = input.grant().unwrap().demand.unwrap();
        assert_eq!((more.count, more.bytes), (2, 2));
        send(&mut input, 2).unwrap();
        assert!(send(&mut input, 1).is_err());
    }

    #[test]
    fn an_item_larger_than_the_bound_comes_alone() {
        let mut input = input(4, 2);
        send(&mut input, 2).unwrap();
        assert!(send(&mut input, 1).is_err());
        assert_eq!(count(input.read(None)), 2);
        assert!(input.grant().is_some());
        let large = InputItems {
            input_id: 1,
            values: vec![vec![0; 100].into()],
            kinds: vec![2].into(),
        };
        input.add(large).unwrap();
        assert!(send(&mut input, 1).is_err());
        assert_eq!(count(input.read(None)), 1);
        assert_eq!(input.grant().unwrap().demand.unwrap().bytes, 100);
        send(&mut input, 1).unwrap();
    }

    #[test]
    fn the_end_comes_after_all_items_and_only_once_as_a_failure() {
        let mut input = input(2, 1000);
        send(&mut input, 2).unwrap();
        input.end(Some(Box::default()));
        assert_eq!(count(input.read(None)), 1);
        assert_eq!(count(input.read(Some(Ended::ByClient))), 1);
        assert!(matches!(input.read(None), Some(Read::Failed(_))));
        assert!(matches!(input.read(None), Some(Read::End)));
        assert!(input.grant().is_none());
    }

    #[test]
    fn a_stopped_input_takes_no_items_and_its_client_is_told_once() {
        let mut input = input(2, 1000);
        assert!(input.read(None).is_none());
        assert!(!input.is_readable(None));
        assert!(input.stop());
        assert!(!input.stop());
        send(&mut input, 2).unwrap();
        assert!(matches!(input.read(None), Some(Read::End)));
    }

    #[test]
    fn a_cancelled_call_reads_no_items() {
        let mut input = input(2, 1000);
        send(&mut input, 1).unwrap();
        let read = input.read(Some(Ended::Cancelled));
        assert!(matches!(read, Some(Read::Ended(Ended::Cancelled))));
    }

    #[test]
    fn an_input_that_its_client_leaves_open_ends_with_the_clients_side() {
        let read = input(2, 1000).read(Some(Ended::ByClient));
        assert!(matches!(read, Some(Read::Ended(Ended::ByClient))));
    }
}
