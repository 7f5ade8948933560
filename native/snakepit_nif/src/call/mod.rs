//! A call on its way to a worker and back.

mod answer;
mod caller;
mod cause;
mod consumer;
mod converse;
mod destination;
mod exit;
mod meta;
mod overdue;
mod reports;
mod request;
mod route;
mod rpc;
mod stream;
mod timeouts;
mod unary;

pub(crate) use caller::{Waited, cancel};
pub(crate) use converse::{Shape, Sink, TwoWay, run_two_way};
pub(crate) use destination::{Connection, Endpoint, Multiplexer, Pool, Worker};
pub(crate) use overdue::Overdue;
pub(crate) use request::{Call, Refused};
pub(crate) use route::{Route, Target};
pub(crate) use stream::run_stream;
pub(crate) use timeouts::StreamTimeouts;
pub(crate) use unary::start_unary;
