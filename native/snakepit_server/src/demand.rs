//! How much of something a peer takes.

/// A number and the bytes of what may be sent. Something may be sent, of any size, while both are above 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Demand {
    count: i64,
    bytes: i64,
}

impl Demand {
    pub(crate) fn add(&mut self, more: &snakepit_proto::Demand) {
        self.count = self.count.saturating_add(more.count.into());
        let bytes = i64::try_from(more.bytes).unwrap_or(i64::MAX);
        self.bytes = self.bytes.saturating_add(bytes);
    }

    pub(crate) fn is_open(self) -> bool {
        self.count > 0 && self.bytes > 0
    }

    pub(crate) fn spend(&mut self, bytes: usize) {
        self.count = self.count.saturating_sub(1);
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(count: u32, bytes: u64) -> snakepit_proto::Demand {
        snakepit_proto::Demand { count, bytes }
    }

    #[test]
    fn both_numbers_must_be_above_0() {
        let mut demand = Demand::default();
        assert!(!demand.is_open());
        demand.add(&of(2, 10));
        assert!(demand.is_open());
        demand.spend(11);
        assert!(!demand.is_open());
        demand.add(&of(0, 2));
        assert!(demand.is_open());
        demand.spend(0);
        assert!(!demand.is_open());
    }

    #[test]
    fn it_has_no_end() {
        let mut demand = Demand::default();
        demand.add(&of(u32::MAX, u64::MAX));
        demand.add(&of(u32::MAX, u64::MAX));
        demand.spend(usize::MAX);
        demand.add(&of(0, u64::MAX));
        assert!(demand.is_open());
    }
}
