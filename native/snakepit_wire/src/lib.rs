//! What both ends of a connection share: addresses and sockets, gRPC's framing, and a connection that any thread
//! may write to.

mod address;
mod connection;
mod framing;
mod io;
mod journal;
mod mean;
mod sender;
mod socket;
pub mod tls;

pub use address::{Address, InvalidAddress, Listener};
pub use connection::{Connection, SharedConnection, leaves_work, without_wakeups};
pub use framing::{Deframer, FRAME_OVERHEAD, FrameError, MAX_FRAME_SIZE, Outgoing, append};
pub use io::{Io, IoState, Port};
pub use journal::{JOURNAL_BYTES, StartJournal};
pub use mean::{moving_mean, nanos};
pub use sender::BatchingSender;
pub use socket::{Socket, watch};

/// The metadata that carries the secret of a server at a TCP port.
pub const SECRET_HEADER: &str = "x-snakepit-secret";
/// The metadata of a `Calls` RPC whose client takes the frame `DRAINING`.
pub const TAKES_DRAINING_HEADER: &str = "x-snakepit-takes-draining";

/// The limit of a request's or a response's headers, in bytes as HTTP/2 counts them. Larger headers are not kept
/// in memory: anyone may send them before a secret is checked.
pub const MAX_HEADER_LIST: u32 = 64 * 1024;
