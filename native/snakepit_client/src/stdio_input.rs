//! The messages that a worker reads from its standard input: 4 bytes of length, big-endian, and as many bytes.
//! A port of the BEAM that finds its pipe closed reports that, and no longer how the process exits.

use crate::pipe::OtherEnd;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use snakepit_wire::watch;
use std::{
    collections::VecDeque,
    fs::File,
    io::{self, ErrorKind, Write},
    sync::Arc,
    time::Duration,
};
use tokio::{sync::Notify, task::yield_now, time::sleep};
use tokio_util::sync::CancellationToken;

/// How much is written at once: as much as an empty pipe takes.
const ROOM: usize = 64 * 1024;
const RETRY_AFTER: Duration = Duration::from_millis(100);

pub struct Input {
    reader: OtherEnd,
    queue: Mutex<Queue>,
    left: Notify,
    finished: CancellationToken,
}

struct Queue {
    /// None once the worker has closed the pipe, or gets no more messages.
    writer: Option<Arc<File>>,
    messages: VecDeque<Bytes>,
    /// Whether `drive` writes them.
    is_left: bool,
}

impl Input {
    pub fn new(writer: File, reader: OtherEnd) -> Self {
        let queue = Queue {
            writer: Some(Arc::new(writer)),
            messages: VecDeque::new(),
            is_left: false,
        };
        Self {
            reader,
            queue: Mutex::new(queue),
            left: Notify::new(),
            finished: CancellationToken::new(),
        }
    }

    /// The worker has opened its end.
    pub fn opened(&self) {
        self.reader.release();
    }

    /// Writes a message, or leaves it to `drive` if the pipe does not take all of it. Returns false if the worker does not
    /// get the message because it has closed the pipe.
    pub fn write(&self, message: &[u8]) -> bool {
        let mut framed = BytesMut::with_capacity(4 + message.len());
        framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
        framed.put_slice(message);
        let mut queue = self.queue.lock();
        if queue.writer.is_none() {
            return false;
        }
        queue.messages.push_back(framed.freeze());
        if !queue.is_left {
            queue.write_some();
            if queue.is_left || queue.writer.is_none() {
                self.left.notify_one();
            }
        }
        queue.writer.is_some()
    }

    /// Writes what is left, whenever there is room, until `finish`. Returns true if before that a write has shown that the
    /// worker has closed the pipe.
    pub async fn drive(&self) -> bool {
        let writing = async {
            loop {
                self.left.notified().await;
                // The system may have no room for another wait at the moment.
                while self.write_left().await.is_err() {
                    sleep(RETRY_AFTER).await;
                }
                if self.queue.lock().writer.is_none() {
                    return;
                }
            }
        };
        tokio::select! {
            biased;
            () = self.finished.cancelled() => {}
            () = writing => {}
        }
        !self.finished.is_cancelled()
    }

    async fn write_left(&self) -> io::Result<()> {
        // Whoever waits for room is woken whenever the worker has read: only while something is left.
        let Some(writer) = self.queue.lock().writer.clone() else {
            return Ok(());
        };
        let pipe = watch(writer)?;
        loop {
            let mut room = pipe.writable().await?;
            {
                let mut queue = self.queue.lock();
                let is_full = queue.write_some();
                if is_full {
                    room.clear_ready();
                }
                if !queue.is_left {
                    return Ok(());
                }
            }
            yield_now().await;
        }
    }

    /// The worker has exited, or gets no more messages.
    pub fn finish(&self) {
        self.reader.release();
        self.finished.cancel();
        let mut queue = self.queue.lock();
        queue.messages.clear();
        queue.is_left = false;
        queue.writer = None;
    }
}

