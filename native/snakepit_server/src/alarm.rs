//! Wakes one thread after a time that another thread sets.
//!
//! To set it wakes nobody: with a condition variable the sleeper would have to wake once more, to learn how long
//! to sleep.

pub(crate) use system::Alarm;

#[cfg(target_os = "linux")]
mod system {
    use rustix::{
        fd::OwnedFd,
        io::{read, retry_on_intr},
        time::{
            Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
            timerfd_settime,
        },
    };
    use std::{io, time::Duration};

    pub(crate) struct Alarm(OwnedFd);

    impl Alarm {
        pub(crate) fn new() -> io::Result<Self> {
            let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?;
            Ok(Self(timer))
        }

        /// Ends the present or the next `wait` after this time. An earlier setting is replaced.
        pub(crate) fn set(&self, after: Duration) {
            // Zero would turn it off.
            let after = after.max(Duration::from_nanos(1));
            let once = Itimerspec {
                it_interval: Timespec::default(),
                it_value: Timespec::try_from(after).unwrap_or_default(),
            };
            // This cannot fail: the file is a timer, and the time is valid.
            let _ = timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &once);
        }

        pub(crate) fn wait(&self) {
            let mut expirations = [0; 8];
            let _ = retry_on_intr(|| read(&self.0, &mut expirations));
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use parking_lot::{Condvar, Mutex};
    use std::{
        io,
        time::{Duration, Instant},
    };

    pub(crate) struct Alarm {
        due: Mutex<Option<Instant>>,
        set: Condvar,
    }

    impl Alarm {
        pub(crate) fn new() -> io::Result<Self> {
            Ok(Self {
                due: Mutex::new(None),
                set: Condvar::new(),
            })
        }

        /// Ends the present or the next `wait` after this time. An earlier setting is replaced.
        pub(crate) fn set(&self, after: Duration) {
            *self.due.lock() = Some(Instant::now() + after);
            self.set.notify_one();
        }

        pub(crate) fn wait(&self) {
            let mut due = self.due.lock();
            loop {
                match *due {
                    Some(at) if at <= Instant::now() => break,
                    Some(at) => drop(self.set.wait_until(&mut due, at)),
                    None => self.set.wait(&mut due),
                }
            }
            *due = None;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::{
        sync::Arc,
        thread,
        time::{Duration, Instant},
    };

    #[test]
    fn it_ends_one_wait_after_the_time_or_at_once() {
        let alarm = Alarm::new().unwrap();
        let started = Instant::now();
        alarm.set(Duration::from_millis(20));
        alarm.wait();
        assert!(started.elapsed() >= Duration::from_millis(20));
        alarm.set(Duration::ZERO);
        alarm.wait();
    }

    #[test]
    fn the_last_setting_counts_also_for_a_thread_that_waits() {
        let alarm = Arc::new(Alarm::new().unwrap());
        alarm.set(Duration::from_secs(3600));
        let waiting = alarm.clone();
        let thread = thread::spawn(move || waiting.wait());
        alarm.set(Duration::ZERO);
        thread.join().unwrap();
    }
}
