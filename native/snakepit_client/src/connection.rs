//! Connections to a server, and reconnecting.

use crate::{
    calls_rpc::ClientConnection,
    channel::Channel,
    error::Failure,
    health_watch,
    multiplexer::{Multiplexer, PendingCall, StartFeeding},
    open_calls::OpenCalls,
    target::{ExitCause, Target},
};
use parking_lot::Mutex;
use snakepit_proto::HealthRequest;
use snakepit_wire::Address;
use std::{
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::{
    sync::{oneshot, watch},
    time::{sleep, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Status;

/// How many times a call that has not started is sent.
pub const MAX_ATTEMPTS: u32 = 8;

/// How long the headers of `Calls` are awaited at first, and once more after the server has answered another RPC.
const HEADERS_WITHIN: Duration = Duration::from_millis(100);

/// The connection to a server: its RPCs and, where it has them, its frames. When the connection of one of the two is
/// lost, the other accepts no further calls.
pub struct Connection<P: PendingCall> {
    pub channel: Channel,
    calls: Arc<OpenCalls<P>>,
    pub exit_cause: ExitCause,
    /// Whether another thread may read the socket of `Calls`.
    feedable: bool,
    /// Ends `Calls`.
    end: CancellationToken,
    _end: DropGuard,
}

impl<P: PendingCall> Connection<P> {
    /// Connects, and waits a moment for `Calls` to open.
    pub async fn new(target: &Target) -> Result<Arc<Self>, Failure> {
        let channel = Channel::connect(target).await?;
        let end = CancellationToken::new();
        let connection = Arc::new(Self {
            channel,
            calls: OpenCalls::new(),
            exit_cause: target.exit_cause.clone(),
            feedable: target.tls.is_none() && matches!(target.address, Address::Unix(_)),
            end: end.clone(),
            _end: end.drop_guard(),
        });
        if target.calls {
            connection.open_calls(target).await;
        }
        Ok(connection)
    }

    async fn open_calls(&self, target: &Target) {
        let (first, decided) = oneshot::channel();
        let (channel, end) = (self.channel.clone(), self.end.clone());
        let closed = channel.closed.clone();
        let calls = self.calls.clone();
        let calls = calls.keep_open(target.clone(), closed, end.clone(), first);
        let takes_draining = target.takes_draining;
        tokio::spawn(async move {
            if calls.await && takes_draining {
                health_watch::close_at_end(channel, end).await;
            }
        });
        // A server that answers another RPC meanwhile may send headers with its first reply only.
        let slow = async {
            sleep(HEADERS_WITHIN).await;
            let mut client = self.channel.client.clone();
            let request = Channel::request(HealthRequest::default(), Some(target.timeout));
            // Any answer will do.
            let _ = client.health(request).await;
            sleep(HEADERS_WITHIN).await;
        };
        let opened = async {
            tokio::select! {
                _ = decided => {}
                () = slow => {}
            }
        };
        // Without `Calls` each call is an RPC of its own.
        let _ = timeout(target.timeout, opened).await;
    }

    /// What sends unary calls as frames. `None` while `Calls` is not open, and if the server does not implement it.
    #[inline]
    pub fn multiplexer(&self) -> Option<Arc<Multiplexer<ClientConnection, P>>> {
        self.calls.multiplexer()
    }

    /// Sets the limits of the worker; see `Multiplexer::set_worker`.
    pub fn set_worker(&self, capacity: usize, grace: Duration, owned: bool) {
        self.calls.set_worker(capacity, grace, owned);
    }

    /// Has `Calls` fed; see `Multiplexer::set_feeder`. Of a local server alone: only its bytes are those of HTTP/2.
    pub fn set_feeder(&self, feeder: StartFeeding<ClientConnection, P>) {
        if self.feedable {
            self.calls.set_feeder(feeder);
        }
    }

    /// Ends the connection at once: to the calls that run on it, it is lost.
    pub fn close(&self) {
        self.end.cancel();
        self.channel.close();
    }
}

/// How an attempt to reconnect has ended; `None` before.
type Attempt<P> = watch::Sender<Option<Result<Arc<Connection<P>>, Failure>>>;

/// A server, with the current connection to it.
pub struct Endpoint<P: PendingCall> {
    present: Mutex<Arc<Connection<P>>>,
    /// How to reconnect. `None` if the owner reconnects.
    target: Option<Target>,
    /// Taken before `present`.
    attempt: Mutex<Weak<Attempt<P>>>,
}

impl<P: PendingCall> Endpoint<P> {
    pub fn new(present: Arc<Connection<P>>, target: Option<Target>) -> Arc<Self> {
        Arc::new(Self {
            present: Mutex::new(present),
            target,
            attempt: Mutex::default(),
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

    /// Reconnects if the current connection is closed, in one attempt for all that wait. It goes on though they
    /// cease to wait: the next call finds its connection.
    pub async fn connected(self: &Arc<Self>) -> Result<Arc<Connection<P>>, Failure> {
        let Some(target) = &self.target else {
            return Ok(self.present());
        };
        let mut result = {
            let mut attempt = self.attempt.lock();
            if let Some(present) = self.open() {
                return Ok(present);
            }
            let running = attempt.upgrade().unwrap_or_else(|| {
                let running = Arc::new(Attempt::new(None));
                *attempt = Arc::downgrade(&running);
                let endpoint = Arc::downgrade(self);
                tokio::spawn(Self::reconnect(endpoint, target.clone(), running.clone()));
                running
            });
            running.subscribe()
        };
        let result = result.wait_for(Option::is_some).await;
        let result = result.ok().and_then(|result| result.clone());
        result.unwrap_or(Err(Failure::Dropped))
    }

    async fn reconnect(endpoint: Weak<Self>, target: Target, attempt: Arc<Attempt<P>>) {
        let result = Connection::new(&target).await;
        if let (Ok(connection), Some(endpoint)) = (&result, endpoint.upgrade()) {
            *endpoint.present.lock() = connection.clone();
        }
        attempt.send_replace(Some(result));
    }

    /// Sends an RPC that is not a call, again on another connection if it has not started on the first.
    pub async fn ask<T, F>(self: &Arc<Self>, rpc: impl Fn(Channel) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let mut attempt = 0;
        loop {
            let channel = self.connected().await?.channel.clone();
            let (limit, closed) = (channel.max_message_size, channel.closed.clone());
            let failure = match rpc(channel.clone()).await {
                Ok(response) => return Ok(response.into_inner()),
                Err(status) => Failure::from_unanswered(&status, limit, false),
            };
            let failure = channel.explain(failure).await;
            attempt += 1;
            match failure {
                Failure::NotStarted { refused, .. }
                    if self.target.is_some() && attempt < MAX_ATTEMPTS =>
                {
                    if !refused {
                        closed.cancel();
                    }
                }
                failure => return Err(failure.in_question_to(channel.endpoint.as_ref())),
            }
        }
    }
}
