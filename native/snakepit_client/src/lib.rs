//! The client end of the data plane: which worker takes a call, the connections to servers and the calls on
//! them, what workers print. Nothing here knows of a BEAM.

pub mod calls_rpc;
pub mod channel;
pub mod chunk_order;
pub mod connection;
pub mod credit;
pub mod error;
pub mod multiplexer;
pub mod offload;
pub mod output;
pub mod overdue;
pub mod pipe;
pub mod pool;
pub mod process;
pub mod runtime_dir;
pub mod stdio_id;
pub mod stdio_messages;
pub mod target;
