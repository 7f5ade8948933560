//! The addresses of servers: parsed, displayed, connected to and listened at. All that is specific to a kind
//! of address is in this file.

use crate::socket::Socket;
use std::{fmt, fs, io, path::PathBuf, str::FromStr};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Unix(PathBuf),
    /// `host:port`
    Tcp(String),
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an address; expected \"unix:/path/to/socket\" or \"tcp:host:port\"")]
pub struct InvalidAddress(String);

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        match text.split_once(':') {
            Some(("unix", path)) if !path.is_empty() => Ok(Self::Unix(path.into())),
            Some(("tcp", host)) if host.contains(':') => Ok(Self::Tcp(host.into())),
            _ => Err(InvalidAddress(text.into())),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(host) => write!(f, "tcp:{host}"),
        }
    }
}

impl Address {
    pub async fn connect(&self) -> io::Result<Socket> {
        match self {
            Self::Unix(path) => Socket::unix(UnixStream::connect(path).await?),
            Self::Tcp(host) => Socket::tcp(TcpStream::connect(host).await?),
        }
    }

    /// The name or the IP address of the host; empty for a Unix socket.
    pub fn host(&self) -> &str {
        let Self::Tcp(address) = self else {
            return "";
        };
        let host = address.rsplit_once(':').map_or("", |(host, _port)| host);
        host.strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host)
    }

    /// Listens at the address. Must be called on the runtime that accepts the connections.
    pub fn bind(&self) -> io::Result<Listener> {
        let (address, socket) = match self {
            Self::Unix(path) => (self.clone(), Bound::Unix(UnixListener::bind(path)?)),
            Self::Tcp(host) => {
                let listener = std::net::TcpListener::bind(host)?;
                listener.set_nonblocking(true)?;
                let listener = TcpListener::from_std(listener)?;
                let address = Self::Tcp(listener.local_addr()?.to_string());
                (address, Bound::Tcp(listener))
            }
        };
        Ok(Listener { address, socket })
    }
}

/// Accepts connections. Dropping it removes the file of a Unix socket.
#[derive(Debug)]
pub struct Listener {
    address: Address,
    socket: Bound,
}

#[derive(Debug)]
enum Bound {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Listener {
    /// Where it listens, with the port that was chosen for port 0.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Whether only processes of the same user can connect.
    pub fn is_private(&self) -> bool {
        matches!(self.socket, Bound::Unix(_))
    }

    pub async fn accept(&self) -> io::Result<Socket> {
        match &self.socket {
            Bound::Unix(listener) => Socket::unix(listener.accept().await?.0),
            Bound::Tcp(listener) => Socket::tcp(listener.accept().await?.0),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Address::Unix(path) = &self.address {
            // It may be gone already.
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[test]
    fn addresses_are_read_and_written_alike() {
        let unix = "unix:/tmp/a:b";
        assert_eq!(unix.parse(), Ok(Address::Unix("/tmp/a:b".into())));
        let tcp = "tcp:127.0.0.1:50051";
        assert_eq!(tcp.parse(), Ok(Address::Tcp("127.0.0.1:50051".into())));
        for text in [unix, tcp] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn the_host_of_an_address_is_known_for_tcp() {
        for (text, host) in [
            ("tcp:models:1", "models"),
            ("tcp:10.0.0.7:1", "10.0.0.7"),
            ("tcp:[::1]:1", "::1"),
            ("unix:/a:b", ""),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().host(), host);
        }
    }

    #[test]
    fn other_addresses_are_refused_with_the_expected_form() {
        for text in ["", "unix:", "tcp:localhost", "http://localhost:1"] {
            let message = text.parse::<Address>().unwrap_err().to_string();
            assert!(message.contains("unix:/path"), "{message}");
        }
    }

    async fn connected(listener: &Listener) {
        let address = listener.address().to_string().parse::<Address>().unwrap();
        let (near, far) = tokio::join!(address.connect(), listener.accept());
        near.unwrap().write_all(b"x").await.unwrap();
        assert_eq!(far.unwrap().read_u8().await.unwrap(), b'x');
    }

    #[tokio::test]
    async fn a_listener_on_a_unix_socket_is_reached_by_its_address_and_takes_its_file_away() {
        let name = format!("snakepit-address-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let listener = Address::Unix(path.clone()).bind().unwrap();
        assert!(listener.is_private());
        connected(&listener).await;
        assert!(path.exists());
        drop(listener);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_listener_on_any_free_port_is_reached_by_the_one_that_was_found() {
        let listener = Address::Tcp("127.0.0.1:0".into()).bind().unwrap();
        assert!(!listener.is_private());
        assert_ne!(listener.address().to_string(), "tcp:127.0.0.1:0");
        connected(&listener).await;
    }

    #[tokio::test]
    async fn an_address_where_another_listens_is_not_taken() {
        let listener = Address::Tcp("127.0.0.1:0".into()).bind().unwrap();
        assert!(listener.address().bind().is_err());
    }
}
