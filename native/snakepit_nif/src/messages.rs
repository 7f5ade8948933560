//! The messages of a worker over its standard output: 4 bytes of length, big-endian, and so many bytes. A
//! BEAM's port would believe any length, and put messages into a mailbox without a bound.

use rustler::OwnedBinary;
use snakepit_client::pipe::Writer;
use std::io;
use tokio::{
    io::{AsyncReadExt, BufReader},
    net::unix::pipe::Receiver,
    sync::Semaphore,
};
use tokio_util::sync::CancellationToken;

/// How many messages may be on their way to the process that handles them.
const MOST_MESSAGES: usize = 256;

pub(crate) struct Messages {
    writer: Writer,
    room: Semaphore,
    cancelled: CancellationToken,
}

/// How the messages ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    Closed,
    TooLarge(usize),
}

impl Messages {
    pub(crate) fn new(writer: Writer) -> Self {
        Self {
            writer,
            room: Semaphore::new(MOST_MESSAGES),
            cancelled: CancellationToken::new(),
        }
    }

    /// One more message was handled.
    pub(crate) fn handled(&self) {
        self.room.add_permits(1);
    }

    /// The worker has ended, or is about to: its pipe ends with it.
    pub(crate) fn finish(&self) {
        self.writer.release();
    }

    /// Nobody handles messages any more.
    pub(crate) fn cancel(&self) {
        self.writer.release();
        self.cancelled.cancel();
    }

    /// Reads messages of at most `limit` bytes until the pipe ends.
    pub(crate) async fn read(
        &self,
        receiver: Receiver,
        limit: usize,
        mut message: impl FnMut(OwnedBinary),
    ) -> End {
        let mut reader = BufReader::new(receiver);
        loop {
            let next = tokio::select! {
                biased;
                () = self.cancelled.cancelled() => return End::Closed,
                next = self.next(&mut reader, limit) => next,
            };
            match next {
                Ok(Ok(bytes)) => message(bytes),
                Ok(Err(size)) => return End::TooLarge(size),
                // A pipe that cannot be read has ended.
                Err(_) => return End::Closed,
            }
        }
    }

    /// The next message, or the size of one that is too large.
    async fn next(
        &self,
        reader: &mut BufReader<Receiver>,
        limit: usize,
    ) -> io::Result<Result<OwnedBinary, usize>> {
        let room = self.room.acquire().await.map_err(io::Error::other)?;
        room.forget();
        let size = usize::try_from(reader.read_u32().await?).unwrap_or(usize::MAX);
        if size > limit {
            return Ok(Err(size));
        }
        let mut bytes = OwnedBinary::new(size);
        reader.read_exact(&mut bytes).await?;
        Ok(Ok(bytes))
    }
}
