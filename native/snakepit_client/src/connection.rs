//! Connections to a server, and reconnecting.

use crate::{
    calls_rpc::{CallsRpc, ClientConnection},
    channel::Channel,
    error::Failure,
    multiplexer::{Multiplexer, PendingCall},
    target::Target,
};
use parking_lot::Mutex;
use snakepit_wire::FRAME_OVERHEAD;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Status;

/// How many times a call that has not started is sent.
pub const MAX_ATTEMPTS: u32 = 8;

/// The connection to a server: its RPCs and, where it has them, its frames. When one of the two is lost, the
/// other accepts no further calls.
pub struct Connection<P: PendingCall> {
    pub channel: Channel,
    /// Sends unary calls as frames. `None` if the server does not implement `Calls`.
    pub multiplexer: Option<Arc<Multiplexer<ClientConnection, P>>>,
    /// Why the worker exited, once its owner knows.
    exit_cause: watch::Sender<Option<String>>,
    /// Stops the multiplexer when the connection is dropped.
    _end: DropGuard,
    end: CancellationToken,
}

impl<P: PendingCall> Connection<P> {
    pub async fn new(target: &Target) -> Result<Arc<Self>, Failure> {
        let channel = Channel::connect(target).await?;
        let end = CancellationToken::new();
        let max_frame = target.max_message_size.saturating_add(FRAME_OVERHEAD);
        let multiplexer = CallsRpc::open(target).await?.map(|rpc| {
            let multiplexer = Multiplexer::new(
                rpc.connection,
                rpc.sender,
                target.journal.clone(),
                channel.closed.clone(),
            );
            let driving = multiplexer.clone().drive(rpc.body, max_frame, end.clone());
            tokio::spawn(driving);
            multiplexer
        });
        Ok(Arc::new(Self {
            channel,
            multiplexer,
            exit_cause: watch::Sender::new(None),
            end: end.clone(),
            _end: end.drop_guard(),
        }))
    }

    /// Sets the limits of the worker; see `Multiplexer::set_worker`.
    pub fn set_worker(&self, capacity: usize, grace: Duration, owned: bool) {
        if let Some(multiplexer) = &self.multiplexer {
            multiplexer.set_worker(capacity, grace, owned);
        }
    }

    /// Ends the connection at once: to the calls that run on it, it is lost.
    pub fn close(&self) {
        self.end.cancel();
        self.channel.end.cancel();
    }

    /// Sets why the worker has exited, or is about to cancel its calls. The first cause is kept.
    pub fn set_exit_cause(&self, cause: String) {
        self.exit_cause.send_if_modified(|known| {
            let first = known.is_none();
            if first {
                *known = Some(cause);
            }
            first
        });
    }

    /// Waits for the reason why the worker exited; `otherwise` if that is not known in time.
    pub async fn exit_cause(&self, otherwise: String, within: Duration) -> String {
        let mut cause = self.exit_cause.subscribe();
        let known = tokio::time::timeout(within, cause.wait_for(Option::is_some)).await;
        match known {
            Ok(Ok(cause)) => cause.clone().unwrap_or(otherwise),
            _ => otherwise,
        }
    }
}

/// A server, with the current connection to it.
pub struct Endpoint<P: PendingCall> {
    present: Mutex<Arc<Connection<P>>>,
    /// How to reconnect, and the timeout for that. `None` if the owner reconnects.
    target: Option<(Target, Duration)>,
    connecting: tokio::sync::Mutex<()>,
}

impl<P: PendingCall> Endpoint<P> {
    pub fn new(present: Arc<Connection<P>>, target: Option<(Target, Duration)>) -> Arc<Self> {
        Arc::new(Self {
            present: Mutex::new(present),
            target,
            connecting: tokio::sync::Mutex::default(),
        })
    }

    pub fn present(&self) -> Arc<Connection<P>> {
        self.present.lock().clone()
    }

    /// The current connection; `None` if it is closed and can be replaced.
    pub fn open(&self) -> Option<Arc<Connection<P>>> {
        let present = self.present();
        (self.target.is_none() || !present.channel.closed.is_cancelled()).then_some(present)
    }

    /// Reconnects if the current connection is closed.
    pub async fn connected(&self) -> Result<Arc<Connection<P>>, Failure> {
        if let Some(present) = self.open() {
            return Ok(present);
        }
        let _connecting = self.connecting.lock().await;
        match (self.open(), &self.target) {
            (Some(present), _) => Ok(present),
            (None, None) => Ok(self.present()),
            (None, Some((target, timeout))) => {
                let target = Target {
                    deadline: Instant::now() + *timeout,
                    ..target.clone()
                };
                let connection = Connection::new(&target).await?;
                *self.present.lock() = connection.clone();
                Ok(connection)
            }
        }
    }

    /// Sends an RPC that is not a call, again on another connection if it has not started on the first.
    pub async fn ask<T, F>(&self, rpc: impl Fn(Channel) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let mut attempt = 0;
        loop {
            let channel = self.connected().await?.channel.clone();
            let (limit, closed) = (channel.max_message_size, channel.closed.clone());
            let failure = match rpc(channel).await {
                Ok(response) => return Ok(response.into_inner()),
                Err(status) => Failure::from_unanswered(&status, limit, false),
            };
            attempt += 1;
            match failure {
                Failure::NotStarted { refused, .. }
                    if self.target.is_some() && attempt < MAX_ATTEMPTS =>
                {
                    if !refused {
                        closed.cancel();
                    }
                }
                failure => return Err(failure),
            }
        }
    }
}
