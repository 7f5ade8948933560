//! Runs streams: calls with many replies.

use super::{
    consumer::Consumer,
    destination::Destination,
    exit::HandlerState,
    meta::{Clock, refused_meta},
    request::Call,
    route::Route,
    timeouts::StreamTimeouts,
};
use crate::{events::Events, failure_term::reason_atom, terms::Meta};
use snakepit_client::{
    connection::MAX_ATTEMPTS,
    credit::Credit,
    error::{Failure, Reason},
    numbers::Ended,
};
use snakepit_proto::StreamResponse;
use std::time::Instant;
use tonic::Streaming;

/// Runs a stream and sends its events to the owner.
pub(crate) async fn run_stream(
    mut call: Call,
    route: Route,
    credit: Credit,
    timeouts: StreamTimeouts,
    events: Events,
) {
    let (destination, clock, opened) = match open(&mut call, route, &timeouts, &Chunks).await {
        Ok(opened) => opened,
        Err(failure) => {
            let failed = Err(failure);
            count(&call, &failed, None);
            return events.finish(failed, &refused_meta(&call));
        }
    };
    let channel = destination.channel().clone();
    let (events, result) = match opened {
        Err(failure) => (Some(events), Err(failure)),
        Ok(stream) => {
            let consumer = Consumer {
                call: &call,
                destination: &destination,
                channel: &channel,
                credit: &credit,
                timeouts: &timeouts,
            };
            consumer.pass_on(stream, events).await
        }
    };
    let handler = HandlerState::of(&result);
    let result = match result {
        Err(failure) => Err(channel.explain(failure).await),
        Ok(()) => Ok(()),
    };
    let (result, exit) = destination.settle(&call, result, handler).await;
    let meta = clock.meta(call.header.request_id(), Instant::now());
    count(&call, &result, Some(&meta));
    if let Some(events) = events {
        events.finish(result, &meta);
    }
    if let Some(exit) = exit {
        exit.await;
    }
}

/// Counts a stream that has ended. One that its consumer has cancelled has not failed.
pub(super) fn count(call: &Call, result: &Result<(), Failure>, meta: Option<&Meta<'_>>) {
    let reason = result.as_ref().err().map(Failure::reason);
    let error = reason.filter(|reason| *reason != Reason::Cancelled);
    if let Some(numbers) = &call.numbers {
        numbers.record(&Ended {
            command: call.header.command(),
            error: error.map(reason_atom),
            times: meta.map(|meta| (meta.queue_us, meta.execution_us)),
            batch_size: 0,
        });
    }
}

/// An RPC of its own for a call.
pub(super) trait OwnRpc: Sync {
    type Opened: Send;

    fn open(
        &self,
        call: &Call,
        destination: &Destination,
    ) -> impl Future<Output = Result<Self::Opened, Failure>> + Send;
}

struct Chunks;

impl OwnRpc for Chunks {
    type Opened = Streaming<StreamResponse>;

    async fn open(
        &self,
        call: &Call,
        destination: &Destination,
    ) -> Result<Streaming<StreamResponse>, Failure> {
        call.open_stream(destination).await
    }
}

/// Finds a destination and opens the RPC there; at another destination if it has not started there. Fails if there is
/// no destination.
pub(super) async fn open<R: OwnRpc>(
    call: &mut Call,
    mut route: Route,
    timeouts: &StreamTimeouts,
    rpc: &R,
) -> Result<(Destination, Clock, Result<R::Opened, Failure>), Failure> {
    let started = call.started;
    let mut attempt = 0;
    loop {
        let destination = timeouts.for_first(started, route.destination(call)).await?;
        let clock = Clock::new(call, destination.worker_id(), Instant::now());
        let opening = call.within(rpc.open(call, &destination));
        let opened = timeouts.for_first(started, opening).await;
        attempt += 1;
        match opened {
            Err(Failure::NotStarted { refused, .. }) if attempt < MAX_ATTEMPTS => {
                route = destination.redirect(call, !refused)?;
            }
            opened => return Ok((destination, clock, opened)),
        }
    }
}
