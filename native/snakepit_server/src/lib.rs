//! The worker's server, as far as it needs no Python: gRPC over HTTP/2, listening and connections, the
//! scheduler of calls, and how they are answered. Nothing here waits for Python's lock.

mod answer;
mod chunks;
mod lane;
mod poke;
pub mod rpc;
mod scheduler;
mod seat;
mod secret;
mod server;

pub use answer::{Answer, Failure, Outcome, chunk, failed_chunk, reply_frame, response, tell};
pub use chunks::{Chunks, GATHERED_FOR};
pub use lane::Lane;
pub use poke::Poke;
pub use scheduler::{Job, Scheduler};
pub use seat::Seat;
pub use secret::{SECRET, Secret};
pub use server::{Listener, Server, Service};
