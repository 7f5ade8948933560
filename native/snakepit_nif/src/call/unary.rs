//! Runs unary calls: as frames if the server implements `Calls`, otherwise as RPCs of their own.

use super::{
    caller::Waited,
    cause::PendingCause,
    destination::{Destination, Multiplexer, UnaryCall},
    exit::{HandlerState, handler_exited},
    meta::{Clock, Succeeded, failed_term, refused_term},
    request::Call,
    route::Route,
};
use crate::{
    codec,
    reply::{Reply, off_scheduler},
    runtime,
};
use rustler::{Encoder, types::atom};
use snakepit_client::{
    connection::MAX_ATTEMPTS,
    error::Failure,
    multiplexer::{Cancelled, PendingCall, Report, ReturnReason},
    offload::{OFFLOAD_FROM, offload},
};
use snakepit_proto::{CallEvent, CallHeader, Fields, HandlerExit, ReplyFrame};
use std::{pin::Pin, sync::Arc, time::Duration};

/// Starts a call without waiting, so that a scheduler's thread may do it. The reply is
/// `{ref, {:ok, map, meta}}` or `{ref, {:error, failure, meta}}`. If this fails there is no reply.
pub(crate) fn start_unary(
    mut call: Box<Call>,
    route: Route,
    reply: Reply,
    waited: Waited,
) -> Result<(), Failure> {
    let route = match route.at_once(&mut call) {
        Ok(destination) => match destination.multiplexer() {
            Some(multiplexer) => {
                if let Err(failure) = call.check_size(destination.channel()) {
                    reply.forget();
                    return Err(failure);
                }
                UnaryCall::send(&multiplexer, call, destination, reply, waited);
                return Ok(());
            }
            None => Route::At(destination),
        },
        Err(route) => route,
    };
    runtime::spawn(run(call, route, reply, waited, 0))
}

/// Waits for the call's destination, and sends it there. Every call that has to queue is such a task, so its future
/// is small: what an RPC of its own needs is in `run_rpc`.
async fn run(mut call: Box<Call>, route: Route, reply: Reply, waited: Waited, attempt: u32) {
    let destination = match route.destination(&mut call).await {
        Ok(destination) => destination,
        Err(failure) => return reply.send(|env| refused_term(env, &failure, &call)),
    };
    match destination.multiplexer() {
        Some(multiplexer) => {
            if let Err(failure) = call.check_size(destination.channel()) {
                return reply.send(|env| refused_term(env, &failure, &call));
            }
            UnaryCall::send(&multiplexer, call, destination, reply, waited);
        }
        None => run_rpc(call, destination, reply, waited, attempt).await,
    }
}

fn run_rpc(
    mut call: Box<Call>,
    destination: Destination,
    reply: Reply,
    waited: Waited,
    attempt: u32,
) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(async move {
        let clock = Clock::new(&call, destination.worker_id());
        let result = call.within(call.execute(&destination)).await;
        let attempt = attempt + 1;
        if let Err(Failure::NotStarted { refused, .. }) = &result
            && attempt < MAX_ATTEMPTS
        {
            return match destination.redirect(&call, call.is_short(), !refused) {
                Ok(route) => run(call, route, reply, waited, attempt).await,
                Err(failure) => reply.send(|env| refused_term(env, &failure, &call)),
            };
        }
        let (cause, handler) = match &result {
            Ok(_) => (None, HandlerState::Exited),
            Err(failure) => (
                destination.pending_cause(failure),
                HandlerState::after(failure),
            ),
        };
        let exit = destination.release(&call, handler);
        let result = match (result, cause) {
            (Err(failure), Some(cause)) => Err(cause.explain(failure).await),
            (result, _) => result,
        };
        answer(reply, result, clock, Succeeded::of(&mut call));
        drop(waited);
        if let Some(exit) = exit {
            exit.await;
        }
    })
}

/// Decodes and sends the reply; one that takes long to decode on another thread.
fn answer(
    reply: Reply,
    result: Result<Fields, Failure>,
    clock: Clock,
    succeeded: Option<Succeeded>,
) {
    let size = result.as_ref().map_or(0, codec::bytes_to_read);
    let send = move || {
        let meta = clock.meta();
        let mut decoded = false;
        reply.send(|env| {
            match result.and_then(|fields| codec::decode_fields(env, &fields, None)) {
                Ok(map) => {
                    decoded = true;
                    (atom::ok(), map, &meta).encode(env)
                }
                Err(failure) => failed_term(env, &failure, &meta),
            }
        });
        if let Some(succeeded) = succeeded.filter(|_| decoded) {
            succeeded.count(&meta);
        }
    };
    match runtime::get() {
        Ok(runtime) if size >= OFFLOAD_FROM => {
            runtime.spawn(async move { offload(size, send).await });
        }
        _ => send(),
    }
}

