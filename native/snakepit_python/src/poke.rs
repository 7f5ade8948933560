//! Wakes the event loop, which watches a socket: without Python's lock.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
};

pub(crate) struct Poke {
    reader: UnixStream,
    writer: UnixStream,
}

impl Poke {
    pub(crate) fn new() -> io::Result<Self> {
        let (reader, writer) = UnixStream::pair()?;
        reader.set_nonblocking(true)?;
        writer.set_nonblocking(true)?;
        Ok(Self { reader, writer })
    }

    pub(crate) fn wake(&self) {
        // A socket that is full is readable.
        let _ = (&self.writer).write(&[0]);
    }

    pub(crate) fn clear(&self) {
        let mut buffer = [0; 256];
        while matches!((&self.reader).read(&mut buffer), Ok(256)) {}
    }

    pub(crate) fn reader(&self) -> &UnixStream {
        &self.reader
    }
}
