//! Listening for the servers, with errors that say what to do.

use std::io;
use std::net::{SocketAddr, TcpListener};

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

/// A listener for `server`, and where it really listens.
pub(super) fn listen(
    server: &'static str,
    address: SocketAddr,
) -> Result<(TcpListener, SocketAddr), BindError> {
    let bind = || {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let bound = listener.local_addr()?;
        Ok((listener, bound))
    };
    bind().map_err(|source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => BindError::Taken { server, address },
        io::ErrorKind::PermissionDenied => BindError::Denied { server, address },
        io::ErrorKind::AddrNotAvailable => BindError::NotLocal { server, address },
        _ => BindError::Other { server, address, source },
    })
}
