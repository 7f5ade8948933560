//! Which process a number means. The kernel gives numbers out anew; when a process started tells two
//! that have had the same one apart.

use rustix::process::{Pid, Signal, kill_process_group};
use std::fs;

/// In the kernel's own units, where it tells.
pub(crate) fn started(os_pid: i32) -> Option<u64> {
    let stat = fs::read(format!("/proc/{os_pid}/stat")).ok()?;
    // The second field is the program's name, with whatever in it, between parentheses.
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = String::from_utf8_lossy(stat.get(end + 1..)?);
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Signals the group that the process leads, or has led: while one of the group is left, no process gets
/// its number. Whether there was anyone.
pub(crate) fn signal_group(os_pid: i32, known: Option<u64>, kill: bool) -> bool {
    let signal = if kill { Signal::KILL } else { Signal::TERM };
    if let Some(now) = started(os_pid)
        && known != Some(now)
    {
        return false;
    }
    // 1 and below mean everybody.
    Pid::from_raw(os_pid)
        .filter(|_| os_pid > 1)
        .is_some_and(|pid| kill_process_group(pid, signal).is_ok())
}
