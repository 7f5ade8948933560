//! A worker's process of the operating system: what it prints, who it is, and signals to it.

use crate::{atoms, reply::notify, runtime};
use rustler::{
    Atom, Encoder, Env, LocalPid, Monitor, NifResult, OwnedBinary, OwnedEnv, Resource, ResourceArc,
    Term, env::SavedTerm,
};
use snakepit_client::{
    output::{Line, Listener, Output},
    pipe::{self, Writer},
    process,
    stdio_messages::{Buffer, End, Messages},
};
use std::{io, sync::Arc};
use tokio::{net::unix::pipe::Receiver, runtime::Runtime};

struct OutputResource(Arc<Output>);

#[rustler::resource_impl]
impl Resource for OutputResource {
    const IMPLEMENTS_DOWN: bool = true;

    fn down<'a>(&'a self, _env: Env<'a>, _pid: LocalPid, _monitor: Monitor) {
        self.0.finish();
    }
}

/// A pipe for what a worker prints. Returns `{:ok, output, path}`, the path being what the worker has to
/// open, or `:named` where `path` has to name one that there is.
///
/// The caller gets `{ref, {:announced, text}}` for the line that begins with the token, and `{ref, {:ended,
/// lines}}` with the last ones. `logger` gets `ref` when `output_take` would have lines for it again.
#[rustler::nif]
fn output_open<'a>(
    env: Env<'a>,
    reference: Term<'a>,
    logger: LocalPid,
    token: Option<String>,
    path: Option<String>,
) -> NifResult<Term<'a>> {
    let told = Teller::new(env, reference);
    let mut teller = OutputTeller { told, logger };
    open(env, path, |runtime, receiver, writer| {
        let output = Arc::new(Output::new(writer));
        let resource = ResourceArc::new(OutputResource(output.clone()));
        runtime.spawn(async move {
            let tail = output.read(receiver, token, &mut teller).await;
            teller
                .told
                .owner(|env, reference| (reference, (atoms::ended(), tail)).encode(env));
        });
        resource
    })
}

/// Opens a pipe, which `read` reads on the runtime for as long as the calling process lives.
fn open<'a, R: Resource>(
    env: Env<'a>,
    path: Option<String>,
    read: impl FnOnce(&Runtime, Receiver, Writer) -> ResourceArc<R>,
) -> NifResult<Term<'a>> {
    let failed = |error: io::Error| rustler::Error::Term(Box::new(error.to_string()));
    let runtime = runtime::get().map_err(failed)?;
    let _entered = runtime.enter();
    let Some(pipe) = pipe::open(path).map_err(failed)? else {
        return Ok(atoms::named().encode(env));
    };
    let resource = read(runtime, pipe.receiver, pipe.writer);
    env.monitor(&resource, &env.pid());
    Ok((atoms::ok(), resource, pipe.path).encode(env))
}

/// Tells processes what has happened, under a reference.
struct Teller {
    owner: LocalPid,
    kept: OwnedEnv,
    reference: SavedTerm,
}

impl Teller {
    fn new(env: Env<'_>, reference: Term<'_>) -> Self {
        let kept = OwnedEnv::new();
        Self {
            owner: env.pid(),
            reference: kept.save(reference),
            kept,
        }
    }

    fn owner(&mut self, build: impl for<'a> FnOnce(Env<'a>, Term<'a>) -> Term<'a>) {
        self.tell(self.owner, build);
    }

    fn tell(&mut self, to: LocalPid, build: impl for<'a> FnOnce(Env<'a>, Term<'a>) -> Term<'a>) {
        notify(to, |env| {
            let reference = self.kept.run(|kept| self.reference.load(kept).in_env(env));
            build(env, reference)
        });
    }
}

struct OutputTeller {
    told: Teller,
    logger: LocalPid,
}

impl Listener for OutputTeller {
    fn announced(&mut self, text: &str) {
        self.told
            .owner(|env, reference| (reference, (atoms::announced(), text)).encode(env));
    }

    fn news(&mut self) {
        self.told.tell(self.logger, |_env, reference| reference);
    }
}

/// `{lines, dropped, ended}`, each line `{level, request_id, text}`. After an empty one the logger is told
/// when there is more.
#[rustler::nif]
fn output_take(env: Env<'_>, output: ResourceArc<OutputResource>) -> Term<'_> {
    let taken = output.0.take();
    let lines = taken.lines.iter().map(|line| line_term(env, line));
    (lines.collect::<Vec<_>>(), taken.dropped, taken.ended).encode(env)
}

fn line_term<'a>(env: Env<'a>, line: &Line) -> Term<'a> {
    (line.level, &line.request_id, &line.text).encode(env)
}

/// The worker has ended: nothing but what is there already is read.
#[rustler::nif]
fn output_finish(output: ResourceArc<OutputResource>) -> Atom {
    output.0.finish();
    atoms::ok()
}

/// A message, read into memory that a process can get without a copy.
struct Message(OwnedBinary);

impl AsMut<[u8]> for Message {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl Buffer for Message {
    fn with_size(size: usize) -> Self {
        Self(OwnedBinary::new(size))
    }
}

struct MessagesResource(Arc<Messages>);

#[rustler::resource_impl]
impl Resource for MessagesResource {
    const IMPLEMENTS_DOWN: bool = true;

    fn down<'a>(&'a self, _env: Env<'a>, _pid: LocalPid, _monitor: Monitor) {
        self.0.cancel();
    }
}

impl Drop for MessagesResource {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// A pipe for the messages of a worker, as `output_open`: `{:ok, messages, path}` or `:named`. The caller gets
/// `{ref, {:message, binary}}` for each, with a few in hand until `messages_handled`, and at the end
/// `{ref, :closed}`, or `{ref, {:too_large, bytes}}` for a message of more than `limit` bytes.
#[rustler::nif]
fn messages_open<'a>(
    env: Env<'a>,
    reference: Term<'a>,
    limit: usize,
    path: Option<String>,
) -> NifResult<Term<'a>> {
    let mut told = Teller::new(env, reference);
    open(env, path, |runtime, receiver, writer| {
        let messages = Arc::new(Messages::new(writer));
        let resource = ResourceArc::new(MessagesResource(messages.clone()));
        runtime.spawn(async move {
            let handle = |Message(bytes)| {
                told.owner(|env, reference| {
                    (reference, (atoms::message(), bytes.release(env))).encode(env)
                });
            };
            let end = messages.read(receiver, limit, handle).await;
            told.owner(|env, reference| match end {
                End::Closed => (reference, atoms::closed()).encode(env),
                End::TooLarge(size) => (reference, (atoms::too_large(), size)).encode(env),
            });
        });
        resource
    })
}

/// A message was handled: there is room for another one.
#[rustler::nif]
fn messages_handled(messages: ResourceArc<MessagesResource>) -> Atom {
    messages.0.handled();
    atoms::ok()
}

/// The worker has ended: what it has written is read to the end.
#[rustler::nif]
fn messages_finish(messages: ResourceArc<MessagesResource>) -> Atom {
    messages.0.finish();
    atoms::ok()
}

/// When a process started, by which it is known again; nothing where there is none, or no way to tell.
#[rustler::nif(schedule = "DirtyIo")]
fn process_started(os_pid: i32) -> Option<u64> {
    process::started(os_pid)
}

/// Signals a worker's process group, and with it what its handlers have started, unless its number is
/// somebody else's by now.
#[rustler::nif(schedule = "DirtyIo")]
fn signal_group(os_pid: i32, started: Option<u64>, kill: bool) -> bool {
    process::signal_group(os_pid, started, kill)
}
