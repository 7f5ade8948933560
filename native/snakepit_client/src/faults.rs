//! How often the calls of an endpoint have failed in a row by its own fault.

use crate::error::Fault;
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

/// The count of an endpoint. All its connections share it.
pub struct FaultCount {
    limit: u32,
    in_a_row: AtomicU32,
}

impl FaultCount {
    /// `limit` is how many faults are too many.
    pub fn new(limit: u32) -> Arc<Self> {
        Arc::new(Self {
            limit,
            in_a_row: AtomicU32::new(0),
        })
    }

    /// The count as one connection sees it, whose loss is one fault, however many calls it ends.
    pub fn of_connection(self: &Arc<Self>) -> ConnectionFaults {
        ConnectionFaults {
            count: self.clone(),
            lost: AtomicBool::new(false),
        }
    }

    fn add(&self) -> Option<u32> {
        let faults = self.in_a_row.fetch_add(1, Ordering::Relaxed) + 1;
        // One of the threads that count at the same time sees the limit.
        (faults == self.limit).then(|| {
            self.in_a_row.store(0, Ordering::Relaxed);
            faults
        })
    }
}

/// The faults of one connection.
pub struct ConnectionFaults {
    count: Arc<FaultCount>,
    lost: AtomicBool,
}

impl ConnectionFaults {
    /// Counts the end of a call. Returns how many have failed in a row if that is now too many; then it
    /// begins anew.
    #[inline]
    pub fn ended(&self, fault: Fault) -> Option<u32> {
        match fault {
            Fault::None | Fault::Refused => {
                // Seldom written, so that the threads do not take it from each other.
                if self.count.in_a_row.load(Ordering::Relaxed) != 0 {
                    self.count.in_a_row.store(0, Ordering::Relaxed);
                }
                None
            }
            Fault::Failed => self.count.add(),
            Fault::ConnectionLost if !self.lost.swap(true, Ordering::Relaxed) => self.count.add(),
            Fault::ConnectionLost | Fault::Unknown => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_in_a_row_reach_the_limit_and_an_answer_ends_the_row() {
        let connection = FaultCount::new(3).of_connection();
        let rows = [
            Fault::Failed,
            Fault::Failed,
            Fault::None,
            Fault::Failed,
            Fault::Unknown,
            Fault::Failed,
        ];
        for fault in rows {
            assert_eq!(connection.ended(fault), None);
        }
        assert_eq!(connection.ended(Fault::Failed), Some(3));
        assert_eq!(connection.ended(Fault::Failed), None);
    }

    #[test]
    fn a_lost_connection_is_one_fault_and_the_next_one_another() {
        let count = FaultCount::new(2);
        let (one, other) = (count.of_connection(), count.of_connection());
        for _ in 0..5 {
            assert_eq!(one.ended(Fault::ConnectionLost), None);
        }
        assert_eq!(other.ended(Fault::ConnectionLost), Some(2));
    }
}
