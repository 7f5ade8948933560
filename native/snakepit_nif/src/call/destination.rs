//! Where a call is sent. A worker's connection has the calls that were sent on it, and each of those
//! holds its place on the worker: types that contain each other, and are all here.

use super::{
    meta::Clock,
    request::{Call, Watched},
};
use crate::reply::Reply;
use rustler::LocalPid;
use snakepit_client::{
    calls_rpc::ClientConnection,
    channel::Channel,
    connection,
    failure::Failure,
    multiplexer,
    pool::{Dispatcher, Lease},
};
use std::{sync::Arc, time::Duration};

/// From here on a call is an RPC of its own, so that its worker's other calls do not wait for its
/// bytes. Below that they wait for some milliseconds: an RPC of its own takes twice as long.
const FRAMED_UP_TO: usize = 32 * 1024 * 1024;

pub(crate) type Connection = connection::Connection<UnaryCall>;
pub(crate) type Endpoint = connection::Endpoint<UnaryCall>;
pub(super) type Multiplexer = multiplexer::Multiplexer<ClientConnection, UnaryCall>;
pub(crate) type Pool = Dispatcher<Arc<Worker>>;

pub(crate) struct Worker {
    pub(crate) id: String,
    /// None of a worker that is spoken to through its owner.
    pub(crate) connection: Option<Arc<Connection>>,
    /// The process that owns the worker, and can kill it.
    pub(crate) owner: LocalPid,
    pub(crate) kill_grace: Duration,
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

    /// What sends the call as a frame; nothing if it must be an RPC of its own.
    pub(super) fn multiplexer(&self, call: &Call) -> Option<Arc<Multiplexer>> {
        let framed = call.header.args().size() <= FRAMED_UP_TO;
        framed.then(|| self.connection().multiplexer.clone())?
    }

    /// Which life of the call's session it is here; 0 without one.
    pub(super) fn generation(&self) -> u64 {
        match self {
            Self::Worker(lease, _) => lease.generation(),
            Self::Channel(..) => 0,
        }
    }

    pub(super) fn worker_id(&self) -> Option<String> {
        match self {
            Self::Worker(lease, _) => Some(lease.worker().id.clone()),
            Self::Channel(..) => None,
        }
    }
}

/// A call that was sent as a frame.
pub(crate) struct UnaryCall {
    pub(super) call: Call,
    pub(super) destination: Destination,
    pub(super) clock: Clock,
    /// None once it has been sent.
    pub(super) reply: Option<Reply>,
    pub(super) owner: Watched,
}
