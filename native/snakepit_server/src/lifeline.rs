//! Ends a worker whose parent has ended.

#[cfg(target_os = "linux")]
use rustix::process::{PidfdFlags, getppid, pidfd_open};
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::{Errno, fcntl_dupfd_cloexec},
    process::{Pid, Signal, getpid, kill_process_group},
    stdio::stdin,
};
use std::{io, os::fd::OwnedFd};

/// Kills this process's group once its parent has ended, or the writing end of its stdin is closed. A
/// command that holds Python's lock cannot delay that. Nothing is read: stdin may carry requests.
pub fn watch_parent() -> io::Result<()> {
    // Processes that commands start must not inherit it. 0 to 2 are the standard streams.
    let lifeline = fcntl_dupfd_cloexec(stdin(), 3)?;
    let parent = parent();
    let group = getpid();
    std::thread::Builder::new()
        .name("snakepit-lifeline".into())
        .spawn(move || {
            wait_for_end(&lifeline, parent.as_ref());
            kill(group);
        })?;
    Ok(())
}

/// Readable once the parent has ended. None if the kernel does not support that.
#[cfg(target_os = "linux")]
fn parent() -> Option<OwnedFd> {
    pidfd_open(getppid()?, PidfdFlags::empty()).ok()
}

#[cfg(not(target_os = "linux"))]
fn parent() -> Option<OwnedFd> {
    None
}

fn wait_for_end(lifeline: &OwnedFd, parent: Option<&OwnedFd>) {
    let mut fds = vec![PollFd::new(lifeline, PollFlags::empty())];
    fds.extend(parent.map(|parent| PollFd::new(parent, PollFlags::IN)));
    while let Err(Errno::INTR) = poll(&mut fds, None) {}
}

fn kill(group: Pid) {
    let _ = kill_process_group(group, Signal::KILL);
}
