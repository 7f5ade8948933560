//! What both ends of a worker's connection share: gRPC's framing, and a connection that any thread
//! may write to.

mod address;
mod driven;
mod framing;
mod journal;
mod outlet;
mod socket;

pub use address::{Address, InvalidAddress, Listener};
pub use driven::{Connection, Driven, Io, IoState, muted};
pub use framing::{Deframer, FRAME_OVERHEAD, FrameError, append, append_encoded};
pub use journal::{JOURNAL_BYTES, StartJournal};
pub use outlet::Outlet;
pub use socket::Socket;

/// The metadata that carries the secret of a server at a TCP port.
pub const SECRET_HEADER: &str = "x-snakepit-secret";

/// How large a request's or a response's headers may be, in bytes as HTTP/2 counts them. What is larger
/// is not held in memory: anyone may send it before any secret is checked.
pub const MAX_HEADER_LIST: u32 = 64 * 1024;
