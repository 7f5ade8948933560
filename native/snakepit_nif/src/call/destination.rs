//! Where a call is sent, and what becomes of that place when the call ends.

use super::{Call, Endpoint, Link, Route};
use crate::pool::{Abandoned, Worker, await_idle};
use snakepit_client::{channel::Channel, failure::Failure, pool::Lease};
use std::sync::Arc;

/// What the RPC runs on.
pub(crate) enum Place {
    Worker(Lease<Arc<Worker>>, Arc<Link>),
    Channel(Arc<Endpoint>, Arc<Link>),
}

impl Place {
    pub(super) fn on(lease: Lease<Arc<Worker>>) -> Result<Self, Failure> {
        match lease.worker().link.clone() {
            Some(link) => Ok(Self::Worker(lease, link)),
            None => Err(Failure::Dropped),
        }
    }

    pub(crate) fn channel(&self) -> &Channel {
        match self {
            Self::Worker(_, link) | Self::Channel(_, link) => &link.channel,
        }
    }

    /// The way of a call that has not started here. `gone`: nothing starts here any more.
    pub(super) fn elsewhere(
        self,
        call: &Call,
        pipelines: bool,
        gone: bool,
    ) -> Result<Route, Failure> {
        if gone {
            self.channel().closed.cancel();
        }
        match self {
            Self::Channel(endpoint, _) => Ok(Route::Channel(endpoint)),
            Self::Worker(lease, _) => {
                if gone {
                    lease.pause();
                }
                let again = Route::to_pool(&lease.dispatcher(), call, pipelines, true);
                lease.give_back_unused();
                again
            }
        }
    }

    pub(super) fn session_generation(&self) -> u64 {
        match self {
            Self::Worker(lease, _) => lease.session_generation(),
            Self::Channel(..) => 0,
        }
    }

    pub(super) fn worker_id(&self) -> Option<String> {
        match self {
            Self::Worker(lease, _) => Some(lease.worker().id.clone()),
            Self::Channel(..) => None,
        }
    }

    /// Gives the place back if the call's end says enough; the rest is to be awaited after the
    /// caller was told.
    pub(super) fn give_back(
        self,
        call: &Call,
        ended: Ended,
    ) -> Option<impl Future<Output = ()> + use<>> {
        let Self::Worker(lease, _) = self else {
            return None;
        };
        match ended {
            Ended::Answered => None,
            Ended::Crashed => {
                lease.retire();
                None
            }
            Ended::Unknown => {
                let call = Abandoned {
                    id: call.id,
                    command: call.command.clone(),
                    request_id: call.request_id.clone(),
                };
                Some(await_idle(lease, call))
            }
        }
    }
}

/// What the end of an RPC says about the handler behind it.
#[derive(Clone, Copy)]
pub(super) enum Ended {
    Answered,
    Crashed,
    Unknown,
}

impl Ended {
    pub(super) fn by(failure: &Failure) -> Self {
        match failure {
            Failure::Remote(_) | Failure::TooLarge { .. } | Failure::NotStarted { .. } => {
                Self::Answered
            }
            Failure::WorkerCrashed(_) => Self::Crashed,
            _ => Self::Unknown,
        }
    }
}
