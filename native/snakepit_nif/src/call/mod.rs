//! A call on its way to a worker and back.

mod cause;
mod destination;
mod exit;
mod meta;
mod request;
mod route;
mod rpc;
mod stream;
mod unary;

pub(crate) use destination::{Connection, Endpoint, Pool, Worker};
pub(crate) use request::{Call, Owner, Watched};
pub(crate) use route::{Route, Waiting};
pub(crate) use stream::{Overdue, StreamTimeouts, run_stream};
pub(crate) use unary::start_unary;
