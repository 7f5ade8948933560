//! Connections, and what a server reports about itself.

use super::{spawn, started, time};
use crate::{
    atoms,
    call::{Connection, Endpoint, Multiplexer},
    failure_term::error_term,
    map,
    reply::{Reply, notify},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use rustler::{
    Atom, Binary, Encoder, Env, NifMap, Resource, ResourceArc, Term, schedule::consume_timeslice,
};
use snakepit_client::{
    channel::Channel, error::Failure, keepalive::Keepalive, multiplexer::Fed, target::Target,
};
use snakepit_proto::{BatchInfo, CallProgress, CommandInfo, HealthRequest, InfoRequest};
use snakepit_wire::{
    Address, StartJournal,
    tls::client::{ClientTls, Identity, Roots},
};
use std::{
    os::fd::AsRawFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

pub(super) struct ChannelResource(pub(super) Arc<Endpoint>);

impl ChannelResource {
    pub(super) fn connection(&self) -> Arc<Connection> {
        self.0.present()
    }
}

#[rustler::resource_impl]
impl Resource for ChannelResource {}

/// The start journal for a server that is about to be started.
struct JournalResource(Arc<StartJournal>);

#[rustler::resource_impl]
impl Resource for JournalResource {}

/// When a silent server is asked whether it is there. All connections to a server share it.
struct KeepaliveResource(Arc<Keepalive>);

#[rustler::resource_impl]
impl Resource for KeepaliveResource {}

/// The calls of a channel, whose socket the process reads that has this.
struct CallsResource {
    multiplexer: Arc<Multiplexer>,
    /// Whether the process has stopped in order.
    stopped: AtomicBool,
}

#[rustler::resource_impl]
impl Resource for CallsResource {}

impl Drop for CallsResource {
    fn drop(&mut self) {
        if !self.stopped.load(Ordering::Relaxed) {
            self.multiplexer.feeder_gone();
        }
    }
}

/// The calling process gets `{:snakepit_read, calls, fd}` whenever it is to read the socket of a local server's calls. It
/// passes what it reads to `feed_calls`. Other servers' sockets are read without it.
#[rustler::nif]
fn read_calls(env: Env<'_>, channel: ResourceArc<ChannelResource>) -> Atom {
    let reader = env.pid();
    channel
        .connection()
        .set_feeder(Arc::new(move |multiplexer, socket| {
            let fd = socket.as_raw_fd();
            notify(reader, |env| {
                let calls = ResourceArc::new(CallsResource {
                    multiplexer,
                    stopped: AtomicBool::new(false),
                });
                (atoms::snakepit_read(), calls, fd).encode(env)
            });
        }));
    atoms::ok()
}

/// Returns `:read`, `:flush` if `flush_calls` is to follow once the callers that got replies had their turn, or `:stop`:
/// then nothing but what was read already is to be passed any more, and `stop_feeding` called.
#[rustler::nif]
fn feed_calls<'a>(env: Env<'a>, calls: ResourceArc<CallsResource>, data: Binary<'a>) -> Atom {
    // A small reply takes 5 µs, and has some 100 bytes.
    let percent = i32::try_from(data.len() / 200).unwrap_or(100);
    let _ = consume_timeslice(env, percent.clamp(1, 100));
    let bytes = Bytes::copy_from_slice(&data);
    let multiplexer = &calls.multiplexer;
    match multiplexer.feed(bytes, |call, reply| call.replied_here(env, reply)) {
        Fed::Read => atoms::read(),
        Fed::Flush => atoms::flush(),
        Fed::Stop => atoms::stop(),
    }
}

#[rustler::nif]
fn flush_calls(calls: ResourceArc<CallsResource>) -> Atom {
    calls.multiplexer.flush();
    atoms::ok()
}

#[rustler::nif]
fn stop_feeding(calls: ResourceArc<CallsResource>) -> Atom {
    calls.stopped.store(true, Ordering::Relaxed);
    calls.multiplexer.stop_feeding();
    atoms::ok()
}

/// Times in ms.
#[rustler::nif]
fn keepalive(interval: u64, timeout: u64) -> ResourceArc<KeepaliveResource> {
    ResourceArc::new(KeepaliveResource(Keepalive::new(
        time(interval),
        time(timeout),
    )))
}

/// `{journal, path}`, or `nil` if none can be made: the server works without one.
#[rustler::nif]
fn start_journal() -> Option<(ResourceArc<JournalResource>, String)> {
    let journal = StartJournal::create().ok()?;
    let path = journal.path();
    Some((ResourceArc::new(JournalResource(Arc::new(journal))), path))
}

#[derive(NifMap)]
#[rustler(decode)]
struct ConnectOptions<'a> {
    address: &'a str,
    secret: Option<String>,
    /// Headers of every RPC that no command sees.
    headers: Vec<(String, String)>,
    /// Metadata of every RPC and of every call.
    metadata: Vec<(String, String)>,
    tls: Option<TlsOptions<'a>>,
    max_message_size: usize,
    timeout: u64,
    /// Whether the loss of the connection is reported.
    watched: bool,
    /// Whether unary calls may be sent as frames.
    calls: bool,
    takes_draining: bool,
    keepalive: Option<ResourceArc<KeepaliveResource>>,
    /// The start journal of a server that this side has started.
    journal: Option<ResourceArc<JournalResource>>,
    /// An earlier channel to the same process: the calls of both learn why that has exited.
    earlier: Option<ResourceArc<ChannelResource>>,
}

