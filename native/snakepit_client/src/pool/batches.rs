//! Commands whose calls gather in batches on the workers.

use super::types::{BatchCommand, BatchId, Gathers};
use parking_lot::RwLock;
use std::sync::atomic::{AtomicU8, Ordering};

/// No worker has announced its commands.
const UNKNOWN: u8 = 0;
/// No calls gather.
const NONE: u8 = 1;
const SOME: u8 = 2;

/// The commands of a pool, numbered, as a worker has announced them last. For most pools to ask costs a load.
#[derive(Default)]
pub(super) struct BatchCommands {
    known: AtomicU8,
    all: RwLock<Vec<BatchCommand>>,
}

impl BatchCommands {
    #[inline]
    pub(super) fn gathers(&self, command: &str) -> Gathers {
        match self.known.load(Ordering::Acquire) {
            NONE => Gathers::No,
            UNKNOWN => Gathers::Unknown(command.into()),
            _ => self.find(command).map_or(Gathers::No, Gathers::As),
        }
    }

    fn find(&self, command: &str) -> Option<BatchId> {
        let all = self.all.read();
        all.iter().position(|one| one.name == command).map(BatchId)
    }

    /// How many calls of a command are a full batch: 1 if they do not gather.
    pub(super) fn size(&self, command: &str) -> usize {
        let all = self.all.read();
        let found = all.iter().find(|one| one.name == command);
        found.map_or(1, |one| one.size)
    }

    /// Adds those of a worker. Returns each with the size of its batches.
    pub(super) fn add(&self, commands: Vec<BatchCommand>) -> Vec<(BatchId, usize)> {
        let mut all = self.all.write();
        let mut added = Vec::with_capacity(commands.len());
        for mut command in commands {
            command.size = command.size.max(1);
            let at = all.iter().position(|one| one.name == command.name);
            let at = at.unwrap_or(all.len());
            added.push((BatchId(at), command.size));
            match all.get_mut(at) {
                Some(known) => *known = command,
                None => all.push(command),
            }
        }
        let known = if all.is_empty() { NONE } else { SOME };
        self.known.store(known, Ordering::Release);
        added
    }
}

/// The calls of one command on a worker.
pub(super) struct WorkerBatches {
    id: BatchId,
    /// How many calls share a slot.
    size: usize,
    in_flight: usize,
}

impl WorkerBatches {
    pub(super) fn new((id, size): (BatchId, usize)) -> Self {
        Self {
            id,
            size,
            in_flight: 0,
        }
    }

    pub(super) fn is(&self, id: BatchId) -> bool {
        self.id == id
    }

    /// How many calls could join those that are there, without another slot.
    pub(super) fn room(&self) -> usize {
        self.slots() * self.size - self.in_flight
    }

    /// How many slots its calls take.
    pub(super) fn slots(&self) -> usize {
        self.in_flight.div_ceil(self.size)
    }

    pub(super) fn enter(&mut self) {
        self.in_flight += 1;
    }

    pub(super) fn leave(&mut self) {
        self.in_flight -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(name: &str, size: usize) -> BatchCommand {
        BatchCommand {
            name: name.into(),
            size,
        }
    }

    #[test]
    fn commands_are_known_once_a_worker_has_announced_its_own() {
        let commands = BatchCommands::default();
        assert_eq!(commands.gathers("a"), Gathers::Unknown("a".into()));
        assert!(commands.add(Vec::new()).is_empty());
        assert_eq!(commands.gathers("a"), Gathers::No);
        let added = commands.add(vec![command("a", 3), command("b", 0)]);
        assert_eq!(added, [(BatchId(0), 3), (BatchId(1), 1)]);
        assert_eq!(commands.add(vec![command("b", 5)]), [(BatchId(1), 5)]);
        assert_eq!(["a", "b", "c"].map(|name| commands.size(name)), [3, 5, 1]);
        assert_eq!(commands.gathers("b"), Gathers::As(BatchId(1)));
        assert_eq!(commands.gathers("c"), Gathers::No);
    }

    #[test]
    fn calls_share_slots() {
        let mut batches = WorkerBatches::new((BatchId(0), 2));
        assert_eq!((batches.slots(), batches.room()), (0, 0));
        for expected in [(1, 1), (1, 0), (2, 1)] {
            batches.enter();
            assert_eq!((batches.slots(), batches.room()), expected);
        }
        batches.leave();
        assert_eq!((batches.slots(), batches.room()), (1, 0));
    }
}
