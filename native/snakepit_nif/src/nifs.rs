//! The table of NIFs.

mod call;
mod channel;
mod pool;
mod stdio;

use crate::{
    atoms,
    codec::{self, Rules},
    failure::Failure,
    runtime,
};
use bytes::Bytes;
use rustler::{Encoder, Env, NifResult, Term};
use snakepit_proto::{Field, Fields};
use std::{collections::HashMap, time::Duration};

fn millis(timeout: Option<u64>) -> Option<Duration> {
    timeout.map(Duration::from_millis)
}

/// `:ok`, or the failure as the NIF's value.
fn started<'a>(env: Env<'a>, done: Result<(), Failure>) -> Term<'a> {
    match done {
        Ok(()) => atoms::ok().encode(env),
        Err(failure) => env.error_tuple(failure),
    }
}

fn spawn(work: impl Future<Output = ()> + Send + 'static) -> Result<(), Failure> {
    let runtime = runtime::get().map_err(|error| Failure::Unreachable {
        address: "tokio".into(),
        cause: error.to_string(),
    })?;
    runtime.spawn(work);
    Ok(())
}

#[rustler::nif]
fn runtime_tasks() -> usize {
    runtime::tasks()
}

/// The plain rules as functions, for `Snakepit.GRPC.Client`.
#[rustler::nif(schedule = "DirtyCpu")]
fn encode_args<'a>(env: Env<'a>, args: Term<'a>) -> NifResult<Term<'a>> {
    match codec::encode_args(args, Rules::Plain, usize::MAX) {
        Ok(fields) => {
            let pairs: Vec<_> = fields
                .values
                .iter()
                .map(|field| {
                    (
                        codec::copied(env, &field.key),
                        codec::binary(env, &field.value),
                    )
                })
                .collect();
            Ok((atoms::ok(), Term::map_from_pairs(env, &pairs)?).encode(env))
        }
        Err(error) => Ok(error.encode(env)),
    }
}

#[rustler::nif(schedule = "DirtyCpu")]
fn decode_result<'a>(env: Env<'a>, result: HashMap<String, rustler::Binary<'a>>) -> Term<'a> {
    let values = result
        .into_iter()
        .map(|(key, value)| Field::new(key, Bytes::copy_from_slice(&value)));
    let fields = Fields::received(values.collect(), None);
    match codec::decode_fields(env, &fields, None) {
        Ok(map) => (atoms::ok(), map).encode(env),
        Err(failure) => env.error_tuple(failure),
    }
}
