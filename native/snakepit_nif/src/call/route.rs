//! Finds where a call is sent: a lease of a pool's worker, at once or from the queue, or a connection.

use super::{
    destination::{Destination, Endpoint, Pool, Worker},
    request::Call,
};
use crate::conversation::ConversationResource;
use rustler::ResourceArc;
use snakepit_client::{
    error::Failure,
    pool::{AcquireError, AcquireOptions, Granted, HeldPlace, Lease, Submitted, Ticket},
};
use snakepit_proto::{TAKES_PROGRESS, TAKES_TELEMETRY};
use std::sync::Arc;
use tokio::sync::oneshot;

/// What a call is made to.
pub(crate) enum Target {
    Pool(Arc<Pool>),
    Channel(Arc<Endpoint>),
}

/// Where a call is to be sent that takes a worker's whole place, as far as that is known.
pub(crate) enum Route {
    Queued(Waiting),
    /// The connection may have to be made first.
    Channel(Arc<Endpoint>),
    At(Destination),
}

impl Route {
    /// Leases a worker or joins the pool's queue. `requeued`: whether the call had a worker before and has not started
    /// there.
    pub(crate) fn to(target: Target, call: &Call, requeued: bool) -> Result<Self, Failure> {
        let pool = match target {
            Target::Channel(endpoint) => return Ok(Self::Channel(endpoint)),
            Target::Pool(pool) => pool,
        };
        let (sender, granted) = oneshot::channel();
        match pool.submit(call.acquire_options(&pool, false, requeued), sender) {
            Submitted::Now(lease, _) => Destination::on_worker(lease).map(Self::At),
            Submitted::Queued(ticket) => Ok(Self::Queued(Waiting { ticket, granted })),
            Submitted::Refused(error, _) => Err(call.not_acquired(error)),
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
    pub(crate) fn acquire_options(
        &self,
        pool: &Pool,
        pipelines: bool,
        requeued: bool,
    ) -> AcquireOptions {
        AcquireOptions {
            since: self.started,
            priority: self.priority,
            deadline: self.header.deadline(),
            queue_timeout: self.queue_timeout,
            session: self.session.clone(),
            command: pool.command(self.header.command()),
            pipelines,
            requeued,
            held: self.held_in(pool),
        }
    }

    /// The places in a pool of the calls that wait for this one.
    fn held_in(&self, pool: &Pool) -> Vec<HeldPlace> {
        let holding = self.holding.iter();
        let place = |call: &ResourceArc<ConversationResource>| call.place_in(pool.client_id());
        holding.filter_map(place).collect()
    }

    /// Sets what depends on the destination: the generation of the call's session, further metadata, and which events are
    /// taken.
    pub(super) fn sent_to(&mut self, destination: Destination) -> Destination {
        let worker = destination.worker();
        let client_id = worker.map_or(0, |worker| worker.client_id);
        // A session that the pool does not know is of no client: the server has one for all.
        if self.session.is_some() {
            self.header
                .set_generation(client_id, destination.generation());
        }
        self.header.add_metadata(&destination.channel().metadata);
        let telemetry = worker.is_some_and(|worker| worker.observer.is_some());
        let mut events = u32::from(telemetry) * TAKES_TELEMETRY;
        if self.progress.is_some() {
            events += TAKES_PROGRESS;
        }
        self.header.set_takes_events(events);
        destination
    }

    pub(crate) fn not_acquired(&self, error: AcquireError) -> Failure {
        match error {
            AcquireError::Saturated { max_queue } => Failure::Saturated {
                max_queue,
                remote: self.remote,
            },
            AcquireError::TimedOut => Failure::Timeout {
                after: self.timeout.unwrap_or_default(),
                queued: true,
            },
            AcquireError::QueueTimedOut { has_workers } => Failure::QueueTimeout {
                after: self.queue_timeout.unwrap_or_default(),
                has_workers,
                remote: self.remote,
            },
            AcquireError::NotReady(startup) => Failure::NotReady(startup),
            AcquireError::Reentrant => Failure::Reentrant,
            AcquireError::GivenUp => Failure::Cancelled,
            AcquireError::SessionLost => Failure::SessionLost {
                remote: self.remote,
            },
            AcquireError::Unavailable(unavailable) if unavailable.no_grpc => {
                Failure::NoGrpc(unavailable.why.clone())
            }
            AcquireError::Unavailable(unavailable) => Failure::NoWorker(unavailable.why.clone()),
            AcquireError::Closed => Failure::PoolStopped,
        }
    }
}

impl Destination {
    /// A call has not started here. Returns what it is made to again, and the lease to give back after that.
    /// `connection_lost`: no call can start here.
    pub(super) fn leave(self, connection_lost: bool) -> (Target, Option<Lease<Arc<Worker>>>) {
        if connection_lost {
            self.channel().closed.cancel();
        }
        match self {
            Self::Channel(endpoint, _) => (Target::Channel(endpoint), None),
            Self::Worker(lease, _) => {
                if connection_lost {
                    lease.pause();
                }
                (Target::Pool(lease.dispatcher()), Some(lease))
            }
        }
    }

    pub(super) fn redirect(self, call: &Call, connection_lost: bool) -> Result<Route, Failure> {
        let (target, lease) = self.leave(connection_lost);
        let route = Route::to(target, call, true);
        if let Some(lease) = lease {
            lease.give_back_unused();
        }
        route
    }
}

/// A call in a pool's queue, which it leaves when this is dropped.
pub(crate) struct Waiting {
    ticket: Ticket<Arc<Worker>>,
    granted: oneshot::Receiver<Granted<Arc<Worker>>>,
}

impl Waiting {
    async fn lease(mut self, call: &Call) -> Result<Lease<Arc<Worker>>, Failure> {
        tokio::select! {
            biased;
            granted = &mut self.granted => match granted {
                Ok(granted) => granted.map_err(|error| call.not_acquired(error)),
                Err(_) => Err(Failure::Dropped),
            },
            () = call.cancelled.cancelled() => Err(Failure::Cancelled),
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.ticket.give_up();
    }
}
