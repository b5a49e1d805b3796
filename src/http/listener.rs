//! The listening socket: bound early, so that a taken port is an error of the start and not of the first request.

use socket2::SockRef;
use std::io;
use std::net::SocketAddr;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// Connections the kernel keeps for us until they are accepted; it lowers this to `net.core.somaxconn`.
const BACKLOG: u32 = 1024;

/// Bytes of an answer that the kernel takes from us before it can send them. Without a bound it takes as many as
/// `net.ipv4.tcp_wmem` allows, 4 MiB, for each reader that stands still: 1.1 GiB for 300 of them, where a container's
/// limit counts them as ours. Bytes on the wire are not bounded by this, so a long line is filled as ever. Measured with
/// answers of 1 MiB and 1 GiB: 128 and 256 KiB cost a third more CPU, 512 KiB nothing that shows.
const UNSENT_BYTES_MAX: u32 = 512 << 10;

/// Why the server cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The host name has no address.
    #[error("cannot find an address for host {host:?}")]
    Resolve {
        /// The name that was looked up.
        host: String,
        /// What the look-up said.
        source: io::Error,
    },
    /// The address cannot be had.
    #[error("cannot listen on {address}: {}", explain(.source))]
    Listen {
        /// The address that was tried (the last one, if the host has several).
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// What the user can do something about, in words.
fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "the port is taken by another program".to_owned(),
        io::ErrorKind::AddrNotAvailable => "this machine does not have the address".to_owned(),
        io::ErrorKind::PermissionDenied => "the system does not permit it (ports below 1024?)".to_owned(),
        _ => error.to_string(),
    }
}

/// A socket that listens and accepts nothing yet.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
}

/// Listens on the first address of `host` that can be had; port 0 lets the system choose one.
///
/// # Errors
/// [`BindError`], naming the host or the address.
pub async fn bind(host: &str, port: u16) -> Result<Listener, BindError> {
    let resolve_error = |source| BindError::Resolve { host: host.to_owned(), source };
    let mut last = resolve_error(io::Error::new(io::ErrorKind::NotFound, "it has none"));
    for address in tokio::net::lookup_host((host, port)).await.map_err(resolve_error)? {
        match listen(address) {
            Ok(listener) => return Ok(listener),
            Err(source) => last = BindError::Listen { address, source },
        }
    }
    Err(last)
}

fn listen(address: SocketAddr) -> io::Result<Listener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?; // a restart need not wait for the last run's connections to be forgotten
    // Connections inherit it. Where it is not known, the kernel buffers more, and all else is the same.
    let _ = SockRef::from(&socket).set_tcp_notsent_lowat(UNSENT_BYTES_MAX);
    socket.bind(address)?;
    let socket = socket.listen(BACKLOG)?;
    let address = socket.local_addr()?;
    Ok(Listener { socket, address })
}

impl Listener {
    /// Where it listens; the port is the real one.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        self.socket.accept().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_is_named_in_the_error() {
        let first = bind("localhost", 0).await.expect("some port is free");
        let address = first.address();
        let error = bind(&address.ip().to_string(), address.port()).await.expect_err("it is taken");
        assert_eq!(
            error.to_string(),
            format!("cannot listen on {address}: the port is taken by another program")
        );
    }

    #[tokio::test]
    async fn connections_inherit_the_bound_of_what_the_kernel_buffers() {
        let listener = bind("127.0.0.1", 0).await.expect("some port is free");
        let (client, accepted) = tokio::join!(TcpStream::connect(listener.address()), listener.accept());
        let (_client, (stream, _)) = (client.expect("it listens"), accepted.expect("somebody calls"));
        let bound = SockRef::from(&stream).tcp_notsent_lowat().expect("this system knows it");
        assert_eq!(bound, UNSENT_BYTES_MAX);
    }

    #[tokio::test]
    async fn a_host_without_an_address_is_named_in_the_error() {
        let error = bind("no-such-host.invalid", 0).await.expect_err("the name is reserved for this");
        assert!(error.to_string().starts_with("cannot find an address for host \"no-such-host.invalid\""));
    }
}
