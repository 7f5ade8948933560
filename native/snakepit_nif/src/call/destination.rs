//! Where a call is sent. A worker has a connection, the connection holds the calls that were sent on it, and
//! each call holds a lease of the worker: these types contain each other, so they share a file.

use super::{caller::Waited, meta::Clock, request::Call};
use crate::{allowance::Allowance, reply::Reply};
use rustler::LocalPid;
use snakepit_client::{
    calls_rpc::ClientConnection,
    channel::Channel,
    connection,
    error::Failure,
    multiplexer,
    pool::{Dispatcher, HeldPlace, Lease},
};
use std::{sync::Arc, time::Duration};

pub(crate) type Connection = connection::Connection<UnaryCall>;
pub(crate) type Endpoint = connection::Endpoint<UnaryCall>;
pub(super) type Multiplexer = multiplexer::Multiplexer<ClientConnection, UnaryCall>;
pub(crate) type Pool = Dispatcher<Arc<Worker>>;

pub(crate) struct Worker {
    pub(crate) id: String,
    /// Whose sessions its pool has there.
    pub(crate) client_id: u64,
    /// `None` if the worker's owner sends its calls.
    pub(crate) connection: Option<Arc<Connection>>,
    /// The process that owns the worker and can kill it.
    pub(crate) owner: LocalPid,
    pub(crate) kill_grace: Duration,
    /// The process that gets the events of commands, if the pool has telemetry; and how many.
    pub(crate) observer: Option<LocalPid>,
    pub(crate) events: Allowance,
}

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

    /// Sends calls as frames. `None` if the server takes none, or not at present: then a call is an RPC of its own.
    pub(super) fn multiplexer(&self) -> Option<Arc<Multiplexer>> {
        self.connection().multiplexer()
    }

    /// The generation of the call's session here; 0 without a session.
    pub(super) fn generation(&self) -> u64 {
        match self {
            Self::Worker(lease, _) => lease.generation(),
            Self::Channel(..) => 0,
        }
    }

    /// The place of the call of this id, and the number of the pool.
    pub(super) fn place(&self, call_id: u64) -> Option<(u64, HeldPlace)> {
        let Self::Worker(lease, _) = self else {
            return None;
        };
        let worker = lease.key();
        let place = HeldPlace { worker, call_id };
        Some((lease.dispatcher().client_id(), place))
    }

    pub(super) fn worker(&self) -> Option<&Worker> {
        match self {
            Self::Worker(lease, _) => Some(lease.worker()),
            Self::Channel(..) => None,
        }
    }

    pub(super) fn worker_id(&self) -> Option<String> {
        self.worker().map(|worker| worker.id.clone())
    }
}

/// A call that was sent as a frame.
pub(crate) struct UnaryCall {
    pub(super) call: Box<Call>,
    pub(super) destination: Destination,
    pub(super) clock: Clock,
    /// `None` once it has been sent.
    pub(super) reply: Option<Reply>,
    pub(super) waited: Waited,
}
