//! The way of a call to where it is sent: a place on a pool's worker, at once or from the queue, or a
//! connection.

use super::{Call, Endpoint, destination::Place, sleep_until};
use crate::pool::{Pool, Worker};
use snakepit_client::{
    failure::Failure,
    pool::{Grant, Lease, Ticket, Wish},
};
use std::{sync::Arc, time::Instant};
use tokio::sync::oneshot;

/// Where a call is on its way to a worker.
pub(crate) enum Route {
    Pool(Waiting),
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
            Self::Pool(waiting) => Place::on(waiting.lease(call).await?),
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
            Self::Pool(mut waiting) => match waiting.at_once().map(Place::on) {
                Some(Ok(place)) => Ok(place),
                _ => Err(Self::Pool(waiting)),
            },
        }
    }
}

/// A call that has a place in a pool or in its queue.
pub(crate) struct Waiting {
    granted: oneshot::Receiver<Grant<Arc<Worker>>>,
    ticket: Ticket<Arc<Worker>>,
}

impl Waiting {
    /// `pipelines`: whether the call may be sent to a worker before that is free.
    pub(crate) fn begin(pool: &Arc<Pool>, call: &Call, pipelines: bool) -> Result<Self, Failure> {
        Self::submit(pool, call, pipelines, false)
    }

    /// For a call that comes back from a worker without having started there.
    pub(crate) fn again(pool: &Arc<Pool>, call: &Call, pipelines: bool) -> Result<Self, Failure> {
        Self::submit(pool, call, pipelines, true)
    }

    pub(super) fn submit(
        pool: &Arc<Pool>,
        call: &Call,
        pipelines: bool,
        early: bool,
    ) -> Result<Self, Failure> {
        let (tx, granted) = oneshot::channel();
        let wish = Wish {
            deadline: call.queue_deadline(call.started),
            session: call.session.clone(),
            pipelines,
            early,
        };
        pool.submit(wish, move |grant| drop(tx.send(grant)))
            .map(|ticket| Self { granted, ticket })
            .map_err(|refusal| call.refused(refusal))
    }

    /// The place that was free when the call came, if one was.
    pub(crate) fn at_once(&mut self) -> Option<Lease<Arc<Worker>>> {
        self.granted.try_recv().ok()?.ok()
    }

    pub(crate) async fn lease(mut self, call: &Call) -> Result<Lease<Arc<Worker>>, Failure> {
        let mut since = call.started;
        if let Some(started) = self.ticket.starting() {
            tokio::select! {
                biased;
                granted = &mut self.granted => return call.granted(granted),
                () = call.cancelled.cancelled() => return Err(Failure::Cancelled),
                () = started.cancelled() => since = Instant::now(),
                () = sleep_until(call.deadline()) => return Err(self.not_ready(call)),
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

    /// Its time was up before the pool had any worker.
    pub(super) fn not_ready(&self, call: &Call) -> Failure {
        match self.ticket.startup() {
            Some(startup) => Failure::NotReady(startup),
            None => call.expired(call.started, false),
        }
    }
}
