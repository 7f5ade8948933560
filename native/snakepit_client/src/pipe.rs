//! Pipes between this process and another one of this user, which opens its end by a path.

use parking_lot::Mutex;
use std::{
    fs::{File, OpenOptions},
    io,
    os::fd::{AsRawFd, OwnedFd},
};
use tokio::net::unix::pipe::{self, Receiver, Sender};

/// A pipe that the other process writes to.
pub struct Readable {
    pub receiver: Receiver,
    pub writer: OtherEnd,
    pub path: String,
}

/// A pipe that the other process reads. Writing to it does not block.
pub struct Writable {
    pub writer: File,
    pub reader: OtherEnd,
    pub path: String,
}

/// The other process's end. It keeps the pipe open until `release`, also after that process has closed it.
pub struct OtherEnd(Mutex<Option<OwnedFd>>);

impl OtherEnd {
    fn new(end: OwnedFd) -> Self {
        Self(Mutex::new(Some(end)))
    }

    /// From now on the pipe ends with the last process that has it open.
    pub fn release(&self) {
        let end = self.0.lock().take();
        drop(end);
    }
}

/// Opens the named pipe at the path. Without a path creates a pipe of this process, or returns nothing if the system
/// has no path to such a pipe. Must be called within the runtime.
pub fn readable(named: Option<String>) -> io::Result<Option<Readable>> {
    let (receiver, writer, path) = match named {
        Some(path) => {
            let receiver = pipe::OpenOptions::new().open_receiver(&path)?;
            let writer = OpenOptions::new().write(true).open(&path)?;
            (receiver, writer.into(), path)
        }
        None => {
            let (reader, writer) = io::pipe()?;
            let writer = OwnedFd::from(writer);
            let path = path_to(&writer);
            if OpenOptions::new().write(true).open(&path).is_err() {
                return Ok(None);
            }
            (Receiver::from_owned_fd(reader.into())?, writer, path)
        }
    };
    let writer = OtherEnd::new(writer);
    Ok(Some(Readable {
        receiver,
        writer,
        path,
    }))
}

/// As `readable`, in the other direction.
pub fn writable(named: Option<String>) -> io::Result<Option<Writable>> {
    let (reader, sender, path) = match named {
        Some(path) => {
            // There is a reader before a writer opens it.
            let reader = pipe::OpenOptions::new().open_receiver(&path)?;
            let sender = pipe::OpenOptions::new().open_sender(&path)?;
            (reader.into_nonblocking_fd()?, sender, path)
        }
        None => {
            let (reader, writer) = io::pipe()?;
            let reader = OwnedFd::from(reader);
            let path = path_to(&reader);
            if OpenOptions::new().read(true).open(&path).is_err() {
                return Ok(None);
            }
            (reader, Sender::from_owned_fd(writer.into())?, path)
        }
    };
    let reader = OtherEnd::new(reader);
    Ok(Some(Writable {
        writer: sender.into_nonblocking_fd()?.into(),
        reader,
        path,
    }))
}

fn path_to(end: &OwnedFd) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), end.as_raw_fd())
}
