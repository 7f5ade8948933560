//! The client end of the data plane, without the BEAM.
//!
//! `pool` picks a worker for a call or queues it. `connection` keeps the connections to a server: `multiplexer`
//! sends unary calls over one long RPC (`calls_rpc`), which `open_calls` keeps open; `channel` sends others as RPCs of
//! their own, `keepalive` says when silent servers are asked, and `faults` counts the calls that fail by their server. `credit` and
//! `chunk_order` are for streams, `conversation` is for two-way calls, `numbers` counts the calls of a pool, `output` and
//! `stdio_messages` read the pipes of workers, `stdio_input` writes to one.

pub mod calls_rpc;
pub mod cancellable_body;
pub mod channel;
pub mod chunk_order;
pub mod connection;
pub mod conversation;
pub mod credit;
pub mod error;
pub mod faults;
mod health_watch;
pub mod keepalive;
pub mod multiplexer;
pub mod numbers;
pub mod offload;
mod open_calls;
pub mod output;
pub mod overdue;
pub mod pipe;
pub mod pool;
pub mod process;
pub mod runtime_dir;
pub mod stdio_id;
pub mod stdio_input;
pub mod stdio_messages;
pub mod target;
