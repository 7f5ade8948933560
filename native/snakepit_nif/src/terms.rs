//! The maps that Elixir gets. Each has a few fixed keys, so it may be built on any thread.

#![expect(
    clippy::disallowed_methods,
    reason = "so few keys need no scheduler to be sorted"
)]

use rustler::{Atom, LocalPid, NifException, NifMap, Term};
use std::time::Duration;

pub(crate) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// What a reply reports about its call besides the result. In the order in which the BEAM sorts the keys: then there
/// is nothing to sort.
#[derive(Default, NifMap)]
#[rustler(encode)]
pub(crate) struct Meta<'a> {
    /// The number of calls in its batch, and how long it waited for that to start; 0 if it was in none.
    pub(crate) batch_size: u32,
    pub(crate) batch_wait_us: u64,
    pub(crate) execution_us: u64,
    pub(crate) queue_us: u64,
    pub(crate) request_id: &'a str,
    pub(crate) worker_id: Option<&'a str>,
}

/// The error of a stream, which its owner gets unchanged.
#[derive(NifException)]
#[rustler(encode)]
#[module = "Snakepit.Error"]
pub(crate) struct ErrorTerm<'a> {
    pub(crate) reason: Atom,
    pub(crate) message: String,
    pub(crate) command: Term<'a>,
    pub(crate) pool: Term<'a>,
    pub(crate) worker_id: Term<'a>,
    pub(crate) request_id: Term<'a>,
    pub(crate) details: Term<'a>,
}

/// What a command asks its caller.
#[derive(NifMap)]
#[rustler(encode)]
pub(crate) struct AskTerm<'a> {
    pub(crate) id: u64,
    pub(crate) tool: String,
    pub(crate) args: Term<'a>,
    /// 0 without a limit of its own.
    pub(crate) timeout_us: u64,
}

/// The end of a stream, for its observer.
#[derive(NifMap)]
#[rustler(encode)]
pub(crate) struct StreamEnd<'a> {
    /// The event that the owner gets.
    pub(crate) event: Term<'a>,
    pub(crate) meta: &'a Meta<'a>,
    pub(crate) chunks: usize,
    pub(crate) first_chunk_us: Option<u64>,
}

/// How the handler of a cancelled call exited.
#[derive(NifMap)]
#[rustler(encode)]
pub(crate) struct HandlerExited<'a> {
    pub(crate) how: Atom,
    pub(crate) after_us: u64,
    pub(crate) command: &'a str,
    pub(crate) request_id: &'a str,
}

/// An event that a command has reported.
#[derive(NifMap)]
#[rustler(encode)]
pub(crate) struct PythonEvent<'a> {
    pub(crate) name: String,
    pub(crate) measurements: Term<'a>,
    pub(crate) metadata: Term<'a>,
    pub(crate) worker_id: String,
    pub(crate) command: String,
    pub(crate) request_id: String,
    pub(crate) session_id: Option<String>,
}

/// The sessions of an event.
#[derive(NifMap)]
#[rustler(encode)]
pub(crate) struct Sessions<'a> {
    pub(crate) ids: Vec<&'a str>,
    pub(crate) worker_id: &'a str,
}

/// A lease and its worker.
#[derive(NifMap)]
#[rustler(encode)]
pub(crate) struct LeaseTerm<'a> {
    pub(crate) lease: Term<'a>,
    pub(crate) worker: LocalPid,
    pub(crate) worker_id: Term<'a>,
    /// The generation of the call's session; 0 without a session.
    pub(crate) generation: u64,
}

/// The numbers of a pool: the commands with their calls, errors by reason and calls by size of their batches; and of
/// the calls of the last minute the number and the percentiles 50, 90 and 99, in µs.
#[derive(NifMap)]
#[rustler(encode)]
pub(crate) struct NumbersTerm {
    pub(crate) commands: Vec<CommandTerm>,
    pub(crate) calls: u64,
    pub(crate) queue: Option<Vec<u64>>,
    pub(crate) execution: Option<Vec<u64>>,
    pub(crate) asks: Option<Vec<u64>>,
}

#[derive(NifMap)]
#[rustler(encode)]
pub(crate) struct CommandTerm {
    pub(crate) name: String,
    pub(crate) calls: u64,
    pub(crate) asks: u64,
    pub(crate) failed_asks: u64,
    pub(crate) errors: Vec<(Atom, u64)>,
    pub(crate) batched: Vec<(u32, u64)>,
}
