//! Wakes Python's event loop without Python's lock, by a socket that the loop watches.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
};

pub struct LoopWaker {
    reader: UnixStream,
    writer: UnixStream,
}

impl LoopWaker {
    pub fn new() -> io::Result<Self> {
        let (reader, writer) = UnixStream::pair()?;
        reader.set_nonblocking(true)?;
        writer.set_nonblocking(true)?;
        Ok(Self { reader, writer })
    }

    pub fn wake(&self) {
        // If the socket is full, the loop is awake already.
        let _ = (&self.writer).write(&[0]);
    }

    pub fn clear(&self) {
        let mut buffer = [0; 256];
        while matches!((&self.reader).read(&mut buffer), Ok(256)) {}
    }

    pub fn reader(&self) -> &UnixStream {
        &self.reader
    }
}
