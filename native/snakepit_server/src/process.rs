//! Figures of this process.

use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// The resident memory in bytes; 0 where the system does not have it in `/proc`.
pub fn resident_memory() -> i64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: Option<i64> = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    let page = i64::try_from(rustix::param::page_size()).unwrap_or(4096);
    pages.unwrap_or_default() * page
}

/// The CPU time of all threads.
pub fn cpu_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn memory_counts_what_is_used() {
        let before = resident_memory();
        let used = vec![1_u8; 64 * 1024 * 1024];
        assert!(before > 0);
        assert!(resident_memory() - before > 32 * 1024 * 1024);
        std::hint::black_box(used);
    }

    #[test]
    fn cpu_time_counts_work() {
        let before = cpu_time();
        while cpu_time() == before {
            std::hint::spin_loop();
        }
    }
}
