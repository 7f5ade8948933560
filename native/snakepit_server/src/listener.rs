//! Listens for connections, at a Unix socket or a TCP port.

use crate::newcomers::{Newcomer, Newcomers};
use snakepit_wire::Socket;
use std::{
    io,
    net::TcpListener as StdTcpListener,
    os::unix::net::UnixListener as StdUnixListener,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::net::{TcpListener, UnixListener};

pub enum Listener {
    Unix(StdUnixListener),
    Tcp(StdTcpListener),
}

impl Listener {
    /// Listens at `unix:/path` or `tcp:host:port`; returns the address with the port that was chosen.
    pub fn bind(address: &str) -> io::Result<(Self, String)> {
        match address.split_once(':') {
            Some(("unix", path)) => {
                let listener = StdUnixListener::bind(path)?;
                listener.set_nonblocking(true)?;
                Ok((Self::Unix(listener), address.to_owned()))
            }
            Some(("tcp", host)) => {
                let listener = StdTcpListener::bind(host)?;
                listener.set_nonblocking(true)?;
                let address = format!("tcp:{}", listener.local_addr()?);
                Ok((Self::Tcp(listener), address))
            }
            _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "no address")),
        }
    }
}

/// A listener that belongs to a runtime.
pub(crate) enum Incoming {
    /// Only the worker's own user can connect.
    Unix(
        UnixListener,
        #[expect(dead_code, reason = "it acts when it is dropped")] Unlink,
    ),
    Tcp(TcpListener, Arc<Newcomers>),
}

impl Incoming {
    pub(crate) fn new(listener: Listener) -> io::Result<Self> {
        Ok(match listener {
            Listener::Unix(listener) => {
                let path = listener.local_addr()?.as_pathname().map(Path::to_owned);
                Self::Unix(UnixListener::from_std(listener)?, Unlink(path))
            }
            Listener::Tcp(listener) => Self::Tcp(TcpListener::from_std(listener)?, Arc::default()),
        })
    }

    /// Accepts a connection. One to a port, where other users can connect, is a newcomer.
    pub(crate) async fn accept(&self) -> io::Result<(Socket, Option<Newcomer>)> {
        Ok(match self {
            Self::Unix(listener, _) => (Socket::unix(listener.accept().await?.0)?, None),
            Self::Tcp(listener, newcomers) => {
                let socket = Socket::tcp(listener.accept().await?.0)?;
                (socket, Some(newcomers.join()))
            }
        })
    }
}

/// Removes the file of a Unix socket with its listener.
pub(crate) struct Unlink(Option<PathBuf>);

impl Drop for Unlink {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            // It may be gone.
            let _ = std::fs::remove_file(path);
        }
    }
}