/// What `Snakepit.Config.Tls.load/2` returns.
#[derive(NifMap)]
#[rustler(decode)]
struct TlsOptions<'a> {
    authorities: Option<Binary<'a>>,
    system: Vec<Binary<'a>>,
    certificate: Option<Binary<'a>>,
    key: Option<Binary<'a>>,
    server_name: Option<String>,
}

impl TlsOptions<'_> {
    /// What makes the TLS, which takes too long for a scheduler's thread.
    fn maker(self) -> impl FnOnce() -> Result<ClientTls, Failure> + Send + use<> {
        let system = self.system.iter().map(|der| der.to_vec()).collect();
        let roots = match self.authorities {
            Some(pem) => Roots::Pem(pem.to_vec()),
            None => Roots::Der(system),
        };
        let identity = self.certificate.zip(self.key);
        let identity = identity.map(|(certificate, key)| Identity {
            certificate: certificate.to_vec(),
            key: key.to_vec(),
        });
        let server_name = self.server_name;
        move || {
            ClientTls::new(roots, identity, server_name)
                .map_err(|error| Failure::InvalidArgs(format!("the option :tls: {error}")))
        }
    }
}

fn header_map<'a>(
    headers: impl Iterator<Item = &'a (String, String)>,
) -> Result<HeaderMap, Failure> {
    let invalid = |name: &str| Failure::InvalidArgs(format!("{name:?} cannot be metadata"));
    let parsed = headers.map(|(name, value)| {
        Ok((
            HeaderName::try_from(name).map_err(|_| invalid(name))?,
            HeaderValue::try_from(value).map_err(|_| invalid(name))?,
        ))
    });
    parsed.collect()
}

