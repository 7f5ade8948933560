//! Runs a streaming command in a thread.

use crate::{invocation::Invocation, unwrapping::unwrapped};
use pyo3::{exceptions::PyStopIteration, prelude::*};
use snakepit_server::{Failure, StreamResponder};

/// Runs the command, and sends the values that its generator yields.
pub(crate) fn stream(run: Invocation<'_, '_>, stream: &StreamResponder) -> Result<(), Failure> {
    let first = run.call()?;
    let (value, generator) = if run.call.command.streams {
        (run.py.None().into_bound(run.py), Some(first))
    } else {
        unwrapped(run, first)?
    };
    let Some(generator) = generator else {
        return run.send(stream, &value, true).map(drop);
    };
    let ended = drive(run, stream, &generator);
    if ended.is_err() {
        close(run, &generator);
    }
    ended
}

fn drive(
    run: Invocation<'_, '_>,
    stream: &StreamResponder,
    generator: &Bound<'_, PyAny>,
) -> Result<(), Failure> {
    let next = generator
        .getattr("__next__")
        .map_err(|error| run.failure(error))?;
    loop {
        if run.call.is_cancelled() {
            run.call.set_closed();
            return Err(Failure::cancelled());
        }
        match next.call0() {
            Ok(value) => {
                run.leave_fork();
                if run.send(stream, &value, false)? {
                    run.py.detach(|| stream.wait_room());
                }
            }
            Err(stop) if stop.is_instance_of::<PyStopIteration>(run.py) => {
                run.leave_fork();
                return match stop.value(run.py).getattr("value") {
                    Ok(value) if !value.is_none() => run.send(stream, &value, true).map(drop),
                    _ => Ok(()),
                };
            }
            Err(error) => return Err(run.failure(error)),
        }
    }
}

/// Closes the generator.
fn close(run: Invocation<'_, '_>, generator: &Bound<'_, PyAny>) {
    if let Err(error) = generator.call_method0("close") {
        let name = &run.call.command.name;
        run.worker.callbacks.close_failed(run.py, name, &error);
    }
}
