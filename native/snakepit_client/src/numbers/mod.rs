//! What the calls of a pool took and how they ended, for `Snakepit.stats/1`.
//!
//! Times are kept for the last minute, in slots of five seconds. A slot is used again when a call or a question
//! finds it out of date: no timer wakes a pool that is idle.

mod histogram;

pub use histogram::Percentiles;

use histogram::Histogram;
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

const SLOT: Duration = Duration::from_secs(5);
/// One more than make up a minute: the present one is not over.
const SLOTS: u64 = 13;
/// Callers name commands: the calls of further ones are counted together.
const MAX_COMMANDS: usize = 1000;
/// How many sizes of batches are kept of a command.
const MAX_SIZES: usize = 1000;
/// The name under which the calls of further commands are counted.
const OTHERS: &str = "(others)";

/// A call that has ended, with a reason of type `R` if it failed.
#[derive(Clone, Copy, Debug)]
pub struct Ended<'a, R> {
    pub command: &'a str,
    pub error: Option<R>,
    /// The wait for a worker, and the time from there on, in microseconds. `None` for a call that got no worker.
    pub times: Option<(u64, u64)>,
    /// How many calls its batch had; 0 if it was in none.
    pub batch_size: u32,
}

/// A tool of a caller that has ended.
#[derive(Clone, Copy, Debug)]
pub struct EndedAsk<'a> {
    pub command: &'a str,
    pub has_failed: bool,
    /// In microseconds.
    pub time: u64,
}

/// The numbers of one command since the start of the pool.
#[derive(Clone, Debug)]
pub struct CommandNumbers<R> {
    pub calls: u64,
    /// How often it has asked its callers' tools, and how many of these have failed.
    pub asks: u64,
    pub failed_asks: u64,
    /// By reason. There are few reasons.
    pub errors: Vec<(R, u64)>,
    /// How many calls were in batches of each size.
    pub batched: BTreeMap<u32, u64>,
}

/// The numbers of a pool.
#[derive(Debug)]
pub struct Summary<R> {
    pub commands: Vec<(String, CommandNumbers<R>)>,
    /// How many calls ended in the last minute, of those that got a worker, and their times in microseconds.
    pub calls: u64,
    pub queue: Percentiles,
    pub execution: Percentiles,
    /// How long the tools of callers took, in the last minute.
    pub asks: Percentiles,
}

pub struct Numbers<R> {
    started: Instant,
    state: Mutex<State<R>>,
}

struct State<R> {
    slots: Vec<Slot>,
    commands: Vec<(String, CommandNumbers<R>)>,
    indexes: HashMap<Box<str>, usize>,
    /// The index of the command that was counted last, which is the next one's as a rule.
    last: usize,
}

#[derive(Default)]
struct Slot {
    /// Counts the slots since the start.
    number: u64,
    queue: Histogram,
    execution: Histogram,
    asks: Histogram,
}

impl<R> Default for Numbers<R> {
    fn default() -> Self {
        let slots = (0..SLOTS).map(|_| Slot::default());
        Self {
            started: Instant::now(),
            state: Mutex::new(State {
                slots: slots.collect(),
                commands: Vec::new(),
                indexes: HashMap::new(),
                last: 0,
            }),
        }
    }
}

impl<R: Copy + PartialEq> Numbers<R> {
    pub fn record(&self, ended: &Ended<'_, R>) {
        self.record_at(Instant::now(), ended);
    }

    pub fn record_at(&self, now: Instant, ended: &Ended<'_, R>) {
        let number = self.slot_number(now);
        let mut state = self.state.lock();
        if let Some((queue, execution)) = ended.times {
            let slot = state.slot(number);
            slot.queue.add(queue);
            slot.execution.add(execution);
        }
        let command = state.command(ended.command);
        command.calls += 1;
        if let Some(error) = ended.error {
            match command.errors.iter_mut().find(|(one, _)| *one == error) {
                Some((_, count)) => *count += 1,
                None => command.errors.push((error, 1)),
            }
        }
        let size = ended.batch_size;
        if size > 0 && (command.batched.len() < MAX_SIZES || command.batched.contains_key(&size)) {
            *command.batched.entry(size).or_default() += 1;
        }
    }

    pub fn record_ask(&self, ended: &EndedAsk<'_>) {
        let number = self.slot_number(Instant::now());
        let mut state = self.state.lock();
        state.slot(number).asks.add(ended.time);
        let command = state.command(ended.command);
        command.asks += 1;
        command.failed_asks += u64::from(ended.has_failed);
    }

    pub fn summary(&self) -> Summary<R> {
        self.summary_at(Instant::now())
    }

    fn summary_at(&self, now: Instant) -> Summary<R> {
        let number = self.slot_number(now);
        let (mut queue, mut execution) = (Histogram::default(), Histogram::default());
        let mut asks = Histogram::default();
        let state = self.state.lock();
        for slot in &state.slots {
            if slot.number + SLOTS > number {
                queue.merge(&slot.queue);
                execution.merge(&slot.execution);
                asks.merge(&slot.asks);
            }
        }
        Summary {
            commands: state.commands.clone(),
            calls: execution.total(),
            queue: queue.percentiles(),
            execution: execution.percentiles(),
            asks: asks.percentiles(),
        }
    }

