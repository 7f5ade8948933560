//! The way of one call: a place on a worker, the RPC, the reply.

use crate::{
    pool::{Abandoned, Pool, Worker, await_idle},
    reply::failure_term,
};
use rustler::{Encoder, Env, Term, types::atom};
use snakepit_client::{
    channel::Channel,
    connection,
    failure::Failure,
    pool::{Grant, Lease, Refusal, Session, Ticket, Wish},
};
use snakepit_proto::{ExecuteRequest, ExecuteResponse, Fields, SessionRequest, StreamResponse};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming, metadata::AsciiMetadataKey};

pub(crate) type Link = connection::Link<Unary>;
pub(crate) type Endpoint = connection::Endpoint<Unary>;

/// How long the calls of a worker that died wait for the cause: its owner gets its status, and the end of
/// its output, a moment after its connection is gone.
const CAUSE_WITHIN: Duration = Duration::from_secs(2);

pub(crate) struct Call {
    pub(crate) id: u64,
    pub(crate) command: String,
    pub(crate) args: Fields,
    pub(crate) session: Option<Session>,
    pub(crate) request_id: String,
    /// What the caller wants to go with the call; keys and values are checked where it comes in.
    pub(crate) metadata: Vec<(String, String)>,
    pub(crate) started: Instant,
    pub(crate) timeout: Option<Duration>,
    pub(crate) queue_timeout: Option<Duration>,
    pub(crate) cancelled: CancellationToken,
}

/// Where a call is on its way to a worker.
pub(crate) enum Route {
    Pool(Waiting),
    Channel(Arc<Endpoint>),
    At(Place),
}

