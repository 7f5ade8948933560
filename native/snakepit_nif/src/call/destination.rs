//! Where a call is sent. A worker has a connection, the connection holds the calls that were sent on it, and
//! each call holds a lease of the worker: these types contain each other, so they share a file.

use super::{caller::Waited, meta::Clock, request::Call};
use crate::{
    allowance::Allowance,
    atoms,
    reply::{Reply, notify, off_scheduler},
};
use rustler::{Encoder, LocalPid};
use snakepit_client::{
    calls_rpc::ClientConnection,
    channel::Channel,
    connection,
    error::{Failure, Fault},
    faults::ConnectionFaults,
    multiplexer,
    pool::{Dispatcher, HeldPlace, Lease},
};
use std::{sync::Arc, time::Duration};

pub(crate) type Connection = connection::Connection<UnaryCall>;
pub(crate) type Endpoint = connection::Endpoint<UnaryCall>;
pub(crate) type Multiplexer = multiplexer::Multiplexer<ClientConnection, UnaryCall>;
pub(crate) type Pool = Dispatcher<Arc<Worker>>;

pub(crate) struct Worker {
    pub(crate) id: Arc<str>,
    /// Whose sessions its pool has there.
    pub(crate) client_id: u64,
    /// `None` if the worker's owner sends its calls.
    pub(crate) connection: Option<Arc<Connection>>,
    /// The process that owns the worker and can kill it.
    pub(crate) owner: LocalPid,
    pub(crate) kill_grace: Duration,
    /// Of an endpoint: how its calls fail.
    pub(crate) faults: Option<ConnectionFaults>,
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

    /// Counts how a call has ended for its endpoint, whose owner learns of too many failures in a row, and that the endpoint does
    /// not accept its token any more.
    pub(super) fn count(&self, result: Result<(), &Failure>) {
        let Some(worker) = self.worker() else {
            return;
        };
        let Some(faults) = &worker.faults else {
            return;
        };
        let fault = result.map_or_else(Failure::fault, |()| Fault::None);
        let owner = worker.owner;
        if let (Some(number), Err(failure)) = (faults.ended(fault), result) {
            let why = format!("{number} calls in a row have failed, the last one so: {failure}");
            off_scheduler(move || {
                notify(owner, |env| (atoms::snakepit_failing(), why).encode(env));
            });
        }
        if fault == Fault::Refused {
            off_scheduler(move || notify(owner, |env| atoms::snakepit_refused().encode(env)));
        }
    }

    pub(super) fn worker_id(&self) -> Option<Arc<str>> {
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
