//! Listening for the servers, with errors that say what to do.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::AsRawFd;

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt,
};

/// A server could not listen. The message names the address and what to do.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// EADDRINUSE.
    #[error(
        "port taken: the {server} server cannot listen on {address}; another process does (find it \
         with `ss -ltnp`), or set {server}.address to a free port"
    )]
    Taken {
        /// `admin`, `metrics` or `health`, as in the configuration.
        server: &'static str,
        /// The address that is taken.
        address: SocketAddr,
    },
    /// EACCES.
    #[error(
        "no permission: the {server} server cannot listen on {address}; set {server}.address to a \
         port above 1023, or grant CAP_NET_BIND_SERVICE"
    )]
    Denied {
        /// `admin`, `metrics` or `health`, as in the configuration.
        server: &'static str,
        /// The address that is denied.
        address: SocketAddr,
    },
    /// EADDRNOTAVAIL.
    #[error(
        "no such address: the {server} server cannot listen on {address}; set {server}.address to \
         an address of this host"
    )]
    NotLocal {
        /// `admin`, `metrics` or `health`, as in the configuration.
        server: &'static str,
        /// The address that the host does not have.
        address: SocketAddr,
    },
    /// Anything else.
    #[error("the {server} server cannot listen on {address}: {source}; see {server}.address")]
    Other {
        /// `admin`, `metrics` or `health`, as in the configuration.
        server: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
}

impl BindError {
    /// Another process listens there.
    pub(crate) fn is_taken(&self) -> bool {
        matches!(self, Self::Taken { .. })
    }
}

/// Connections that wait to be accepted, at most: none is refused while a flood of them is pushed
/// out again. `net.core.somaxconn` may lower it.
const BACKLOG: i32 = 4096;

/// Whether other listeners of this process may have the port, too, on other addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sharing {
    No,
    Yes,
}

/// The listeners for `server`, and where the first of them really listens. Where that is every
/// address, loopback has one of its own: what waits in the other's queue does not delay it.
pub(super) fn listen(
    server: &'static str,
    address: SocketAddr,
) -> Result<(Vec<TcpListener>, SocketAddr), BindError> {
    listeners(address).map_err(|source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => BindError::Taken { server, address },
        io::ErrorKind::PermissionDenied => BindError::Denied { server, address },
        io::ErrorKind::AddrNotAvailable => BindError::NotLocal { server, address },
        _ => BindError::Other { server, address, source },
    })
}

fn listeners(address: SocketAddr) -> io::Result<(Vec<TcpListener>, SocketAddr)> {
    // Sharing alone would let another process have the port, too.
    let alone = bound(address, Sharing::No)?;
    let bound_to = alone.local_addr()?;
    if !address.ip().is_unspecified() {
        return Ok((vec![alone], bound_to));
    }
    drop(alone);
    let mut listeners = vec![bound(bound_to, Sharing::Yes)?];
    for loopback in [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()] {
        let loopback = SocketAddr::new(loopback, bound_to.port());
        // An IPv6 socket takes IPv4 connections, too. A host may lack either family.
        if (bound_to.is_ipv6() || loopback.is_ipv4())
            && let Ok(listener) = bound(loopback, Sharing::Yes)
        {
            listeners.push(listener);
        }
    }
    Ok((listeners, bound_to))
}

fn bound(address: SocketAddr, sharing: Sharing) -> io::Result<TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(family, SockType::Stream, flags, None)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    setsockopt(&socket, sockopt::ReusePort, &(sharing == Sharing::Yes))?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    nix::sys::socket::listen(&socket, Backlog::new(BACKLOG)?)?;
    Ok(TcpListener::from(socket))
}
