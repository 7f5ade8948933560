//! The tasks of the network, which whichever thread drives the runtime polls.
//!
//! They are not tasks of the runtime. When one of those makes a call ready, the thread that waits for the call
//! learns of it only after the runtime has looked for further events, with a system call: a lone call cost four
//! (two of them `epoll_wait`), and costs three. `poll` is part of what the waiting thread itself waits for.
//!
//! A waker puts its task into a queue and then wakes the thread that has polled last, once until that thread polls
//! again. A thread that begins to drive polls first, so whatever was woken while nobody drove is polled then.

use crate::inbox::Inbox;
use futures_util::{
    FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered, task::AtomicWaker,
};
use parking_lot::Mutex;
use std::{
    cell::Cell,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

/// After so many rounds the driving thread looks for events of the network.
const ROUNDS: usize = 64;

pub(crate) struct Tasks {
    tasks: Mutex<FuturesUnordered<BoxFuture<'static, ()>>>,
    new: Inbox<BoxFuture<'static, ()>>,
    driver: Arc<Driver>,
    /// Wakes `driver`.
    waker: Waker,
}

/// The thread that polls.
#[derive(Default)]
struct Driver {
    thread: AtomicWaker,
    /// Whether anything was woken since the last round began.
    woken: AtomicBool,
}

thread_local! {
    /// What this thread polls.
    static POLLING: Cell<*const Driver> = const { Cell::new(std::ptr::null()) };
}

impl Wake for Driver {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // A thread that polls makes another round.
        if !self.woken.swap(true, Ordering::AcqRel) && POLLING.get() != Arc::as_ptr(self) {
            self.thread.wake();
        }
    }
}

impl Default for Tasks {
    fn default() -> Self {
        let driver = Arc::new(Driver::default());
        Self {
            tasks: Mutex::default(),
            new: Inbox::default(),
            waker: driver.clone().into(),
            driver,
        }
    }
}

impl Tasks {
    /// Adds a task. If it panics, the others continue.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let task = AssertUnwindSafe(task).catch_unwind().map(drop);
        self.new.push(task.boxed());
        self.driver.wake_by_ref();
    }

    /// Whether this thread polls tasks.
    pub(crate) fn is_polling() -> bool {
        !POLLING.get().is_null()
    }

    /// Polls the tasks that were woken. To be called by the thread that drives, whose waker `cx` has.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) {
        self.driver.thread.register(cx.waker());
        let mut tasks = self.tasks.lock();
        let before = POLLING.replace(Arc::as_ptr(&self.driver));
        let mut rounds = 0;
        while rounds < ROUNDS && (self.driver.woken.swap(false, Ordering::AcqRel) || rounds == 0) {
            tasks.extend(self.new.take());
            let mut cx = Context::from_waker(&self.waker);
            while tasks.poll_next_unpin(&mut cx) == Poll::Ready(Some(())) {}
            rounds += 1;
        }
        POLLING.set(before);
        if rounds == ROUNDS {
            cx.waker().wake_by_ref();
        }
    }

    /// The thread that has polled last stops, and nobody drives: nobody is woken until the next `poll`.
    pub(crate) fn pause(&self) {
        self.driver.thread.take();
    }

    /// Drops all tasks.
    pub(crate) fn clear(&self) {
        let tasks = std::mem::take(&mut *self.tasks.lock());
        drop((tasks, self.new.take()));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use futures_util::task::noop_waker;
    use std::{future::poll_fn, sync::atomic::AtomicUsize, task::ready};
    use tokio::sync::{mpsc, oneshot};

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Tasks that have been polled by a thread, and how often that was woken since.
    fn polled(tasks: &Tasks) -> Arc<Count> {
        let count = Arc::<Count>::default();
        tasks.poll(&mut Context::from_waker(&count.clone().into()));
        count
    }

    #[test]
    fn a_task_that_another_task_wakes_is_polled_in_the_same_turn_and_the_thread_is_not_woken() {
        let tasks = Tasks::default();
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let (seen, see) = oneshot::channel();
        tasks.spawn(async move {
            seen.send(receiver.recv().await).unwrap();
        });
        polled(&tasks);
        tasks.spawn(async move { sender.send(7).unwrap() });
        let count = polled(&tasks);
        assert_eq!(see.blocking_recv().unwrap(), Some(7));
        assert_eq!(count.0.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn a_task_may_add_tasks() {
        let tasks = Arc::new(Tasks::default());
        let (sender, receiver) = oneshot::channel();
        let adding = tasks.clone();
        tasks.spawn(async move { adding.spawn(async { sender.send(()).unwrap() }) });
        polled(&tasks);
        receiver.blocking_recv().unwrap();
    }

    #[test]
    fn the_thread_that_polled_last_is_woken_once_and_nobody_after_a_pause() {
        let tasks = Tasks::default();
        let (sender, mut receiver) = mpsc::unbounded_channel();
        tasks.spawn(async move { while receiver.recv().await.is_some() {} });
        let (first, second) = (polled(&tasks), polled(&tasks));
        let woken = || [&first, &second].map(|count| count.0.load(Ordering::SeqCst));
        sender.send(()).unwrap();
        sender.send(()).unwrap();
        assert_eq!(woken(), [0, 1]);
        tasks.poll(&mut Context::from_waker(&noop_waker()));
        tasks.pause();
        sender.send(()).unwrap();
        assert_eq!(woken(), [0, 1]);
        let third = polled(&tasks);
        sender.send(()).unwrap();
        assert_eq!(third.0.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_task_that_panics_does_not_end_the_others() {
        let tasks = Tasks::default();
        let (sender, receiver) = oneshot::channel();
        tasks.spawn(async { panic!("a panic of a test") });
        tasks.spawn(async { sender.send(()).unwrap() });
        polled(&tasks);
        receiver.blocking_recv().unwrap();
    }

    #[test]
    fn tasks_that_wake_themselves_without_end_let_the_thread_look_for_events() {
        let tasks = Tasks::default();
        tasks.spawn(poll_fn(|cx| {
            cx.waker().wake_by_ref();
            Poll::Pending
        }));
        assert_eq!(polled(&tasks).0.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn every_wakeup_from_other_threads_reaches_its_task() {
        const THREADS: usize = 4;
        const EACH: usize = 20_000;
        let tasks = Tasks::default();
        let (sender, mut receiver) = mpsc::channel(1);
        let (done, mut is_done) = oneshot::channel();
        tasks.spawn(async move {
            for _ in 0..THREADS * EACH {
                receiver.recv().await.unwrap();
            }
            done.send(()).unwrap();
        });
        let threads: Vec<_> = std::iter::repeat_with(|| sender.clone())
            .take(THREADS)
            .map(|sender| {
                std::thread::spawn(move || {
                    for _ in 0..EACH {
                        sender.blocking_send(()).unwrap();
                    }
                })
            })
            .collect();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(poll_fn(|cx| {
            tasks.poll(cx);
            ready!(std::pin::Pin::new(&mut is_done).poll(cx)).unwrap();
            Poll::Ready(())
        }));
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
    }
}
