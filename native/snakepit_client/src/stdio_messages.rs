//! The messages that a worker writes to its standard output: 4 bytes of length, big-endian, and as many bytes.
//! A port of the BEAM would accept any length, and would put messages into a mailbox without a limit.

use crate::pipe::OtherEnd;
use std::io;
use tokio::{
    io::{AsyncReadExt, BufReader},
    net::unix::pipe::Receiver,
    sync::Semaphore,
};
use tokio_util::sync::CancellationToken;

/// How many messages may be on their way to the process that handles them.
const MAX_UNHANDLED: usize = 256;

/// Memory of a given size that a message is read into.
pub trait Buffer: AsMut<[u8]> + Send {
    fn with_size(size: usize) -> Self;
}

pub struct Messages {
    writer: OtherEnd,
    room: Semaphore,
    cancelled: CancellationToken,
}

/// How the messages ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    Closed,
    /// A message of this size, over the limit.
    TooLarge(usize),
}

impl Messages {
    pub fn new(writer: OtherEnd) -> Self {
        Self {
            writer,
            room: Semaphore::new(MAX_UNHANDLED),
            cancelled: CancellationToken::new(),
        }
    }

    /// One more message was handled.
    pub fn handled(&self) {
        self.room.add_permits(1);
    }

    /// The worker has opened its end, or never will: the pipe ends once it is closed.
    pub fn opened(&self) {
        self.writer.release();
    }

    /// Messages are not handled any more.
    pub fn cancel(&self) {
        self.writer.release();
        self.cancelled.cancel();
    }

    /// Reads messages of at most `limit` bytes until the pipe ends.
    pub async fn read<B: Buffer>(
        &self,
        receiver: Receiver,
        limit: usize,
        mut handle: impl FnMut(B),
    ) -> End {
        let mut reader = BufReader::new(receiver);
        loop {
            let next = tokio::select! {
                biased;
                () = self.cancelled.cancelled() => return End::Closed,
                next = self.next(&mut reader, limit) => next,
            };
            match next {
                Ok(Ok(message)) => handle(message),
                Ok(Err(size)) => return End::TooLarge(size),
                // A pipe that cannot be read has ended.
                Err(_) => return End::Closed,
            }
        }
    }

    /// The next message, or the size of one that is too large.
    async fn next<B: Buffer>(
        &self,
        reader: &mut BufReader<Receiver>,
        limit: usize,
    ) -> io::Result<Result<B, usize>> {
        let room = self.room.acquire().await.map_err(io::Error::other)?;
        room.forget();
        let size = usize::try_from(reader.read_u32().await?).unwrap_or(usize::MAX);
        if size > limit {
            return Ok(Err(size));
        }
        let mut message = B::with_size(size);
        reader.read_exact(message.as_mut()).await?;
        Ok(Ok(message))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::pipe::{self, Readable};
    use std::{
        fs::{File, OpenOptions},
        io::Write,
    };

    impl Buffer for Vec<u8> {
        fn with_size(size: usize) -> Self {
            vec![0; size]
        }
    }

    /// The receiver of a worker's messages, and the worker's end of the pipe.
    fn open() -> (Receiver, Messages, File) {
        let Readable {
            receiver,
            writer,
            path,
        } = pipe::readable(None).unwrap().unwrap();
        let worker = OpenOptions::new().write(true).open(path).unwrap();
        (receiver, Messages::new(writer), worker)
    }

    /// What is read, and how it ends, of a pipe that a worker has written this to.
    async fn read(written: &[u8], limit: usize) -> (Vec<Vec<u8>>, End) {
        let (receiver, messages, mut worker) = open();
        worker.write_all(written).unwrap();
        drop(worker);
        messages.opened();
        let mut read = Vec::new();
        let end = messages.read(receiver, limit, |one| read.push(one)).await;
        (read, end)
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn messages_are_read_until_the_pipe_ends_and_one_that_is_cut_off_is_dropped() {
        let (read, end) = read(b"\0\0\0\x03one\0\0\0\0\0\0\0\x05cut", 5).await;
        assert_eq!(read, [b"one".to_vec(), Vec::new()]);
        assert_eq!(end, End::Closed);
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_message_over_the_limit_ends_the_reading_with_its_size() {
        let (read, end) = read(b"\0\0\0\x02ok\xff\0\0\0", 5).await;
        assert_eq!(read, [b"ok".to_vec()]);
        assert_eq!(end, End::TooLarge(0xff00_0000));
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn no_further_message_is_read_while_too_many_are_not_handled() {
        let (receiver, messages, mut worker) = open();
        for _ in 0..=MAX_UNHANDLED {
            worker.write_all(b"\0\0\0\x01x").unwrap();
        }
        drop(worker);
        messages.opened();
        let (tx, mut read) = tokio::sync::mpsc::unbounded_channel();
        let handle = |message: Vec<u8>| tx.send(message).unwrap();
        let reading = messages.read(receiver, 1, handle);
        let handling = async {
            for _ in 0..MAX_UNHANDLED {
                read.recv().await.unwrap();
            }
            // The reader has had its turn after each of these.
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            assert!(read.is_empty());
            messages.handled();
            let last = read.recv().await.unwrap();
            messages.handled();
            last
        };
        let (end, last) = tokio::join!(reading, handling);
        assert_eq!((end, last), (End::Closed, b"x".to_vec()));
    }
}