fn fail(reply: Reply, clock: &Clock, failure: Failure) {
    let meta = clock.meta();
    off_scheduler(move || reply.send(|env| failed_term(env, &failure, &meta)));
}

/// Fails the call once the cause is known.
fn fail_with_cause(reply: Reply, clock: Clock, failure: Failure, cause: Option<PendingCause>) {
    match (cause, runtime::get()) {
        (Some(cause), Ok(runtime)) => drop(runtime.spawn(async move {
            fail(reply, &clock, cause.explain(failure).await);
        })),
        _ => fail(reply, &clock, failure),
    }
}

impl UnaryCall {
    fn send(
        multiplexer: &Arc<Multiplexer>,
        call: Box<Call>,
        destination: Destination,
        reply: Reply,
        waited: Waited,
    ) {
        let clock = Clock::new(&call, destination.worker_id());
        let watched = waited.call();
        let pending = Self {
            call,
            destination,
            clock,
            reply: Some(reply),
            waited,
        };
        let weak = Arc::downgrade(multiplexer);
        multiplexer.start(pending, |id| {
            watched.on_cancel(move || {
                if let Some(multiplexer) = weak.upgrade() {
                    multiplexer.cancel(id);
                }
            });
        });
    }
}

impl PendingCall for UnaryCall {
    fn header(&mut self) -> &mut CallHeader {
        &mut self.call.header
    }

    fn report(&self, event: CallEvent) -> Option<Report> {
        self.call.report(&self.destination, event)
    }

    fn replied(mut self, frame: ReplyFrame) {
        let Some(reply) = self.reply else {
            return;
        };
        let (result, cause) = if frame.success {
            (Ok(Fields::received(frame.result, frame.result_kinds)), None)
        } else {
            let failure = Failure::from_reply(frame.error, frame.error_detail);
            let cause = self.destination.pending_cause(&failure);
            (Err(failure), cause)
        };
        if let Destination::Worker(lease, _) = self.destination {
            lease.done(Duration::from_nanos(frame.handler_ns));
        }
        let succeeded = Succeeded::of(&mut self.call);
        // The memory of large arguments is free before the caller makes its next call.
        drop(self.call);
        match (result, cause) {
            (Err(failure), Some(cause)) => {
                fail_with_cause(reply, self.clock, failure, Some(cause));
            }
            (result, _) => answer(reply, result, self.clock, succeeded),
        }
    }

    fn cancelled(&mut self, why: Cancelled) {
        let Some(reply) = self.reply.take() else {
            return;
        };
        match why {
            Cancelled::TimedOut => fail(reply, &self.clock, self.call.timed_out()),
            Cancelled::ByCaller => reply.forget(),
        }
    }

    fn exited(self, exit: Option<HandlerExit>, after: Duration) {
        if let Destination::Worker(lease, _) = self.destination {
            let header = &self.call.header;
            handler_exited(lease, exit, after, header.command(), header.request_id());
        }
    }

    fn lost(self, cause: &str) {
        let failure = Failure::WorkerCrashed(cause.into());
        let cause = self.destination.pending_cause(&failure);
        // The caller's next call must not find the worker again.
        if let Destination::Worker(lease, _) = self.destination {
            lease.retire();
        }
        if let Some(reply) = self.reply {
            fail_with_cause(reply, self.clock, failure, cause);
        }
    }

    fn not_started(self, reason: ReturnReason) {
        let Some(reply) = self.reply else {
            return;
        };
        let call = self.call;
        let lost = reason == ReturnReason::ConnectionLost;
        match self.destination.redirect(&call, true, lost) {
            // Without a runtime, dropping the reply sends the caller a failure.
            Ok(route) => drop(runtime::spawn(run(call, route, reply, self.waited, 0))),
            Err(failure) => {
                off_scheduler(move || reply.send(|env| refused_term(env, &failure, &call)));
            }
        }
    }

    fn stalled(&self) {
        if let Destination::Worker(lease, _) = &self.destination {
            lease.stall();
        }
    }
}