/// Replies `{ref, {:ok, channel} | {:error, failure}}` and, if watched, `{ref, {:closed, lasted_ms}}`
/// once it accepts no further calls. A channel that is not watched reconnects for the next call.
#[rustler::nif]
fn connect<'a>(env: Env<'a>, reference: Term<'a>, options: ConnectOptions<'a>) -> Term<'a> {
    let timeout = time(options.timeout);
    let address = options.address.parse::<Address>().map_err(Failure::from);
    let target = address.and_then(|address| {
        Ok(Target {
            address,
            secret: options.secret,
            headers: header_map(options.headers.iter().chain(&options.metadata))?,
            call_metadata: options.metadata.into(),
            tls: None,
            max_message_size: options.max_message_size,
            timeout,
            calls: options.calls,
            takes_draining: options.takes_draining,
            keepalive: options.keepalive.map(|keepalive| keepalive.0.clone()),
            journal: options.journal.map(|journal| journal.0.clone()),
            exit_cause: options
                .earlier
                .map(|channel| channel.0.present().exit_cause.clone())
                .unwrap_or_default(),
        })
    });
    let mut target = match target {
        Ok(target) => target,
        Err(failure) => return error_term(env, &failure),
    };
    let tls = options.tls.map(TlsOptions::maker);
    let owner = env.pid();
    let reply = Reply::watched(owner, reference, timeout);
    let closing = options.watched.then(|| Reply::new(owner, reference));
    let done = spawn(async move {
        let tls = tls.map(|make| make()).transpose();
        let connected = match tls {
            Ok(tls) => {
                target.tls = tls;
                Connection::new(&target).await
            }
            Err(failure) => Err(failure),
        };
        let since = Instant::now();
        let closed = connected
            .as_ref()
            .ok()
            .map(|connection| connection.channel.closed.clone());
        let again = closing.is_none().then_some(target);
        let sent = reply.send_result(connected, |env, connection| {
            ResourceArc::new(ChannelResource(Endpoint::new(connection, again))).encode(env)
        });
        match (closing, closed) {
            (Some(closing), Some(closed)) if sent => {
                closed.cancelled().await;
                let lasted = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
                closing.send(|env| (atoms::closed(), lasted).encode(env));
            }
            (Some(closing), _) => closing.forget(),
            (None, _) => {}
        }
    });
    started(env, done)
}

#[rustler::nif]
fn health<'a>(
    env: Env<'a>,
    reference: Term<'a>,
    channel: ResourceArc<ChannelResource>,
    worker_id: String,
    timeout: u64,
) -> Term<'a> {
    let request = HealthRequest {
        worker_id,
        await_call_id: 0,
    };
    let work = move |mut channel: Channel, timeout| {
        let request = Channel::request(request.clone(), Some(timeout));
        async move { channel.client.health(request).await }
    };
    ask(env, reference, channel, timeout, work, |env, health| {
        map::from_pairs(
            env,
            [
                ("healthy", health.healthy.encode(env)),
                ("worker_id", health.worker_id.encode(env)),
                ("uptime_ms", health.uptime_ms.encode(env)),
                ("total_requests", health.total_requests.encode(env)),
                ("total_errors", health.total_errors.encode(env)),
                ("version", health.version.encode(env)),
                ("running", health.running_call_ids.len().encode(env)),
                ("python_stuck_ms", health.python_stuck_ms.encode(env)),
                ("batch_sizes", map::from_pairs(env, health.batch_sizes)),
                ("instance_id", health.instance_id.encode(env)),
            ],
        )
    })
}

#[rustler::nif]
fn get_info<'a>(
    env: Env<'a>,
    reference: Term<'a>,
    channel: ResourceArc<ChannelResource>,
    timeout: u64,
    include_commands: bool,
) -> Term<'a> {
    let request = InfoRequest {
        include_capabilities: true,
        include_stats: true,
        include_commands,
    };
    let work = move |mut channel: Channel, timeout| {
        let request = Channel::request(request, Some(timeout));
        async move { channel.client.get_info(request).await }
    };
    ask(env, reference, channel, timeout, work, |env, info| {
        let stats = info.stats.unwrap_or_default();
        let stats = map::from_pairs(
            env,
            [
                ("requests_handled", stats.requests_handled.encode(env)),
                ("requests_failed", stats.requests_failed.encode(env)),
                ("uptime_ms", stats.uptime_ms.encode(env)),
                ("memory_usage_bytes", stats.memory_usage_bytes.encode(env)),
                ("cpu_usage_percent", stats.cpu_usage_percent.encode(env)),
                ("active_sessions", stats.active_sessions.encode(env)),
                ("python_stuck_ms", stats.python_stuck_ms.encode(env)),
                ("progress", progress(env, stats.progress)),
            ],
        );
        map::from_pairs(
            env,
            [
                ("worker_type", info.worker_type.encode(env)),
                ("version", info.version.encode(env)),
                ("supported_commands", info.supported_commands.encode(env)),
                ("capabilities", map::from_pairs(env, info.capabilities)),
                ("stats", stats),
                ("system_info", map::from_pairs(env, info.system_info)),
                ("commands", commands(env, info.commands)),
            ],
        )
    })
}

