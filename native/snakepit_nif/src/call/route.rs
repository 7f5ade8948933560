//! Finds where a call is sent: a lease of a pool's worker, at once or from the queue, or a connection.

use super::{
    destination::{Destination, Endpoint, Pool, Worker},
    request::{Call, sleep_until},
};
use snakepit_client::{
    error::Failure,
    pool::{AcquireError, AcquireOptions, Acquired, Granted, Lease, Ticket},
};
use snakepit_proto::{TAKES_PROGRESS, TAKES_TELEMETRY};
use std::{sync::Arc, time::Instant};
use tokio::sync::oneshot;

/// Where a call is to be sent, as far as that is known.
pub(crate) enum Route {
    Queued(Waiting),
    /// The connection may have to be made first.
    Channel(Arc<Endpoint>),
    At(Destination),
}

impl Route {
    /// Leases a worker or joins the pool's queue; see `Call::acquire`.
    pub(crate) fn to_pool(
        pool: &Arc<Pool>,
        call: &Call,
        pipelines: bool,
        requeued: bool,
    ) -> Result<Self, Failure> {
        match call.acquire(pool, pipelines, requeued)? {
            Acquired::Now(lease) => Destination::on_worker(lease).map(Self::At),
            Acquired::Queued(ticket, granted) => Ok(Self::Queued(Waiting::new(ticket, granted))),
        }
    }

    /// The destination if that is already known.
    pub(super) fn at_once(self, call: &mut Call) -> Result<Destination, Self> {
        match self {
            Self::At(destination) => Ok(call.sent_to(destination)),
            Self::Channel(endpoint) => match endpoint.open() {
                Some(connection) => Ok(call.sent_to(Destination::Channel(endpoint, connection))),
                None => Err(Self::Channel(endpoint)),
            },
            Self::Queued(_) => Err(self),
        }
    }

    /// Waits for the destination.
    pub(super) async fn destination(self, call: &mut Call) -> Result<Destination, Failure> {
        let destination = match self {
            Self::At(destination) => destination,
            Self::Channel(endpoint) => {
                let connection = call.within(endpoint.connected()).await?;
                Destination::Channel(endpoint, connection)
            }
            Self::Queued(waiting) => Destination::on_worker(waiting.lease(call).await?)?,
        };
        Ok(call.sent_to(destination))
    }
}

impl Call {
    /// `pipelines`: whether the call may be sent to a worker that is still busy with earlier ones.
    /// `requeued`: whether it had a worker before and has not started there.
    pub(crate) fn acquire(
        &self,
        pool: &Arc<Pool>,
        pipelines: bool,
        requeued: bool,
    ) -> Result<Acquired<Arc<Worker>>, Failure> {
        let options = AcquireOptions {
            deadline: self.queue_deadline(self.started),
            session: self.session.clone(),
            pipelines,
            requeued,
        };
        pool.submit(options)
            .map_err(|error| self.not_acquired(error))
    }

    fn granted(
        &self,
        granted: Result<Granted<Arc<Worker>>, oneshot::error::RecvError>,
    ) -> Result<Lease<Arc<Worker>>, Failure> {
        match granted {
            Ok(granted) => granted.map_err(|error| self.not_acquired(error)),
            Err(_) => Err(Failure::Dropped),
        }
    }

    /// Sets the generation that the call's session has at the destination, and which events are taken.
    fn sent_to(&mut self, destination: Destination) -> Destination {
        self.header.set_generation(destination.generation());
        let worker = destination.worker();
        let telemetry = worker.is_some_and(|worker| worker.observer.is_some());
        let mut events = u32::from(telemetry) * TAKES_TELEMETRY;
        if self.progress.is_some() {
            events += TAKES_PROGRESS;
        }
        self.header.set_takes_events(events);
        destination
    }

    fn not_acquired(&self, error: AcquireError) -> Failure {
        match error {
            AcquireError::Saturated { max_queue } => Failure::Saturated { max_queue },
            AcquireError::Expired => self.expired(self.started, true),
            AcquireError::SessionLost => Failure::SessionLost,
            AcquireError::Unavailable(unavailable) if unavailable.no_grpc => {
                Failure::NoGrpc(unavailable.why.clone())
            }
            AcquireError::Unavailable(unavailable) => Failure::NoWorker(unavailable.why.clone()),
            AcquireError::Closed => Failure::PoolStopped,
        }
    }

    /// The failure of a call that waited too long for a worker.
    fn expired(&self, since: Instant, has_workers: bool) -> Failure {
        let queue = self.queue_timeout.map(|timeout| since + timeout);
        match (self.timeout, self.queue_timeout) {
            (Some(after), _) if queue.is_none_or(|queue| self.started + after <= queue) => {
                Failure::Timeout {
                    after,
                    queued: true,
                }
            }
            (_, after) => Failure::QueueTimeout {
                after: after.unwrap_or_default(),
                has_workers,
            },
        }
    }

    /// When the wait for a worker ends. The queue timeout runs from `since` on.
    fn queue_deadline(&self, since: Instant) -> Option<Instant> {
        let queue = self.queue_timeout.map(|timeout| since + timeout);
        self.header.deadline().into_iter().chain(queue).min()
    }
}

impl Destination {
    /// Routes a call again that has not started here. `connection_lost`: no call can start here.
    pub(super) fn redirect(
        self,
        call: &Call,
        pipelines: bool,
        connection_lost: bool,
    ) -> Result<Route, Failure> {
        if connection_lost {
            self.channel().closed.cancel();
        }
        match self {
            Self::Channel(endpoint, _) => Ok(Route::Channel(endpoint)),
            Self::Worker(lease, _) => {
                if connection_lost {
                    lease.pause();
                }
                let route = Route::to_pool(&lease.dispatcher(), call, pipelines, true);
                lease.give_back_unused();
                route
            }
        }
    }
}

/// A call in a pool's queue.
pub(crate) struct Waiting {
    ticket: Ticket<Arc<Worker>>,
    granted: oneshot::Receiver<Granted<Arc<Worker>>>,
}

impl Waiting {
    pub(crate) fn new(
        ticket: Ticket<Arc<Worker>>,
        granted: oneshot::Receiver<Granted<Arc<Worker>>>,
    ) -> Self {
        Self { ticket, granted }
    }

    pub(crate) async fn lease(mut self, call: &Call) -> Result<Lease<Arc<Worker>>, Failure> {
        let mut since = call.started;
        if let Some(started) = self.ticket.starting() {
            tokio::select! {
                biased;
                granted = &mut self.granted => return call.granted(granted),
                () = call.cancelled.cancelled() => return Err(Failure::Cancelled),
                () = started.cancelled() => since = Instant::now(),
                () = sleep_until(call.header.deadline()) => {
                    return Err(Failure::NotReady(self.ticket.startup()));
                }
            }
        }
        tokio::select! {
            biased;
            granted = &mut self.granted => call.granted(granted),
            () = call.cancelled.cancelled() => Err(Failure::Cancelled),
            () = sleep_until(call.queue_deadline(since)) => {
                Err(call.expired(since, self.ticket.has_workers()))
            }
        }
    }
}
