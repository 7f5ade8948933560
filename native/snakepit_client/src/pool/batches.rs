//! Calls that gather in batches on a worker.

use super::types::CommandId;

/// The calls of one command on a worker.
pub(super) struct WorkerBatches {
    id: CommandId,
    /// How many calls share a slot.
    size: usize,
    in_flight: usize,
}

impl WorkerBatches {
    pub(super) fn new((id, size): (CommandId, usize)) -> Self {
        Self {
            id,
            size,
            in_flight: 0,
        }
    }

    pub(super) fn is(&self, id: CommandId) -> bool {
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

    #[test]
    fn calls_share_slots() {
        let mut batches = WorkerBatches::new((CommandId(1), 2));
        assert_eq!((batches.slots(), batches.room()), (0, 0));
        for expected in [(1, 1), (1, 0), (2, 1)] {
            batches.enter();
            assert_eq!((batches.slots(), batches.room()), expected);
        }
        batches.leave();
        assert_eq!((batches.slots(), batches.room()), (1, 0));
    }
}