fn progress(env: Env<'_>, calls: Vec<CallProgress>) -> Term<'_> {
    let calls = calls.into_iter().map(|call| {
        let progress = call.progress.unwrap_or_default();
        let fraction = progress.fraction.clamp(0.0, 1.0);
        let fraction = if fraction.is_nan() { 0.0 } else { fraction };
        let reported = [
            ("fraction", fraction.encode(env)),
            ("message", progress.message.encode(env)),
        ];
        let pairs = [
            ("command", call.command.encode(env)),
            ("request_id", call.request_id.encode(env)),
            ("progress", map::from_pairs(env, reported)),
        ];
        map::from_pairs(env, pairs)
    });
    calls.collect::<Vec<_>>().encode(env)
}

fn commands(env: Env<'_>, commands: Vec<CommandInfo>) -> Term<'_> {
    let commands = commands.into_iter().map(|command| {
        let parameters = command.parameters.into_iter().map(|parameter| {
            let pairs = [
                ("name", parameter.name.encode(env)),
                ("type", parameter.r#type.encode(env)),
                ("default", parameter.default.encode(env)),
                ("required", parameter.required.encode(env)),
            ];
            map::from_pairs(env, pairs)
        });
        let pairs = [
            ("name", command.name.encode(env)),
            ("signature", command.signature.encode(env)),
            ("doc", command.doc.encode(env)),
            ("streams", command.streams.encode(env)),
            ("is_async", command.is_async.encode(env)),
            ("parameters", parameters.collect::<Vec<_>>().encode(env)),
            (
                "batch",
                command
                    .batch
                    .map(|batch| batch_info(env, &batch))
                    .encode(env),
            ),
        ];
        map::from_pairs(env, pairs)
    });
    commands.collect::<Vec<_>>().encode(env)
}

fn batch_info<'a>(env: Env<'a>, batch: &BatchInfo) -> Term<'a> {
    let pairs = [
        ("size", batch.size.encode(env)),
        ("wait_ms", batch.wait_ms.encode(env)),
        ("max_bytes", batch.max_bytes.encode(env)),
    ];
    map::from_pairs(env, pairs)
}

/// Sends an RPC that is not a call and replies `{ref, {:ok, term} | {:error, failure}}`.
fn ask<'a, T, W, F>(
    env: Env<'a>,
    reference: Term<'a>,
    channel: ResourceArc<ChannelResource>,
    timeout: u64,
    rpc: W,
    encode: impl for<'b> FnOnce(Env<'b>, T) -> Term<'b> + Send + 'static,
) -> Term<'a>
where
    T: Send + 'static,
    W: Fn(Channel, Duration) -> F + Send + Sync + 'static,
    F: Future<Output = Result<tonic::Response<T>, tonic::Status>> + Send + 'static,
{
    let after = time(timeout);
    let reply = Reply::watched(env.pid(), reference, after);
    let done = spawn(async move {
        let asked = channel.0.ask(|channel| rpc(channel, after));
        let answer = tokio::time::timeout(after, asked).await;
        let answer = answer.unwrap_or(Err(Failure::Timeout {
            after,
            queued: false,
        }));
        reply.send_result(answer, encode);
    });
    started(env, done)
}

/// Ends a connection at once: to the calls that run on it, it is lost.
#[rustler::nif]
fn close(channel: ResourceArc<ChannelResource>) -> Atom {
    channel.0.present().close();
    atoms::ok()
}

/// Sets why a worker has exited, for its calls.
#[rustler::nif]
fn set_exit_cause(channel: ResourceArc<ChannelResource>, cause: String) -> Atom {
    channel.0.present().exit_cause.set(cause);
    atoms::ok()
}
