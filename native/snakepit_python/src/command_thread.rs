//! The threads that run commands. They hold Python's lock while they run one, and not while they wait.

use crate::{
    batch_run::BatchRun, call::Call, generator, invocation::Invocation, journal::Journal, running,
    unwrapping::unwrapped, worker::Worker,
};
use pyo3::{intern, prelude::*, types::PyCFunction};
use snakepit_proto::Fields;
use snakepit_server::{Failure, UnsentReplies, Work};
use std::{
    cell::{Cell, RefCell},
    slice,
    sync::Arc,
    time::{Duration, Instant},
};

/// A command that is faster has not run an event loop, which may leave signal handlers changed.
const NO_EVENT_LOOP: Duration = Duration::from_micros(100);

thread_local! {
    static WORKER: RefCell<Option<Arc<Worker>>> = const { RefCell::new(None) };
    /// How long the last call or batch ran.
    static TOOK: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// Runs commands in this thread until the worker stops.
pub(crate) fn serve(py: Python<'_>, worker: &Arc<Worker>) {
    // Health depends on the number of threads, however this one ends.
    let _thread = worker.scheduler.thread();
    let writer = worker.next_writer();
    let Ok(run_current) = wrap_pyfunction!(run_current, py) else {
        return;
    };
    WORKER.set(Some(worker.clone()));
    let mut done: Option<Work<Call>> = None;
    let mut unsent = UnsentReplies::default();
    // Whether a command may have changed handlers of signals: only those on the main thread can.
    let mut long = false;
    loop {
        let mut next = worker.scheduler.next(done.as_ref());
        // The reply to a call that had an RPC of its own waits for the thread that drives the network.
        let mut drive = false;
        if let Some(done) = done.take() {
            worker.has_ended();
            drive = next.is_some() && any(&done, |call| call.responder.waits_for_network());
        }
        if !next
            .as_ref()
            .is_some_and(|work| may_start(py, worker, work, &unsent, writer))
        {
            if std::mem::take(&mut long) {
                py.detach(|| unsent.flush());
                worker.callbacks.restore_signals(py);
            }
            py.detach(|| {
                unsent.flush();
                if next.is_none() {
                    next = worker.driver.wait_next(&worker.scheduler);
                }
            });
            // The replies of other threads may be unsent.
            if let Some(work) = &next
                && !may_start(py, worker, work, &unsent, writer)
            {
                py.detach(|| worker.flush_before(slice::from_ref(work)));
            }
        }
        if !worker.posts.is_empty() {
            py.detach(|| unsent.flush());
            run_posts(py, worker);
        }
        let Some(work) = next else {
            if worker.scheduler.is_closed() {
                break;
            }
            run_signal_handlers(py, worker);
            continue;
        };
        if worker.scheduler.wants_thread() && !worker.callbacks.start_thread(py) {
            worker.scheduler.has_no_thread();
        }
        // A command that waits for the client drives the network meanwhile.
        let takes_long = |call: &Call| {
            let responder = &call.responder;
            responder.as_stream().is_some()
                || responder.conversation().is_none() && call.command.time.is_long()
        };
        if drive || any(&work, takes_long) {
            worker.driver.leave();
        }
        TOOK.set(Duration::ZERO);
        running::set(Some(work.clone()));
        run_in_context(py, worker, &work, &run_current, writer);
        long |= worker.driver.is_shared() && TOOK.get() > NO_EVENT_LOOP;
        running::set(None);
        each(&work, |call| {
            if let Some(calls) = call.responder.calls() {
                unsent.add(calls);
            } else if call.responder.needs_flush() {
                py.detach(|| call.responder.flush());
            }
        });
        done = Some(work);
    }
    WORKER.set(None);
}

/// Also the calls of a batch that have left it.
fn each(work: &Work<Call>, mut visit: impl FnMut(&Arc<Call>)) {
    match work {
        Work::Call(call) => visit(call),
        Work::Batch(batch) => batch.calls.iter().for_each(|(call, _)| visit(call)),
    }
}

fn any(work: &Work<Call>, which: impl Fn(&Call) -> bool) -> bool {
    let mut any = false;
    each(work, |call| any |= which(call));
    any
}

/// Whether a call may start before the replies to earlier calls are sent. A batch may not.
fn may_start(
    py: Python<'_>,
    worker: &Worker,
    work: &Work<Call>,
    unsent: &UnsentReplies<Journal>,
    writer: usize,
) -> bool {
    let Work::Call(call) = work else {
        return unsent.is_empty();
    };
    let note = |journal: &Journal| journal.note(py, call.header.call_id(), writer);
    // Only a worker with one thread keeps replies. If the command takes long all the same, the client recalls the calls
    // behind it, and with these the replies are sent; with several threads it may have none to recall.
    let may_wait = worker.driver.is_shared() && call.command.time.is_short();
    (unsent.is_empty() || may_wait)
        && unsent.may_start(call.responder.calls(), worker.is_withdrawing(), note)
}

/// They raise only the exceptions of signal handlers, which may come before their first step.
fn run_posts(py: Python<'_>, worker: &Worker) {
    for function in worker.posts.take() {
        while let Err(error) = function.call0(py) {
            worker.callbacks.signal_failed(py, error);
        }
    }
}

fn run_signal_handlers(py: Python<'_>, worker: &Worker) {
    if let Err(error) = py.check_signals() {
        worker.callbacks.signal_failed(py, error);
    }
}

/// Runs a call or a batch in a `contextvars` context of its own.
fn run_in_context(
    py: Python<'_>,
    worker: &Arc<Worker>,
    work: &Work<Call>,
    run_current: &Bound<'_, PyCFunction>,
    writer: usize,
) {
    if let Work::Batch(batch) = work {
        let run = BatchRun::new(worker.clone(), batch.clone());
        if !run.note_start(py, writer) {
            return;
        }
    }
    let ran = worker.callbacks.call_context(py).and_then(|context| {
        // Spans cannot have several parents.
        let only = match work {
            Work::Call(call) => Some(call),
            Work::Batch(batch) => batch.only(),
        };
        if let Some(call) = only {
            worker.callbacks.trace(&context, &call.header);
        }
        context.call_method1(intern!(py, "run"), (run_current,))
    });
    if let Err(error) = ran {
        match work {
            Work::Call(call) => {
                if call.begin() {
                    let failure = Invocation { py, worker, call }.failure(error);
                    worker.finish(call, Err(failure), Duration::ZERO);
                }
            }
            Work::Batch(batch) => {
                let run = BatchRun::new(worker.clone(), batch.clone());
                run.fail(py, error.into_value(py).into_bound(py).into_any());
            }
        }
    }
}

/// Runs what this thread has taken.
#[pyfunction]
fn run_current(py: Python<'_>) {
    running::with(|work| {
        WORKER.with_borrow(|worker| match (work, worker) {
            // Another thread may have had Python's lock for long.
            (Some(Work::Call(call)), Some(worker)) if call.begin() => {
                run(Invocation { py, worker, call });
            }
            (Some(Work::Batch(batch)), Some(worker)) => {
                TOOK.set(BatchRun::new(worker.clone(), batch.clone()).run(py));
            }
            _ => {}
        });
    });
}

fn run(run: Invocation<'_, '_>) {
    let started = Instant::now();
    let result = run.caught(|| match run.call.responder.as_stream() {
        Some(stream) => generator::stream(run, stream).map(|()| Fields::default()),
        None => unary(run),
    });
    TOOK.set(run.finish(result, started));
}

fn unary(run: Invocation<'_, '_>) -> Result<Fields, Failure> {
    let (value, _) = unwrapped(run, run.call()?)?;
    run.result(&value)
}
