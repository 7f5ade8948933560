//! Runs unary calls: as frames if the server implements `Calls`, otherwise as RPCs of their own.

use super::{
    answer::{answer, fail, fail_with_cause},
    caller::Waited,
    destination::{Destination, Endpoint, Multiplexer, UnaryCall, Worker},
    exit::{HandlerState, handler_exited},
    meta::{Answered, BatchPart, Clock, refused_term},
    request::{Call, Refused},
    route::Target,
};
use crate::{
    reply::{Reply, off_scheduler},
    runtime,
};
use rustler::Env;
use snakepit_client::{
    connection::MAX_ATTEMPTS,
    error::Failure,
    multiplexer::{Cancelled, Exit, Lost, PendingCall, Report, ReturnReason},
    pool::{AcquireError, Granted, Lease, QueuedCall, Submitted, Ticket},
};
use snakepit_proto::{CallEvent, CallHeader, Fields, ReplyFrame};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// Starts a call without waiting, so that a scheduler's thread may do it. The reply is
/// `{ref, {:ok, map, meta}}` or `{ref, {:error, failure, meta}}`. If it is refused there is no reply.
pub(crate) fn start_unary(
    call: Box<Call>,
    target: Target,
    reply: Reply,
    waited: Waited,
) -> Result<(), Refused> {
    let call = UnplacedCall {
        call,
        reply,
        waited,
        attempt: 0,
    };
    // Without a runtime nothing could be sent to the caller.
    let placed = match runtime::started() {
        Ok(_) => call.place(target, false),
        Err(failure) => Err(call.refused(failure)),
    };
    placed.map_err(|unplaceable| {
        let Unplaceable { failure, call } = *unplaceable;
        call.reply.forget();
        Refused {
            failure,
            call: call.call,
        }
    })
}

/// A call that has no destination yet.
struct UnplacedCall {
    call: Box<Call>,
    reply: Reply,
    waited: Waited,
    /// How many times it was sent as an RPC of its own.
    attempt: u32,
}

/// A call that gets no destination.
struct Unplaceable {
    failure: Failure,
    call: UnplacedCall,
}

impl Unplaceable {
    fn send(self) {
        let Self { failure, call } = self;
        let UnplacedCall {
            call,
            reply,
            waited,
            ..
        } = call;
        off_scheduler(move || {
            reply.send(|env| refused_term(env, &failure, &call));
            drop(waited);
        });
    }
}

impl UnplacedCall {
    /// Sends the call to a worker or a connection, or queues it. `requeued`: whether it had a worker before and has not
    /// started there.
    fn place(self, target: Target, requeued: bool) -> Result<(), Box<Unplaceable>> {
        match target {
            Target::Pool(pool) => {
                let pipelines = self.call.is_short();
                let options = self.call.acquire_options(&pool, pipelines, requeued);
                match pool.submit(options, self) {
                    Submitted::Now(lease, call) => call.send_on(lease),
                    Submitted::Queued(_) => Ok(()),
                    Submitted::Refused(error, call) => {
                        let failure = call.call.not_acquired(error);
                        Err(call.refused(failure))
                    }
                }
            }
            Target::Channel(endpoint) => match endpoint.open() {
                Some(connection) => self.send_to(Destination::Channel(endpoint, connection)),
                None => self.connect(endpoint),
            },
        }
    }

    fn connect(self, endpoint: Arc<Endpoint>) -> Result<(), Box<Unplaceable>> {
        self.spawn(|call| async move {
            let sent = match call.call.within(endpoint.connected()).await {
                Ok(connection) => call.send_to(Destination::Channel(endpoint, connection)),
                Err(failure) => Err(call.refused(failure)),
            };
            if let Err(refused) = sent {
                refused.send();
            }
        })
    }

    fn send_on(self, lease: Lease<Arc<Worker>>) -> Result<(), Box<Unplaceable>> {
        match Destination::on_worker(lease) {
            Ok(destination) => self.send_to(destination),
            Err(failure) => Err(self.refused(failure)),
        }
    }

    fn send_to(mut self, destination: Destination) -> Result<(), Box<Unplaceable>> {
        let destination = self.call.sent_to(destination);
        let Some(multiplexer) = destination.multiplexer() else {
            return self.spawn(|call| call.run_rpc(destination));
        };
        if let Err(failure) = self.call.check_size(destination.channel()) {
            return Err(self.refused(failure));
        }
        UnaryCall::send(
            &multiplexer,
            self.call,
            destination,
            self.reply,
            self.waited,
        );
        Ok(())
    }

    /// Makes the call again that has not started at the destination.
    fn redirect(self, destination: Destination, connection_lost: bool) {
        let (target, lease) = destination.leave(connection_lost);
        let placed = self.place(target, true);
        if let Some(lease) = lease {
            lease.give_back_unused();
        }
        if let Err(refused) = placed {
            refused.send();
        }
    }

    fn refused(self, failure: Failure) -> Box<Unplaceable> {
        Box::new(Unplaceable {
            failure,
            call: self,
        })
    }

