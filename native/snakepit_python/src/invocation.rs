//! One run of a command: arguments in, what it returns or raises out.

use crate::{call::Call, values, worker::Worker};
use pyo3::{prelude::*, types::PyDict};
use snakepit_proto::Fields;
use snakepit_server::{Failure, StreamResponder};
use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Instant,
};

#[derive(Clone, Copy)]
pub(crate) struct Invocation<'a, 'py> {
    pub(crate) py: Python<'py>,
    pub(crate) worker: &'a Arc<Worker>,
    pub(crate) call: &'a Arc<Call>,
}

impl<'py> Invocation<'_, 'py> {
    /// What `run` gives. A panic in it is reported, and is the failure of the call.
    pub(crate) fn caught<T>(self, run: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
        catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
            let name = &self.call.command.name;
            let hooks = &self.worker.hooks;
            Err(hooks.panicked(self.py, name, panic_text(&*panic)))
        })
    }

    /// The keywords to call the function with; raises what is wrong with the arguments.
    pub(crate) fn keywords(self) -> PyResult<Bound<'py, PyDict>> {
        let (py, call) = (self.py, self.call);
        let args = values::decode_fields(py, call.header.args(), &self.worker.hooks)?;
        // A session is in use for as long as a call's context lives.
        let context = if call.command.takes_context || call.header.session().is_some() {
            let context = self.context()?;
            call.command.takes_context.then_some(context)
        } else {
            None
        };
        let bind = call.command.bind.bind(py);
        let keywords = bind.call1((args, context, self.has_kinds()))?;
        Ok(keywords.cast_into::<PyDict>()?)
    }

    fn context(self) -> PyResult<Py<PyAny>> {
        let (py, call) = (self.py, self.call);
        let may_wait = !call.command.is_async;
        let context = self.worker.hooks.context(py, &call.header, may_wait)?;
        call.python().context = Some(context.clone_ref(py));
        // Whoever cancelled the call before found no context to tell.
        if call.is_cancelled() {
            context.call_method0(py, "_cancel")?;
        }
        Ok(context)
    }

    /// Calls the command's function.
    pub(crate) fn call(self) -> Result<Bound<'py, PyAny>, Failure> {
        self.keywords()
            .and_then(|keywords| {
                let function = self.call.command.function.bind(self.py);
                function.call((), Some(&keywords))
            })
            .inspect(|_| self.leave_fork())
            .map_err(|error| self.failure(error))
    }

    /// Ends a child that a command has forked.
    pub(crate) fn leave_fork(self) {
        if self.worker.is_forked() {
            self.worker.hooks.leave_fork(self.py);
        }
    }

    /// What a unary call is answered with.
    pub(crate) fn result(self, value: &Bound<'_, PyAny>) -> Result<Fields, Failure> {
        let fields = self.encoded(value, "result")?;
        let (size, limit) = (fields.size(), self.worker.settings.max_message_size);
        if size > limit {
            return Err(Failure::too_large(size, limit));
        }
        Ok(fields)
    }

    /// Sends a chunk. True if the next one has to wait for room.
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
        values::encode_fields(value, root, self.has_kinds(), &self.worker.hooks)
            .map_err(|error| self.failure(error))
    }

    /// Types that were guessed are not checked, and kinds are not sent to who sends none.
    fn has_kinds(self) -> bool {
        self.call.header.args().kinds.is_some()
    }

    /// The failure that an exception of the command is.
    pub(crate) fn failure(self, error: PyErr) -> Failure {
        let call = self.call;
        let hooks = &self.worker.hooks;
        let described = hooks.failure(self.py, error, call.is_cancelled(), &call.command.name);
        if described.closed {
            call.set_closed();
        }
        described.failure
    }

    /// The command has ended: answers its call.
    pub(crate) fn finish(self, result: Result<Fields, Failure>, started: Instant) {
        self.call.leave_session(self.py);
        let took = started.elapsed();
        if self.call.responder.as_stream().is_none() {
            self.worker.counters.took(took);
        }
        self.worker.finish(self.call, result, took);
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("it has no text")
}
