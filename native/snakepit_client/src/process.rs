//! Processes of the operating system, identified by number and start time, because the kernel reuses numbers.

use rustix::{
    param::page_size,
    process::{Pid, Signal, kill_process, kill_process_group},
};
use std::fs;

/// When the process started, in the kernel's own units; nothing if there is no such process or no `/proc`.
pub fn started(os_pid: i32) -> Option<u64> {
    let stat = fs::read(format!("/proc/{os_pid}/stat")).ok()?;
    // The second field is the program's name in parentheses, which may contain anything.
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = String::from_utf8_lossy(stat.get(end + 1..)?);
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// The resident memory in bytes of the process that started then; nothing if there is no such process or no `/proc`.
pub fn resident_bytes(os_pid: i32, known: Option<u64>) -> Option<u64> {
    let statm = fs::read_to_string(format!("/proc/{os_pid}/statm")).ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    (started(os_pid) == known).then(|| pages * page_size() as u64)
}

/// Signals the group that the process leads or has led: its number is not reused while the group has a process. A
/// process that does not lead a group yet is signalled itself. Returns whether a process was signalled.
pub fn signal_group(os_pid: i32, known: Option<u64>, kill: bool) -> bool {
    let signal = if kill { Signal::KILL } else { Signal::TERM };
    let now = started(os_pid);
    if now.is_some() && now != known {
        return false;
    }
    // 1 and below mean every process.
    let Some(pid) = Pid::from_raw(os_pid).filter(|_| os_pid > 1) else {
        return false;
    };
    kill_process_group(pid, signal).is_ok() || now.is_some() && kill_process(pid, signal).is_ok()
}