impl Queue {
    /// Writes what the pipe takes. Returns whether it is full.
    fn write_some(&mut self) -> bool {
        self.is_left = false;
        let mut room = ROOM;
        while let Some(writer) = &self.writer
            && let Some(first) = self.messages.front_mut()
        {
            if room == 0 {
                self.is_left = true;
                break;
            }
            let size = first.len().min(room);
            match (&**writer).write(&first[..size]) {
                Ok(count) => {
                    first.advance(count);
                    room -= count;
                    if first.is_empty() {
                        self.messages.pop_front();
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.is_left = true;
                    return true;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Nobody reads them any more.
                Err(_) => {
                    self.messages.clear();
                    self.writer = None;
                }
            }
        }
        false
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::pipe::{self, Writable};
    use std::{
        fs::{self, OpenOptions},
        future::poll_fn,
        io::Read,
        os::fd::AsRawFd,
        path::PathBuf,
        pin::pin,
        sync::atomic::{AtomicUsize, Ordering::Relaxed},
    };
    use tokio::task::JoinHandle;

    /// A task that drives the input.
    struct Driving {
        polls: Arc<AtomicUsize>,
        task: JoinHandle<bool>,
    }

    /// Also the worker's end of the pipe.
    fn open() -> (Arc<Input>, File, Driving) {
        let Writable {
            writer,
            reader,
            path,
        } = pipe::writable(None).unwrap().unwrap();
        let worker = OpenOptions::new().read(true).open(path).unwrap();
        let input = Arc::new(Input::new(writer, reader));
        let (driven, polls) = (input.clone(), Arc::new(AtomicUsize::new(0)));
        let counted = polls.clone();
        let task = tokio::spawn(async move {
            let mut driving = pin!(driven.drive());
            poll_fn(|context| {
                counted.fetch_add(1, Relaxed);
                driving.as_mut().poll(context)
            })
            .await
        });
        (input, worker, Driving { polls, task })
    }

    #[tokio::test]
    async fn messages_of_all_sizes_are_read_in_their_order() {
        let (input, mut worker, _) = open();
        let sizes = [0, 1, 100_000, 5, ROOM - 4, ROOM, 3_000_000, 0, 7];
        for size in sizes {
            input.write(&vec![u8::try_from(size % 251).unwrap(); size]);
        }
        let read = tokio::task::spawn_blocking(move || {
            for size in sizes {
                let mut length = [0; 4];
                worker.read_exact(&mut length).unwrap();
                assert_eq!(u32::from_be_bytes(length) as usize, size);
                let mut message = vec![0; size];
                worker.read_exact(&mut message).unwrap();
                assert!(message.iter().all(|byte| usize::from(*byte) == size % 251));
            }
        });
        read.await.unwrap();
    }

    #[tokio::test]
    async fn waiting_for_room_takes_no_time_and_no_descriptor() {
        let (input, mut worker, driving) = open();
        let name = |fd: PathBuf| fs::read_link(fd).ok();
        let this = name(format!("/proc/self/fd/{}", worker.as_raw_fd()).into());
        input.write(&vec![0; 1_000_000]);
        yield_now().await;
        // It waits, and finds the pipe full again.
        worker.read_exact(&mut [0; 10_000]).unwrap();
        for _ in 0..1_000 {
            yield_now().await;
        }
        let polls = driving.polls.load(Relaxed);
        assert!((2..10).contains(&polls), "{polls} polls");
        let files = fs::read_dir("/proc/self/fd").unwrap();
        let open = files.filter(|file| name(file.as_ref().unwrap().path()) == this);
        assert_eq!(open.count(), 3);
        input.finish();
    }

    #[tokio::test]
    async fn the_worker_finds_the_end_once_nobody_writes_any_more() {
        let (input, mut worker, _) = open();
        input.write(b"last");
        input.finish();
        let read = tokio::task::spawn_blocking(move || {
            let mut rest = Vec::new();
            worker.read_to_end(&mut rest).unwrap();
            rest
        });
        let rest = read.await.unwrap();
        assert!(b"\0\0\0\x04last".starts_with(&rest));
    }

    #[tokio::test]
    async fn a_worker_that_has_closed_the_pipe_is_found_at_the_next_message() {
        let (input, worker, driving) = open();
        input.opened();
        assert!(input.write(b"is in the pipe"));
        drop(worker);
        assert!(!input.write(b"is not read"));
        assert!(driving.task.await.unwrap());
        assert!(!input.write(b"neither"));
    }

    #[tokio::test]
    async fn a_worker_that_closes_the_pipe_within_a_message_is_found() {
        let (input, mut worker, driving) = open();
        input.opened();
        assert!(input.write(&vec![0; 1_000_000]));
        worker.read_exact(&mut [0; 10_000]).unwrap();
        drop(worker);
        assert!(driving.task.await.unwrap());
    }

    #[tokio::test]
    async fn what_a_worker_that_has_exited_does_not_read_is_dropped_at_the_end() {
        let (input, worker, _) = open();
        drop(worker);
        input.write(&vec![0; 1_000_000]);
        input.finish();
        while Arc::strong_count(&input) > 1 {
            yield_now().await;
        }
        input.write(b"too late");
        assert!(input.queue.lock().messages.is_empty());
    }
}