impl Route {
    async fn place(self, call: &Call) -> Result<Place, Failure> {
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

    fn submit(
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
    fn not_ready(&self, call: &Call) -> Failure {
        match self.ticket.startup() {
            Some(startup) => Failure::NotReady(startup),
            None => call.expired(call.started, false),
        }
    }
}

/// Knows why a worker ended, or will within that time.
struct Witness {
    link: Arc<Link>,
    within: Duration,
}

/// What the RPC runs on.
pub(crate) enum Place {
    Worker(Lease<Arc<Worker>>, Arc<Link>),
    Channel(Arc<Endpoint>, Arc<Link>),
}

impl Place {
    fn on(lease: Lease<Arc<Worker>>) -> Result<Self, Failure> {
        match lease.worker.link.clone() {
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
    fn elsewhere(self, call: &Call, pipelines: bool, gone: bool) -> Result<Route, Failure> {
        if gone {
            self.channel().closed.cancel();
        }
        match self {
            Self::Channel(endpoint, _) => Ok(Route::Channel(endpoint)),
            Self::Worker(lease, _) => {
                if gone {
                    lease.pause();
                }
                let again = Waiting::again(&lease.dispatcher(), call, pipelines);
                lease.give_back_unused();
                again.map(Route::Pool)
            }
        }
    }

    fn session_generation(&self) -> u64 {
        match self {
            Self::Worker(lease, _) => lease.session_generation(),
            Self::Channel(..) => 0,
        }
    }

    fn worker_id(&self) -> Option<String> {
        match self {
            Self::Worker(lease, _) => Some(lease.worker.id.clone()),
            Self::Channel(..) => None,
        }
    }

    /// Who knows why the worker ended, for a call that failed with that, and for how long to wait for it. A
    /// worker whose time is up cancels what still runs; grpcio's server says that it is unavailable.
    fn witness(&self, failure: &Failure) -> Option<Witness> {
        let Self::Worker(lease, link) = self else {
            return None;
        };
        let unavailable = matches!(
            failure,
            Failure::Status {
                code: tonic::Code::Unavailable,
                ..
            }
        );
        let within = match failure {
            Failure::WorkerCrashed(_) => CAUSE_WITHIN,
            _ if !unavailable && !failure.is_servers_cancel() => return None,
            _ if lease.is_leaving() => CAUSE_WITHIN,
            _ if unavailable => Duration::ZERO,
            _ => return None,
        };
        let link = link.clone();
        Some(Witness { link, within })
    }

    /// Gives the place back if the call's end says enough; the rest is to be awaited after the
    /// caller was told.
    fn give_back(self, call: &Call, ended: Ended) -> Option<impl Future<Output = ()> + use<>> {
        let Self::Worker(lease, _) = self else {
            return None;
        };
        match ended {
            Ended::Answered => None,
            Ended::Crashed => {
                lease.condemn();
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
enum Ended {
    Answered,
    Crashed,
    Unknown,
}

impl Ended {
    fn by(failure: &Failure) -> Self {
        match failure {
            Failure::Remote(_) | Failure::TooLarge { .. } | Failure::NotStarted { .. } => {
                Self::Answered
            }
            Failure::WorkerCrashed(_) => Self::Crashed,
            _ => Self::Unknown,
        }
    }
}

impl Call {
    /// Whether it may be sent ahead.
    pub(crate) fn is_short(&self) -> bool {
        self.args.size() <= unary::SHORT_UP_TO
    }

    fn deadline(&self) -> Option<Instant> {
        self.timeout.map(|timeout| self.started + timeout)
    }

    /// The end of the wait for a worker, of which the queue timeout runs from `since` on.
    fn queue_deadline(&self, since: Instant) -> Option<Instant> {
        let queue = self.queue_timeout.map(|timeout| since + timeout);
        self.deadline().into_iter().chain(queue).min()
    }

    fn expired(&self, since: Instant, has_workers: bool) -> Failure {
        let queue = self.queue_timeout.map(|timeout| since + timeout);
        match (self.timeout, self.queue_timeout) {
            (Some(after), _) if queue.is_none_or(|queue| self.started + after <= queue) => {
                Failure::Timeout {
                    after,
                    queued: true,
                }
            }
            (_, after) => Failure::QueueTimeout {
                after: after.unwrap_or_default(),
                has_workers,
            },
        }
    }

    fn granted(
        &self,
        granted: Result<Grant<Arc<Worker>>, oneshot::error::RecvError>,
    ) -> Result<Lease<Arc<Worker>>, Failure> {
        match granted {
            Ok(grant) => grant.map_err(|refusal| self.refused(refusal)),
            Err(_) => Err(Failure::Dropped),
        }
    }

    fn refused(&self, refusal: Refusal) -> Failure {
        match refusal {
            Refusal::Saturated { max_queue } => Failure::Saturated { max_queue },
            Refusal::Expired => self.expired(self.started, true),
            Refusal::SessionLost => Failure::SessionLost,
            Refusal::Unavailable(unavailable) if unavailable.no_grpc => {
                Failure::NoGrpc(unavailable.why.clone())
            }
            Refusal::Unavailable(unavailable) => Failure::NoWorker(unavailable.why.clone()),
            Refusal::Closed => Failure::PoolStopped,
        }
    }

    fn remaining(&self) -> Option<Duration> {
        self.deadline()
            .map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    fn timed_out(&self) -> Failure {
        Failure::Timeout {
            after: self.timeout.unwrap_or_default(),
            queued: false,
        }
    }

    /// A status as the caller is to see it: a deadline that the server noticed first is ours too.
    fn failed(&self, status: &Status, channel: &Channel, stream: bool) -> Failure {
        self.failed_as(status, |status| {
            Failure::from_status(status, channel.max_message_size, stream)
        })
    }

    /// As `failed`, of an RPC that was not answered at all.
    fn unanswered(&self, status: &Status, channel: &Channel, stream: bool) -> Failure {
        self.failed_as(status, |status| {
            Failure::from_unanswered(status, channel.max_message_size, stream)
        })
    }

    fn failed_as(&self, status: &Status, failure: impl FnOnce(&Status) -> Failure) -> Failure {
        match status.code() {
            tonic::Code::DeadlineExceeded if self.timeout.is_some() => self.timed_out(),
            _ => failure(status),
        }
    }

    /// Ends `work` when the call is cancelled or its time is up.
    async fn within<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        tokio::select! {
            biased;
            done = work => done,
            () = self.cancelled.cancelled() => Err(Failure::Cancelled),
            () = sleep_until(self.deadline()) => Err(self.timed_out()),
        }
    }

    fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = Channel::request(message, self.remaining());
        let request_id = ("x-request-id", self.request_id.as_str());
        let given = self
            .metadata
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()));
        for (key, value) in std::iter::once(request_id).chain(given) {
            if let (Ok(key), Ok(value)) =
                (AsciiMetadataKey::from_bytes(key.as_bytes()), value.parse())
            {
                request.metadata_mut().insert(key, value);
            }
        }
        request
    }

    fn execute_request(&self) -> ExecuteRequest {
        ExecuteRequest {
            command: self.command.clone(),
            args: self.args.values.clone(),
            timeout_ms: self.timeout_ms(),
            request_id: self.request_id.clone(),
            call_id: self.id,
            arg_kinds: self.args.kinds.clone(),
        }
    }

    fn session_request(&self, session: &Session, session_generation: u64) -> SessionRequest {
        SessionRequest {
            session_id: session.id.as_ref().into(),
            session_generation,
            command: self.command.clone(),
            args: self.args.values.clone(),
            timeout_ms: self.timeout_ms(),
            request_id: self.request_id.clone(),
            call_id: self.id,
            arg_kinds: self.args.kinds.clone(),
        }
    }

    fn timeout_ms(&self) -> i32 {
        self.remaining().map_or(0, |left| {
            i32::try_from(left.as_millis()).unwrap_or(i32::MAX)
        })
    }

    /// Refuses what the server would, before it is on its way.
    pub(crate) fn check_size(&self, channel: &Channel) -> Result<(), Failure> {
        let (size, limit) = (self.args.size(), channel.max_message_size);
        if size <= limit {
            return Ok(());
        }
        Err(Failure::TooLarge {
            what: "request",
            size,
            limit,
        })
    }

    async fn unary_rpc(&self, place: &Place) -> Result<Fields, Failure> {
        let channel = place.channel();
        self.check_size(channel)?;
        let mut client = channel.client.clone();
        let sent = match &self.session {
            None => {
                let request = self.request(self.execute_request());
                client.execute(request).await
            }
            Some(session) => {
                let request =
                    self.request(self.session_request(session, place.session_generation()));
                client.execute_in_session(request).await
            }
        };
        match sent {
            Ok(response) => {
                let ExecuteResponse {
                    success,
                    result,
                    error,
                    error_detail,
                    result_kinds,
                    ..
                } = response.into_inner();
                if success {
                    Ok(Fields::received(result, result_kinds))
                } else {
                    Err(Failure::from_reply(error, error_detail))
                }
            }
            Err(status) => Err(self.unanswered(&status, channel, false)),
        }
    }

    async fn open_stream(&self, place: &Place) -> Result<Streaming<StreamResponse>, Failure> {
        let channel = place.channel();
        self.check_size(channel)?;
        let mut client = channel.client.clone();
        match &self.session {
            None => {
                let request = self.request(self.execute_request());
                client.execute_stream(request).await
            }
            Some(session) => {
                let request =
                    self.request(self.session_request(session, place.session_generation()));
                client.execute_in_session_stream(request).await
            }
        }
        .map(tonic::Response::into_inner)
        .map_err(|status| self.unanswered(&status, channel, true))
    }
}

/// The failure of a call that ended with its worker, whose owner tells the cause: it may have run, unlike
/// what a caller of another server would conclude.
async fn explained(failure: Failure, witness: Option<Witness>) -> Failure {
    let Some(Witness { link, within }) = witness else {
        return failure;
    };
    let seen = match failure {
        Failure::WorkerCrashed(seen) => seen,
        Failure::Status {
            code: tonic::Code::Unavailable,
            message,
            ..
        } => {
            format!("it stopped serving while the call ran ({message})")
        }
        failure => format!("it stopped while the call ran ({failure})"),
    };
    Failure::WorkerCrashed(link.cause(seen, within).await)
}

/// What the reply says beside the result: `{request_id, worker_id, queue_us, execution_us}`.
pub(crate) type Meta = (String, Option<String>, u64, u64);

struct Clock {
    request_id: String,
    worker_id: Option<String>,
    started: Instant,
    placed: Instant,
}

impl Clock {
    fn new(call: &Call, place: &Place) -> Self {
        Self {
            request_id: call.request_id.clone(),
            worker_id: place.worker_id(),
            started: call.started,
            placed: Instant::now(),
        }
    }

    fn meta(&self) -> Meta {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        (
            self.request_id.clone(),
            self.worker_id.clone(),
            micros(self.placed - self.started),
            micros(self.placed.elapsed()),
        )
    }
}

fn failed_term<'a>(env: Env<'a>, failure: &Failure, meta: &Meta) -> Term<'a> {
    (atom::error(), failure_term(env, failure), meta).encode(env)
}

fn refused_term<'a>(env: Env<'a>, failure: &Failure, call: &Call) -> Term<'a> {
    failed_term(env, failure, &refused_meta(call))
}

fn refused_meta(call: &Call) -> Meta {
    let waited = u64::try_from(call.started.elapsed().as_micros()).unwrap_or(u64::MAX);
    (call.request_id.clone(), None, waited, 0)
}

/// Sleeps for ever without a deadline.
async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

mod stream;
mod unary;
pub(crate) use stream::{Overdue, Patience, run_stream};
pub(crate) use unary::{Owner, Unary, Watched, run_unary};
