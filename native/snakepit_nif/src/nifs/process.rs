//! A worker's process of the operating system: its output, its identity, and signals to it.

use crate::{atoms, reply::notify, runtime};
use rustler::{
    Atom, Binary, Encoder, Env, LocalPid, Monitor, NifResult, OwnedBinary, OwnedEnv, Resource,
    ResourceArc, Term, env::SavedTerm,
};
use snakepit_client::{
    output::{Line, Listener, Output},
    pipe, process,
    stdio_input::Input,
    stdio_messages::{Buffer, End, Messages},
};
use std::{io, sync::Arc};
use tokio::runtime::Runtime;

struct OutputResource(Arc<Output>);

#[rustler::resource_impl]
impl Resource for OutputResource {
    const IMPLEMENTS_DOWN: bool = true;

    fn down<'a>(&'a self, _env: Env<'a>, _pid: LocalPid, _monitor: Monitor) {
        self.0.finish();
    }
}

/// Opens a pipe for the output of a worker. Returns `{:ok, output, path}` with the path that the worker has to open,
/// or `:named` if the system needs `path` to name an existing pipe.
///
/// The caller gets `{ref, {:announced, text}}` for the line that begins with the token, and `{ref, {:ended, lines}}`
/// with the last lines. `logger` gets `ref` when `output_take` has lines for it again.
#[rustler::nif]
fn output_open<'a>(
    env: Env<'a>,
    reference: Term<'a>,
    logger: LocalPid,
    token: Option<String>,
    path: Option<String>,
) -> NifResult<Term<'a>> {
    let notifier = Notifier::new(env, reference);
    let mut listener = OutputListener { notifier, logger };
    open(env, pipe::readable, path, |runtime, pipe| {
        let output = Arc::new(Output::new(pipe.writer));
        let resource = ResourceArc::new(OutputResource(output.clone()));
        runtime.spawn(async move {
            let tail = output.read(pipe.receiver, token, &mut listener).await;
            listener
                .notifier
                .owner(|env, reference| (reference, (atoms::ended(), tail)).encode(env));
        });
        (resource, pipe.path)
    })
}

/// Opens a pipe, which `start` has the runtime read or write while the calling process lives.
fn open<'a, P, R: Resource>(
    env: Env<'a>,
    open: impl FnOnce(Option<String>) -> io::Result<Option<P>>,
    path: Option<String>,
    start: impl FnOnce(&Runtime, P) -> (ResourceArc<R>, String),
) -> NifResult<Term<'a>> {
    let failed = |error: io::Error| rustler::Error::Term(Box::new(error.to_string()));
    let runtime = runtime::get().map_err(failed)?;
    let _entered = runtime.enter();
    let Some(pipe) = open(path).map_err(failed)? else {
        return Ok(atoms::named().encode(env));
    };
    let (resource, path) = start(runtime, pipe);
    env.monitor(&resource, &env.pid());
    Ok((atoms::ok(), resource, path).encode(env))
}

/// Sends messages that carry a reference.
struct Notifier {
    owner: LocalPid,
    kept: OwnedEnv,
    reference: SavedTerm,
}

impl Notifier {
    fn new(env: Env<'_>, reference: Term<'_>) -> Self {
        let kept = OwnedEnv::new();
        Self {
            owner: env.pid(),
            reference: kept.save(reference),
            kept,
        }
    }

    fn owner(&mut self, build: impl for<'a> FnOnce(Env<'a>, Term<'a>) -> Term<'a>) {
        self.send(self.owner, build);
    }

    fn send(&mut self, to: LocalPid, build: impl for<'a> FnOnce(Env<'a>, Term<'a>) -> Term<'a>) {
        notify(to, |env| {
            let reference = self.kept.run(|kept| self.reference.load(kept).in_env(env));
            build(env, reference)
        });
    }
}

struct OutputListener {
    notifier: Notifier,
    logger: LocalPid,
}

impl Listener for OutputListener {
    fn announced(&mut self, text: &str) {
        self.notifier
            .owner(|env, reference| (reference, (atoms::announced(), text)).encode(env));
    }

    fn news(&mut self) {
        self.notifier.send(self.logger, |_env, reference| reference);
    }
}

/// `{lines, dropped, ended}`, each line `{level, request_id, text}`. After an answer without lines the logger is
/// notified of the next line.
#[rustler::nif]
fn output_take(env: Env<'_>, output: ResourceArc<OutputResource>) -> Term<'_> {
    let taken = output.0.take();
    let lines = taken.lines.iter().map(|line| line_term(env, line));
    (lines.collect::<Vec<_>>(), taken.dropped, taken.ended).encode(env)
}

fn line_term<'a>(env: Env<'a>, line: &Line) -> Term<'a> {
    (line.level, &line.request_id, &line.text).encode(env)
}

/// The worker has ended: only what is in the pipe is still read.
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

