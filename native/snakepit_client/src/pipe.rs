//! A pipe that another process of this user opens by its path and writes to.

use parking_lot::Mutex;
use std::{
    fs::OpenOptions,
    io,
    os::fd::{AsRawFd, OwnedFd},
};
use tokio::net::unix::pipe::{self, Receiver};

pub struct Pipe {
    pub receiver: Receiver,
    pub writer: Writer,
    pub path: String,
}

/// The writing end. It keeps the pipe open until the other process has opened it.
pub struct Writer(Mutex<Option<OwnedFd>>);

impl Writer {
    /// From now on the pipe ends with the last process that has it open.
    pub fn release(&self) {
        let writer = self.0.lock().take();
        drop(writer);
    }
}

/// Opens the named pipe at the path. Without a path creates a pipe of this process, or returns nothing if the system
/// has no path to such a pipe. Must be called within the runtime.
pub fn open(named: Option<String>) -> io::Result<Option<Pipe>> {
    let (receiver, writer, path) = match named {
        Some(path) => {
            let receiver = pipe::OpenOptions::new().open_receiver(&path)?;
            let writer = OpenOptions::new().write(true).open(&path)?;
            (receiver, writer.into(), path)
        }
        None => {
            let (reader, writer) = io::pipe()?;
            let writer = OwnedFd::from(writer);
            let path = format!("/proc/{}/fd/{}", std::process::id(), writer.as_raw_fd());
            if OpenOptions::new().write(true).open(&path).is_err() {
                return Ok(None);
            }
            (Receiver::from_owned_fd(reader.into())?, writer, path)
        }
    };
    Ok(Some(Pipe {
        receiver,
        writer: Writer(Mutex::new(Some(writer))),
        path,
    }))
}
