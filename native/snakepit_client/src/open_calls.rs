//! The `Calls` RPC of a connection. A task opens it, and opens it again when it alone has ended: behind a balancer the
//! server that had it may be gone while others serve. While it is not open, unary calls are RPCs of their own.

use crate::{
    calls_rpc::{CallsRpc, ClientConnection},
    multiplexer::{Lost, Multiplexer, PendingCall, StartFeeding},
    target::Target,
};
use parking_lot::Mutex;
use snakepit_wire::FRAME_OVERHEAD;
use std::{
    ops::RangeInclusive,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// The first and the longest pause before the RPC is opened again. An RPC that has lasted longer than the longest is
/// followed by the first.
const PAUSES: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(10);

type ClientMultiplexer<P> = Multiplexer<ClientConnection, P>;

pub(crate) struct OpenCalls<P: PendingCall>(Mutex<State<P>>);

struct State<P: PendingCall> {
    multiplexer: Option<Arc<ClientMultiplexer<P>>>,
    /// The limits of the worker, once they are known. The state of the multiplexer is locked after this one.
    worker: Option<(usize, Duration, bool)>,
    feeder: Option<StartFeeding<ClientConnection, P>>,
}

impl<P: PendingCall> OpenCalls<P> {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            multiplexer: None,
            worker: None,
            feeder: None,
        })))
    }

    /// What sends calls as frames, while the RPC is open.
    #[inline]
    pub(crate) fn multiplexer(&self) -> Option<Arc<ClientMultiplexer<P>>> {
        self.0.lock().multiplexer.clone()
    }

    /// See `Multiplexer::set_worker`.
    pub(crate) fn set_worker(&self, capacity: usize, grace: Duration, owned: bool) {
        let mut state = self.0.lock();
        state.worker = Some((capacity, grace, owned));
        if let Some(multiplexer) = &state.multiplexer {
            multiplexer.set_worker(capacity, grace, owned);
        }
    }

    /// See `Multiplexer::set_feeder`.
    pub(crate) fn set_feeder(&self, feeder: StartFeeding<ClientConnection, P>) {
        let mut state = self.0.lock();
        if let Some(multiplexer) = &state.multiplexer {
            multiplexer.set_feeder(feeder.clone());
        }
        state.feeder = Some(feeder);
    }

    fn set_open(&self, multiplexer: &Arc<ClientMultiplexer<P>>) {
        let mut state = self.0.lock();
        if let Some((capacity, grace, owned)) = state.worker {
            multiplexer.set_worker(capacity, grace, owned);
        }
        if let Some(feeder) = &state.feeder {
            multiplexer.set_feeder(feeder.clone());
        }
        state.multiplexer = Some(multiplexer.clone());
    }

    /// Keeps the RPC open until the connection is lost, `closed` or at its `end`, or the server has refused the RPC.
    /// Drops `first` once it is open or could not be opened. Returns whether the server has refused it.
    pub(crate) async fn keep_open(
        self: Arc<Self>,
        target: Target,
        closed: CancellationToken,
        end: CancellationToken,
        first: oneshot::Sender<()>,
    ) -> bool {
        let mut first = Some(first);
        let (shortest, longest) = PAUSES.into_inner();
        let mut pause = shortest;
        let ended = || async {
            tokio::select! {
                () = closed.cancelled() => {}
                () = end.cancelled() => {}
            }
        };
        loop {
            let opened = tokio::select! {
                opened = CallsRpc::open(&target) => opened,
                () = ended() => return false,
            };
            match opened {
                Ok(Some(rpc)) => {
                    let since = Instant::now();
                    match self.drive(rpc, &target, &closed, &end, &mut first).await {
                        Lost::Connection => return false,
                        Lost::Rpc if since.elapsed() > longest => pause = shortest,
                        Lost::Rpc => {}
                    }
                }
                Ok(None) => return true,
                // The calls fail if the server is not there.
                Err(_) => {}
            }
            first = None;
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = ended() => return false,
            }
            pause = longest.min(2 * pause);
        }
    }

    async fn drive(
        &self,
        rpc: CallsRpc,
        target: &Target,
        closed: &CancellationToken,
        end: &CancellationToken,
        first: &mut Option<oneshot::Sender<()>>,
    ) -> Lost {
        let max_frame = target.max_message_size.saturating_add(FRAME_OVERHEAD);
        let multiplexer = Multiplexer::new(
            rpc.connection,
            rpc.sender,
            target.journal.clone(),
            target.keepalive.clone(),
            closed.clone(),
        );
        self.set_open(&multiplexer);
        *first = None;
        let ended = multiplexer
            .drive(rpc.body, rpc.ping_pong, max_frame, end)
            .await;
        // A call that is given back must not find it again.
        self.0.lock().multiplexer = None;
        multiplexer.end(&ended);
        ended.what
    }
}
