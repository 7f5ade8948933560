//! The NIFs.

mod call;
mod channel;
mod converse;
mod pool;
mod process;
mod runtime_dir;
mod stdio;

use crate::{
    atoms,
    codec::{self, Rules},
    failure_term::error_term,
    map,
    runtime::{self, spawn},
};
use bytes::Bytes;
use rustler::{Binary, Encoder, Env, Error, MapIterator, NifResult, Term};
use snakepit_client::error::Failure;
use snakepit_proto::{Field, Fields};
use std::time::Duration;

/// About thirty years: a time so far away can still be computed, and sent as a deadline.
const MAX_MILLIS: u64 = 1_000_000_000_000;

fn time(millis: u64) -> Duration {
    Duration::from_millis(millis.min(MAX_MILLIS))
}

fn millis(timeout: Option<u64>) -> Option<Duration> {
    timeout.map(time)
}

/// `:ok`, or `{:error, failure}`.
fn started<'a>(env: Env<'a>, done: Result<(), Failure>) -> Term<'a> {
    match done {
        Ok(()) => atoms::ok().encode(env),
        Err(failure) => error_term(env, &failure),
    }
}

#[rustler::nif]
fn runtime_tasks() -> usize {
    runtime::tasks()
}

/// Encodes arguments by the plain rules, for `Snakepit.GRPC.Client`.
#[rustler::nif(schedule = "DirtyCpu")]
fn encode_args<'a>(env: Env<'a>, args: Term<'a>) -> Term<'a> {
    match codec::encode_args(args, Rules::Plain, usize::MAX) {
        Ok(fields) => {
            let pairs = fields.values.iter().map(|field| {
                (
                    codec::copied(env, &field.key),
                    codec::binary(env, &field.value),
                )
            });
            (atoms::ok(), map::from_pairs(env, pairs)).encode(env)
        }
        Err(error) => error.encode(env),
    }
}

#[rustler::nif(schedule = "DirtyCpu")]
fn decode_result<'a>(env: Env<'a>, result: Term<'a>) -> NifResult<Term<'a>> {
    let values = MapIterator::new(result)
        .ok_or(Error::BadArg)?
        .map(|(key, value)| {
            let value: Binary<'_> = value.decode()?;
            Ok(Field::new(
                key.decode::<String>()?,
                Bytes::copy_from_slice(&value),
            ))
        });
    let fields = Fields::received(values.collect::<NifResult<_>>()?, None);
    Ok(match codec::decode_fields(env, &fields, None) {
        Ok(map) => (atoms::ok(), map).encode(env),
        Err(failure) => error_term(env, &failure),
    })
}