/// Opens a pipe for the messages of a worker, as `output_open` does: `{:ok, messages, path}` or `:named`. The caller
/// gets `{ref, {:message, binary}}` for each, a limited number before it calls `messages_handled`, and finally `{ref,
/// :closed}`, or `{ref, {:too_large, bytes}}` for a message of more than `limit` bytes.
#[rustler::nif]
fn messages_open<'a>(
    env: Env<'a>,
    reference: Term<'a>,
    limit: usize,
    path: Option<String>,
) -> NifResult<Term<'a>> {
    let mut notifier = Notifier::new(env, reference);
    open(env, pipe::readable, path, |runtime, pipe| {
        let messages = Arc::new(Messages::new(pipe.writer));
        let resource = ResourceArc::new(MessagesResource(messages.clone()));
        runtime.spawn(async move {
            let handle = |Message(bytes)| {
                notifier.owner(|env, reference| {
                    (reference, (atoms::message(), bytes.release(env))).encode(env)
                });
            };
            let end = messages.read(pipe.receiver, limit, handle).await;
            notifier.owner(|env, reference| match end {
                End::Closed => (reference, atoms::closed()).encode(env),
                End::TooLarge(size) => (reference, (atoms::too_large(), size)).encode(env),
            });
        });
        (resource, pipe.path)
    })
}

/// The caller has handled a message, and can get another one.
#[rustler::nif]
fn messages_handled(messages: ResourceArc<MessagesResource>) -> Atom {
    messages.0.handled();
    atoms::ok()
}

/// The worker has opened its end, or never will: the messages end once it is closed.
#[rustler::nif]
fn messages_opened(messages: ResourceArc<MessagesResource>) -> Atom {
    messages.0.opened();
    atoms::ok()
}

struct InputResource(Arc<Input>);

#[rustler::resource_impl]
impl Resource for InputResource {
    const IMPLEMENTS_DOWN: bool = true;

    fn down<'a>(&'a self, _env: Env<'a>, _pid: LocalPid, _monitor: Monitor) {
        self.0.finish();
    }
}

impl Drop for InputResource {
    fn drop(&mut self) {
        self.0.finish();
    }
}

/// Opens a pipe for the messages to a worker, as `output_open` does: `{:ok, input, path}` or `:named`. The caller gets
/// `{ref, :input_closed}` when a message cannot be written because the worker has closed the pipe.
#[rustler::nif]
fn input_open<'a>(env: Env<'a>, reference: Term<'a>, path: Option<String>) -> NifResult<Term<'a>> {
    let mut notifier = Notifier::new(env, reference);
    open(env, pipe::writable, path, |runtime, pipe| {
        let input = Arc::new(Input::new(pipe.writer, pipe.reader));
        let driven = input.clone();
        runtime.spawn(async move {
            if driven.drive().await {
                notifier.owner(|env, reference| (reference, atoms::input_closed()).encode(env));
            }
        });
        (ResourceArc::new(InputResource(input)), pipe.path)
    })
}

/// The worker has opened its end, or never will: a write fails once it is closed.
#[rustler::nif]
fn input_opened(input: ResourceArc<InputResource>) -> Atom {
    input.0.opened();
    atoms::ok()
}

/// Writes a message, or has it written when there is room: `:ok`. Returns `:closed` if the worker does not get it because
/// it has closed the pipe.
#[rustler::nif]
fn input_write(input: ResourceArc<InputResource>, message: Binary<'_>) -> Atom {
    write(&input, &message)
}

/// As `input_write`, for a message whose copy takes longer than a NIF may.
#[rustler::nif(schedule = "DirtyCpu")]
fn input_write_large(input: ResourceArc<InputResource>, message: Binary<'_>) -> Atom {
    write(&input, &message)
}

fn write(input: &InputResource, message: &[u8]) -> Atom {
    if input.0.write(message) {
        atoms::ok()
    } else {
        atoms::closed()
    }
}

/// The worker has exited: what it has not read is dropped.
#[rustler::nif]
fn input_finish(input: ResourceArc<InputResource>) -> Atom {
    input.0.finish();
    atoms::ok()
}

/// When a process started, which identifies it with its number; nothing if there is no such process or no `/proc`.
#[rustler::nif(schedule = "DirtyIo")]
fn process_started(os_pid: i32) -> Option<u64> {
    process::started(os_pid)
}

/// The resident memory of a process in bytes; nothing if there is no such process or no `/proc`.
#[rustler::nif(schedule = "DirtyIo")]
fn process_memory(os_pid: i32, started: Option<u64>) -> Option<u64> {
    process::resident_bytes(os_pid, started)
}

/// Signals a worker's process group, which includes processes that its handlers have started, unless its number
/// belongs to another process by now.
#[rustler::nif(schedule = "DirtyIo")]
fn signal_group(os_pid: i32, started: Option<u64>, kill: bool) -> bool {
    process::signal_group(os_pid, started, kill)
}
