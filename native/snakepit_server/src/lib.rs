//! The server of a worker, without Python: it listens, accepts connections, serves gRPC over HTTP/2,
//! schedules calls and answers them. Nothing here waits for Python's lock.
//!
//! `Server` listens and hands each RPC to a `Service`. That reads a `CallHeader`, makes a `Responder`,
//! and submits the call to the `Scheduler`; threads take calls from there, each through the `IoDriver`,
//! and finish them by their responder. The `Conversation` of a two-way call carries what its command asks the client,
//! and the items that the client sends.

mod alarm;
mod call_request;
mod calls_stream;
mod chunk_buffer;
mod chunk_sender;
mod command_time;
mod connections;
mod conversation;
mod counters;
mod demand;
mod exit_log;
mod failure;
mod grpc;
mod health;
mod inbox;
mod inputs;
mod io_driver;
mod lifeline;
mod loop_waker;
mod newcomers;
mod outcome;
mod process;
mod reflection;
mod responder;
mod scheduler;
mod secret;
mod server;
mod shutdown;
mod stream_responder;
mod tasks;
mod work;

pub use call_request::{CallRequest, Deadline};
pub use calls_stream::{CallsStream, UnsentReplies};
pub use chunk_sender::send_chunks;
pub use command_time::CommandTime;
pub use connections::Service;
pub use conversation::{Conversation, Waited};
pub use counters::Counters;
pub use exit_log::ExitLog;
pub use failure::Failure;
pub use grpc::{Gone, Rpc, ServerConnection, end, trailers, unreadable};
pub use inbox::Inbox;
pub use inputs::{Ended, Read, Wake};
pub use io_driver::IoDriver;
pub use lifeline::watch_parent;
pub use loop_waker::LoopWaker;
pub use outcome::{BatchPart, Outcome};
pub use process::cpu_time;
pub use responder::{EndHook, Responder};
pub use scheduler::{Schedulable, Scheduler};
pub use secret::Secrets;
pub use server::{Listen, Server};
pub use stream_responder::StreamResponder;
pub use work::{Batch, BatchLimits, Work};
