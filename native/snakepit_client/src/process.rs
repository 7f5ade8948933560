//! Which process a number means. The kernel gives numbers out anew; when a process started tells two
//! that have had the same one apart.

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use std::fs;

/// In the kernel's own units, where it tells.
pub fn started(os_pid: i32) -> Option<u64> {
    let stat = fs::read(format!("/proc/{os_pid}/stat")).ok()?;
    // The second field is the program's name, with whatever in it, between parentheses.
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = String::from_utf8_lossy(stat.get(end + 1..)?);
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Signals the group that the process leads, or has led: while one of the group is left, no process gets
/// its number. A process that has not come so far as to lead a group is signalled itself. Whether there was
/// anyone.
pub fn signal_group(os_pid: i32, known: Option<u64>, kill: bool) -> bool {
    let signal = if kill { Signal::KILL } else { Signal::TERM };
    let now = started(os_pid);
    if now.is_some() && now != known {
        return false;
    }
    // 1 and below mean everybody.
    let Some(pid) = Pid::from_raw(os_pid).filter(|_| os_pid > 1) else {
        return false;
    };
    kill_process_group(pid, signal).is_ok() || now.is_some() && kill_process(pid, signal).is_ok()
}
