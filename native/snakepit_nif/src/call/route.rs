//! The way of a call to where it is sent: a place on a pool's worker, at once or from the queue, or a
//! connection.

use super::{Call, Endpoint, destination::Place, sleep_until};
use crate::pool::{Pool, Worker};
use snakepit_client::{
    failure::Failure,
    pool::{AcquireOptions, Acquired, Granted, Lease, Ticket},
};
use std::{sync::Arc, time::Instant};
use tokio::sync::oneshot;

/// Where a call is on its way to a worker.
pub(crate) enum Route {
    Queued(Waiting),
    Channel(Arc<Endpoint>),
    At(Place),
}

impl Route {
    pub(super) async fn place(self, call: &Call) -> Result<Place, Failure> {
        match self {
            Self::At(place) => Ok(place),
            Self::Channel(endpoint) => {
                let link = call.within(endpoint.connected()).await?;
                Ok(Place::Channel(endpoint, link))
            }
            Self::Queued(waiting) => Place::on(waiting.lease(call).await?),
        }
    }

    /// Takes a slot of a worker, or a place in the pool's queue; see `Call::acquire`.
    pub(crate) fn to_pool(
        pool: &Arc<Pool>,
        call: &Call,
        pipelines: bool,
        requeued: bool,
    ) -> Result<Self, Failure> {
        match call.acquire(pool, pipelines, requeued)? {
            Acquired::Now(lease) => Place::on(lease).map(Self::At),
            Acquired::Queued(ticket, granted) => Ok(Self::Queued(Waiting::new(ticket, granted))),
        }
    }

    /// The place that is there already, or the way to it.
    pub(crate) fn at_once(self) -> Result<Place, Self> {
        match self {
            Self::At(place) => Ok(place),
            Self::Channel(endpoint) => match endpoint.open_link() {
                Some(link) => Ok(Place::Channel(endpoint, link)),
                None => Err(Self::Channel(endpoint)),
            },
            Self::Queued(_) => Err(self),
        }
    }
}

impl Call {
    /// `pipelines`: whether the call may be sent to a worker that is still busy with earlier ones. `requeued`:
    /// whether it had a worker before and has not started there.
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
        pool.submit(options).map_err(|error| self.refused(error))
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
                () = sleep_until(call.deadline()) => return Err(Failure::NotReady(self.ticket.startup())),
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
