//! Runs a command once: decodes its arguments, calls it, encodes its result or its exception.

use crate::{
    call::Call,
    reports::Reports,
    two_way::{Asks, Source},
    values,
    worker::Worker,
};
use pyo3::{prelude::*, types::PyDict};
use snakepit_proto::Fields;
use snakepit_server::{Failure, StreamResponder};
use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

#[derive(Clone, Copy)]
pub(crate) struct Invocation<'a, 'py> {
    pub(crate) py: Python<'py>,
    pub(crate) worker: &'a Arc<Worker>,
    pub(crate) call: &'a Arc<Call>,
}

impl<'py> Invocation<'_, 'py> {
    /// Calls `run`. A panic in it is reported, and becomes the failure of the call.
    pub(crate) fn caught<T>(self, run: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
        catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
            let name = &self.call.command.name;
            let callbacks = &self.worker.callbacks;
            Err(callbacks.panicked(self.py, name, panic_text(&*panic)))
        })
    }

    /// The keyword arguments of the function; raises an error if they are invalid.
    pub(crate) fn keywords(self) -> PyResult<Bound<'py, PyDict>> {
        let (py, call) = (self.py, self.call);
        let args = values::decode_fields(py, call.header.args(), &self.worker.callbacks)?;
        let command = &call.command;
        // The context of a call keeps its session in use.
        let context = if command.context.is_some() || call.header.session().is_some() {
            Some(self.context()?)
        } else {
            None
        };
        let has_inputs = self.add_inputs(&args)?;
        let plain = command.plain.as_ref().filter(|_| !has_inputs);
        if plain.is_some_and(|plain| plain.accept(&args, call.header.args().values)) {
            if let (Some(name), Some(context)) = (&command.context, context) {
                args.set_item(name, context)?;
            }
            return Ok(args);
        }
        let context = context.filter(|_| command.context.is_some());
        let keywords = command
            .bind
            .bind(py)
            .call1((args, context, self.has_kinds()))?;
        if has_inputs && let Some(conversation) = call.responder.conversation() {
            py.detach(|| conversation.start_inputs());
        }
        Ok(keywords.cast_into::<PyDict>()?)
    }

    /// Adds the arguments that are input streams. Returns whether there are any.
    fn add_inputs(self, args: &Bound<'py, PyDict>) -> PyResult<bool> {
        let Some(conversation) = self.call.responder.conversation() else {
            return Ok(false);
        };
        let inputs = conversation.inputs();
        let batching = self.call.command.batching.is_some();
        for (id, name) in &inputs {
            let source = Source::new(self.worker, self.call, conversation, (*id, name));
            let source = Bound::new(self.py, source)?.into_any();
            let callbacks = &self.worker.callbacks;
            args.set_item(name, callbacks.input(name, source, batching)?)?;
        }
        Ok(!inputs.is_empty())
    }

    fn context(self) -> PyResult<Py<PyAny>> {
        let (py, call) = (self.py, self.call);
        let may_wait = !call.command.is_async;
        let reports = Reports::of(call).map(|reports| Bound::new(py, reports));
        let reports = reports.transpose()?.map(Bound::into_any);
        let asks = Asks::of(py, self.worker, call)?;
        let callbacks = &self.worker.callbacks;
        let context = callbacks.context(py, &call.header, (reports, asks), may_wait)?;
        call.python().context = Some(context.clone_ref(py));
        // A cancellation before this found no context.
        if call.is_cancelled() {
            context.call_method0(py, "_cancel")?;
        }
        Ok(context)
    }

    /// Calls the command's function.
    pub(crate) fn call(self) -> Result<Bound<'py, PyAny>, Failure> {
        let keywords = self.keywords().map_err(|error| self.failure(error))?;
        // Large arguments take long to decode.
        if self.call.is_cancelled() {
            return Err(Failure::cancelled());
        }
        let function = self.call.command.function.bind(self.py);
        function
            .call((), Some(&keywords))
            .inspect(|_| self.leave_fork())
            .map_err(|error| self.failure(error))
    }

    /// Ends this process if a command has forked it.
    pub(crate) fn leave_fork(self) {
        if self.worker.is_forked() {
            self.worker.callbacks.leave_fork(self.py);
        }
    }

    /// Encodes the result of a unary call.
    pub(crate) fn result(self, value: &Bound<'_, PyAny>) -> Result<Fields, Failure> {
        let fields = self.encoded(value, "result")?;
        let (size, limit) = (fields.size(), self.worker.settings.max_message_size);
        if size > limit {
            return Err(Failure::too_large(size, limit));
        }
        Ok(fields)
    }

    /// Sends a chunk. True if the next one must wait for room.
    pub(crate) fn send(
        self,
        stream: &StreamResponder,
        value: &Bound<'_, PyAny>,
        is_final: bool,
    ) -> Result<bool, Failure> {
        let root = if is_final { "result" } else { "chunk" };
        stream.send(self.encoded(value, root)?, is_final)
    }

    fn encoded(self, value: &Bound<'_, PyAny>, root: &str) -> Result<Fields, Failure> {
        values::encode_fields(value, root, self.has_kinds(), &self.worker.callbacks)
            .map_err(|error| self.failure(error))
    }

    /// Whether the client sends kinds. Without them types are guessed and not checked, and no kinds are
    /// sent.
    fn has_kinds(self) -> bool {
        self.call.header.args().kinds.is_some()
    }

    /// Describes an exception that the command has raised.
    pub(crate) fn failure(self, error: PyErr) -> Failure {
        let call = self.call;
        let callbacks = &self.worker.callbacks;
        let described = callbacks.failure(self.py, error, call.is_cancelled(), &call.command.name);
        if described.closed {
            call.set_closed();
        }
        described.failure
    }

    /// Answers the call of a command that has ended; returns how long that ran.
    pub(crate) fn finish(self, result: Result<Fields, Failure>, started: Instant) -> Duration {
        self.call.leave(self.py);
        let took = started.elapsed();
        let responder = &self.call.responder;
        if responder.as_stream().is_none() && responder.conversation().is_none() {
            self.call.command.time.add(took);
        }
        self.worker.finish(self.call, result, took);
        took
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("it has no text")
}