    fn slot_number(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.started).as_secs() / SLOT.as_secs()
    }
}

impl<R: Copy + PartialEq> State<R> {
    fn slot(&mut self, number: u64) -> &mut Slot {
        let slot = &mut self.slots[(number % SLOTS) as usize];
        if slot.number != number {
            slot.number = number;
            slot.queue.clear();
            slot.execution.clear();
            slot.asks.clear();
        }
        slot
    }

    fn command(&mut self, name: &str) -> &mut CommandNumbers<R> {
        let is_last = self
            .commands
            .get(self.last)
            .is_some_and(|(last, _)| last == name);
        if !is_last {
            self.last = match self.indexes.get(name) {
                Some(index) => *index,
                None => self.add_command(name),
            };
        }
        &mut self.commands[self.last].1
    }

    fn add_command(&mut self, name: &str) -> usize {
        let name = if self.commands.len() < MAX_COMMANDS {
            name
        } else {
            OTHERS
        };
        if let Some(index) = self.indexes.get(name) {
            return *index;
        }
        let none = CommandNumbers {
            calls: 0,
            asks: 0,
            failed_asks: 0,
            errors: Vec::new(),
            batched: BTreeMap::new(),
        };
        self.commands.push((name.into(), none));
        let index = self.commands.len() - 1;
        self.indexes.insert(name.into(), index);
        index
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(command: &str) -> Ended<'_, &'static str> {
        Ended {
            command,
            error: None,
            times: Some((10, 20)),
            batch_size: 0,
        }
    }

    fn command<'a>(
        summary: &'a Summary<&'static str>,
        name: &str,
    ) -> Option<&'a CommandNumbers<&'static str>> {
        let mut all = summary.commands.iter();
        all.find(|(one, _)| one == name).map(|(_, numbers)| numbers)
    }

    #[test]
    fn calls_and_errors_are_counted_by_command_and_reason() {
        let numbers = Numbers::default();
        numbers.record(&ended("echo"));
        for reason in ["timeout", "timeout", "python_error"] {
            let error = Some(reason);
            let times = None;
            numbers.record(&Ended {
                error,
                times,
                ..ended("echo")
            });
        }
        numbers.record(&Ended {
            batch_size: 8,
            ..ended("embed")
        });
        let summary = numbers.summary();
        assert_eq!(summary.calls, 2);
        assert_eq!(
            (summary.queue, summary.execution),
            (Some([10; 3]), Some([20; 3]))
        );
        let echo = command(&summary, "echo").map(|echo| (echo.calls, echo.errors.clone()));
        let errors = vec![("timeout", 2), ("python_error", 1)];
        assert_eq!(echo, Some((4, errors)));
        let embed = command(&summary, "embed").map(|embed| embed.batched.clone());
        assert_eq!(embed, Some(BTreeMap::from([(8, 1)])));
    }

    #[test]
    fn asks_are_counted_beside_the_calls() {
        let numbers = Numbers::default();
        for (has_failed, time) in [(false, 7), (true, 7), (false, 9)] {
            numbers.record_ask(&EndedAsk {
                command: "agent",
                has_failed,
                time,
            });
        }
        let summary = numbers.summary();
        let agent = command(&summary, "agent").map(|one| (one.calls, one.asks, one.failed_asks));
        assert_eq!(agent, Some((0, 3, 1)));
        assert_eq!((summary.calls, summary.asks), (0, Some([7, 9, 9])));
    }

    #[test]
    fn times_are_kept_for_a_minute_and_counts_for_good() {
        let numbers = Numbers::default();
        let at = |seconds| numbers.started + Duration::from_secs(seconds);
        numbers.record_at(at(1), &ended("echo"));
        numbers.record_at(
            at(58),
            &Ended {
                times: Some((1000, 1000)),
                ..ended("echo")
            },
        );
        let calls = |seconds| numbers.summary_at(at(seconds)).calls;
        assert_eq!([calls(58), calls(61), calls(64)], [2, 2, 2]);
        assert_eq!([calls(65), calls(115), calls(119)], [1, 1, 1]);
        assert_eq!(calls(120), 0);
        let summary = numbers.summary_at(at(3600));
        assert_eq!((summary.queue, summary.execution), (None, None));
        assert_eq!(command(&summary, "echo").map(|echo| echo.calls), Some(2));
        // The slot of the first call is used again.
        numbers.record_at(at(3601), &ended("echo"));
        assert_eq!(calls(3602), 1);
    }

    #[test]
    fn the_number_of_commands_is_bounded() {
        let numbers = Numbers::default();
        for number in 0..2 * MAX_COMMANDS {
            numbers.record(&ended(&format!("command {number}")));
        }
        let summary = numbers.summary();
        assert_eq!(summary.commands.len(), MAX_COMMANDS + 1);
        let others = command(&summary, OTHERS).map(|others| others.calls);
        assert_eq!(others, Some(MAX_COMMANDS as u64));
    }
}