    fn spawn<F>(self, work: impl FnOnce(Self) -> F) -> Result<(), Box<Unplaceable>>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        match runtime::started() {
            Ok(runtime) => {
                runtime.spawn(work(self));
                Ok(())
            }
            Err(failure) => Err(self.refused(failure)),
        }
    }

    /// Sends the call as an RPC of its own.
    async fn run_rpc(mut self, destination: Destination) {
        let call = &self.call;
        let mut clock = Clock::new(call, destination.worker_id(), Instant::now());
        let executed = call.within(call.execute(&destination)).await;
        let result = match executed {
            Ok((result, batch)) => {
                clock.set_batch(batch);
                result
            }
            Err(failure) => Err(destination.channel().explain(failure).await),
        };
        self.attempt += 1;
        if let Err(Failure::NotStarted { refused, .. }) = &result
            && self.attempt < MAX_ATTEMPTS
        {
            return self.redirect(destination, !refused);
        }
        let handler = HandlerState::of(&result);
        let (result, exit) = destination.settle(&self.call, result, handler).await;
        let answered = Answered::of(&mut self.call);
        answer(self.reply, result, clock, answered, None);
        drop(self.waited);
        if let Some(exit) = exit {
            exit.await;
        }
    }
}

impl QueuedCall<Arc<Worker>> for UnplacedCall {
    fn queued(&self, ticket: Ticket<Arc<Worker>>) {
        self.waited.on_cancel(move || ticket.give_up());
    }

    fn granted(self: Box<Self>, granted: Granted<Arc<Worker>>) {
        let placed = match granted {
            Ok(lease) if self.call.cancelled.is_cancelled() => {
                lease.give_back_unused();
                return self.reply.forget();
            }
            Ok(lease) => self.send_on(lease),
            Err(AcquireError::GivenUp) => return self.reply.forget(),
            Err(error) => {
                let failure = self.call.not_acquired(error);
                Err(self.refused(failure))
            }
        };
        if let Err(refused) = placed {
            refused.send();
        }
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
        let now = Instant::now();
        let clock = Clock::new(&call, destination.worker_id(), now);
        let watched = waited.call();
        let pending = Self {
            call,
            destination,
            clock,
            reply: Some(reply),
            waited,
        };
        let weak = Arc::downgrade(multiplexer);
        multiplexer.start(pending, now, |id| {
            watched.on_cancel(move || {
                if let Some(multiplexer) = weak.upgrade() {
                    multiplexer.cancel(id);
                }
            });
        });
    }
}

impl UnaryCall {
    /// As `replied`, on a scheduler's thread, of whose process `env` is. The reply must be small and no failure.
    pub(crate) fn replied_here(self, env: Env<'_>, frame: ReplyFrame) {
        self.answer(frame, Some(env));
    }

    fn answer(mut self, frame: ReplyFrame, env: Option<Env<'_>>) {
        let Some(reply) = self.reply else {
            return;
        };
        self.clock.set_batch(BatchPart {
            size: frame.batch_size,
            wait_us: frame.batch_wait_us,
        });
        self.destination.count(Ok(()));
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
        let answered = Answered::of(&mut self.call);
        // The memory of large arguments is free before the caller makes its next call.
        drop(self.call);
        match (result, cause) {
            (Err(failure), Some(cause)) => {
                fail_with_cause(reply, self.clock, answered.request_id, failure, Some(cause));
            }
            (result, _) => answer(reply, result, self.clock, answered, env),
        }
    }
}

impl PendingCall for UnaryCall {
    fn header(&mut self) -> &mut CallHeader {
        &mut self.call.header
    }

    fn report(&self, event: CallEvent) -> Option<Report> {
        self.call.report(&self.destination, event)
    }

    fn is_batched(&self) -> bool {
        match &self.destination {
            Destination::Worker(lease, _) => lease.is_batched(),
            Destination::Channel(..) => false,
        }
    }

    fn replied(self, frame: ReplyFrame) {
        self.answer(frame, None);
    }

    fn cancelled(&mut self, why: Cancelled) -> Report {
        let reply = self.reply.take();
        match (reply, why) {
            (Some(reply), Cancelled::TimedOut) => {
                let (clock, failure) = (self.clock.clone(), self.call.timed_out());
                let request_id = self.call.header.request_id().to_owned();
                Box::new(move || fail(reply, clock, request_id, failure))
            }
            (reply, _) => Box::new(move || reply.into_iter().for_each(Reply::forget)),
        }
    }

    fn exited(self, exit: Exit, after: Duration) {
        if let Destination::Worker(lease, _) = self.destination {
            let header = &self.call.header;
            handler_exited(lease, exit, after, header.command(), header.request_id());
        }
    }

    fn lost(mut self, what: Lost, cause: &str) {
        let failure = match what {
            Lost::Rpc => Failure::CallEnded(cause.into()),
            Lost::Connection => Failure::WorkerCrashed(cause.into()),
        };
        let (failure, cause) = self.destination.failed(failure);
        if let Destination::Worker(lease, _) = self.destination {
            match what {
                // No call that is sent ahead could be recalled.
                Lost::Rpc => lease.stall(),
                // The caller's next call must not find the worker again.
                Lost::Connection => lease.retire_lost(),
            }
        }
        if let Some(reply) = self.reply {
            let request_id = self.call.header.take_request_id();
            fail_with_cause(reply, self.clock, request_id, failure, cause);
        }
    }

    fn not_started(self, reason: ReturnReason) {
        let Some(reply) = self.reply else {
            return;
        };
        let call = UnplacedCall {
            call: self.call,
            reply,
            waited: self.waited,
            attempt: 0,
        };
        let destination = self.destination;
        match reason {
            ReturnReason::Recalled => call.redirect(destination, false),
            // The next connection may be lost as well, and the next.
            ReturnReason::Lost(what) => drop(call.spawn(async move |call: UnplacedCall| {
                call.redirect(destination, what == Lost::Connection);
            })),
        }
    }

    fn stalled(&self) {
        if let Destination::Worker(lease, _) = &self.destination {
            lease.stall();
        }
    }
}
