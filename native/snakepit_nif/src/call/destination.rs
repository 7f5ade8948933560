//! Where a call is sent, and what becomes of that place when the call ends.

use super::{Call, Connection, Endpoint, Multiplexer, Route};
use crate::pool::{CancelledCall, Worker, await_exit};
use snakepit_client::{channel::Channel, failure::Failure, pool::Lease};
use std::sync::Arc;

/// From here on a call is an RPC of its own, so that its worker's other calls do not wait for its
/// bytes. Below that they wait for some milliseconds: an RPC of its own takes twice as long.
const FRAMED_UP_TO: usize = 32 * 1024 * 1024;

pub(crate) enum Destination {
    Worker(Lease<Arc<Worker>>, Arc<Connection>),
    Channel(Arc<Endpoint>, Arc<Connection>),
}

impl Destination {
    pub(super) fn on_worker(lease: Lease<Arc<Worker>>) -> Result<Self, Failure> {
        match lease.worker().connection.clone() {
            Some(connection) => Ok(Self::Worker(lease, connection)),
            None => Err(Failure::Dropped),
        }
    }

    fn connection(&self) -> &Arc<Connection> {
        match self {
            Self::Worker(_, connection) | Self::Channel(_, connection) => connection,
        }
    }

    pub(super) fn channel(&self) -> &Channel {
        &self.connection().channel
    }

    /// What sends the call as a frame; nothing if it must be an RPC of its own.
    pub(super) fn multiplexer(&self, call: &Call) -> Option<Arc<Multiplexer>> {
        let framed = call.header.args().size() <= FRAMED_UP_TO;
        framed.then(|| self.connection().multiplexer.clone())?
    }

    /// Which life of the call's session it is here; 0 without one.
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

    /// The way on of a call that has not started here. `connection_lost`: nothing starts here any more.
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

    /// Gives the place back if nothing of the call runs on it any more. Otherwise the future does, and is
    /// to be awaited once the caller has its reply.
    pub(super) fn release(
        self,
        call: &Call,
        handler: HandlerState,
    ) -> Option<impl Future<Output = ()> + use<>> {
        let Self::Worker(lease, _) = self else {
            return None;
        };
        match handler {
            HandlerState::Exited => None,
            HandlerState::Lost => {
                lease.retire();
                None
            }
            HandlerState::MayRun => Some(await_exit(lease, CancelledCall::from(call))),
        }
    }
}

/// What the end of an RPC says about the handler behind it.
#[derive(Clone, Copy)]
pub(super) enum HandlerState {
    Exited,
    /// Its worker is gone.
    Lost,
    MayRun,
}

impl HandlerState {
    pub(super) fn after(failure: &Failure) -> Self {
        match failure {
            Failure::Remote(_) | Failure::TooLarge { .. } | Failure::NotStarted { .. } => {
                Self::Exited
            }
            Failure::WorkerCrashed(_) => Self::Lost,
            _ => Self::MayRun,
        }
    }
}
