//! What both ends of a worker's connection share: gRPC's framing, and a connection that any thread
//! may write to.

mod driven;
mod framing;
mod journal;
mod outlet;
mod socket;

pub use driven::{Connection, Driven, Io, IoState, muted};
pub use framing::{Deframer, FRAME_OVERHEAD, FrameError, append, append_encoded};
pub use journal::{JOURNAL_BYTES, StartJournal};
pub use outlet::Outlet;
pub use socket::Socket;
