//! The commands of a pool: their numbers, and what they take.

use super::types::{BatchCommand, CommandId};
use parking_lot::RwLock;
use snakepit_wire::{moving_mean, nanos};
use std::{collections::HashMap, time::Duration};

/// Callers name commands: further ones share a number, and so do those with longer names.
const MAX_COMMANDS: usize = 1000;
const MAX_NAME: usize = 256;

/// Of how many calls the usual time is the mean.
const USUAL_OF: u64 = 256;

/// A call that takes longer, in nanoseconds, counts as this much of a command's usual time: calls behind it are recalled
/// by then.
const RECALLED_AFTER: u64 = 20_000_000;

/// An hour, in nanoseconds. A command that has never ended is expected to take it, and no command to take more.
const LONGEST: u64 = 3_600_000_000_000;

#[derive(Default)]
pub(super) struct Commands(RwLock<HashMap<Box<str>, Command>>);

#[derive(Clone, Copy)]
struct Command {
    id: CommandId,
    /// How many of its calls are a full batch, as a worker has announced it last; 1 if they do not gather.
    batch_size: usize,
}

impl Commands {
    pub(super) fn id(&self, name: &str) -> CommandId {
        let is_other = {
            let all = self.0.read();
            if let Some(known) = all.get(name) {
                return known.id;
            }
            all.len() >= MAX_COMMANDS || name.len() > MAX_NAME
        };
        if is_other {
            CommandId::OTHERS
        } else {
            self.add(name, |_| {})
        }
    }

    pub(super) fn batch_size(&self, name: &str) -> usize {
        let known = self.0.read().get(name).copied();
        known.map_or(1, |known| known.batch_size)
    }

    /// Adds a worker's commands whose calls gather. Returns each with the size of its batches.
    pub(super) fn announce(&self, batches: Vec<BatchCommand>) -> Vec<(CommandId, usize)> {
        let announced = batches.into_iter().map(|BatchCommand { name, size }| {
            let size = size.max(1);
            (self.add(&name, |command| command.batch_size = size), size)
        });
        announced.collect()
    }

    fn add(&self, name: &str, change: impl FnOnce(&mut Command)) -> CommandId {
        let mut all = self.0.write();
        let id = CommandId(all.len() + 1);
        let new = Command { id, batch_size: 1 };
        let command = all.entry(name.into()).or_insert(new);
        change(command);
        command.id
    }
}

/// What the commands of a pool take, in nanoseconds, by their numbers.
#[derive(Default)]
pub(super) struct CommandTimes(Vec<Option<Means>>);

/// Moving means of a command's times.
#[derive(Clone, Copy)]
struct Means {
    /// Of the last few calls.
    recent: u64,
    /// Of some hundreds: a long call among many short ones counts for as long as it would delay these.
    usual: u64,
    count: u64,
}

impl CommandTimes {
    /// What the next call of the command may take.
    pub(super) fn expected(&self, command: CommandId) -> u64 {
        let means = self.0.get(command.0).copied().flatten();
        means.map_or(LONGEST, |means| means.recent.max(means.usual))
    }

    pub(super) fn add(&mut self, command: CommandId, time: Duration) {
        let time = nanos(time).min(LONGEST);
        if self.0.len() <= command.0 {
            self.0.resize(command.0 + 1, None);
        }
        let means = &mut self.0[command.0];
        *means = Some(means.map_or_else(|| Means::of(time), |means| means.add(time)));
    }
}

impl Means {
    fn of(time: u64) -> Self {
        Self {
            recent: time,
            usual: time.min(RECALLED_AFTER),
            count: 1,
        }
    }

    fn add(self, time: u64) -> Self {
        let count = (self.count + 1).min(USUAL_OF);
        Self {
            recent: moving_mean(self.recent, time),
            usual: self.usual - self.usual / count + time.min(RECALLED_AFTER) / count,
            count,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(name: &str, size: usize) -> BatchCommand {
        let name = name.into();
        BatchCommand { name, size }
    }

    #[test]
    fn a_command_keeps_its_number_and_the_size_that_was_announced_last() {
        let commands = Commands::default();
        let a = commands.id("a");
        assert_eq!(commands.batch_size("a"), 1);
        let announced = commands.announce(vec![batch("a", 3), batch("b", 0)]);
        let b = commands.id("b");
        assert_eq!(announced, [(a, 3), (b, 1)]);
        assert_eq!(commands.announce(vec![batch("b", 5)]), [(b, 5)]);
        assert_eq!(
            ["a", "b", "c"].map(|name| commands.batch_size(name)),
            [3, 5, 1]
        );
        assert!(a != b && commands.id("a") == a);
    }

    #[test]
    fn the_commands_that_callers_name_are_bounded_and_those_that_gather_are_not() {
        let commands = Commands::default();
        for number in 0..MAX_COMMANDS {
            assert_ne!(commands.id(&number.to_string()), CommandId::OTHERS);
        }
        assert_eq!(commands.id("another"), CommandId::OTHERS);
        let announced = commands.announce(vec![batch("another", 3)]);
        assert_eq!(announced, [(commands.id("another"), 3)]);
        assert_ne!(announced[0].0, CommandId::OTHERS);
        assert_eq!(Commands::default().id(&"x".repeat(257)), CommandId::OTHERS);
        assert_ne!(commands.id("0"), CommandId::OTHERS);
    }

    fn after(times: impl IntoIterator<Item = u64>) -> u64 {
        let mut all = CommandTimes::default();
        let command = CommandId(2);
        for time in times {
            all.add(command, Duration::from_micros(time));
        }
        all.expected(command)
    }

    fn repeat(time: u64, count: usize) -> impl Iterator<Item = u64> {
        std::iter::repeat_n(time, count)
    }

    #[test]
    fn a_command_that_has_never_ended_is_a_long_one() {
        assert_eq!(after([]), LONGEST);
        assert_eq!(after([10]), 10_000);
        assert_eq!(after([u64::MAX]), LONGEST);
    }

    #[test]
    fn one_long_call_of_many_counts_for_hundreds_of_calls_and_an_import_at_first_for_some_tens() {
        let one_of_many = repeat(10, 300).chain([20_000]).chain(repeat(10, 100));
        assert!(after(one_of_many) > 50_000);
        let import_first = [1_000_000].into_iter().chain(repeat(10, 100));
        assert!(after(import_first) < 500_000);
    }
}
