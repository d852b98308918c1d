//! One process per name and network namespace: a socket in the abstract namespace (unix(7)), which
//! the kernel gives up together with the process that holds it, however that ends.

use std::io;
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect, getsockopt, socket, sockopt,
};

/// The name is this process' own until this is dropped.
#[derive(Debug)]
pub struct Instance {
    listener: UnixListener,
}

impl Instance {
    /// Takes `name`.
    ///
    /// # Errors
    /// [`io::ErrorKind::AddrInUse`]: another process has it.
    pub fn take(name: &str) -> io::Result<Self> {
        let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(name)?)?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener })
    }

    /// Lets go of those who have asked for the holder: they want its process id and no more.
    pub fn turn_away(&self) {
        while self.listener.accept().is_ok() {}
    }
}

/// The process id of the holder of `name`, as far as this process can see it: 0 from another pid
/// namespace.
#[must_use]
pub fn holder(name: &str) -> Option<i32> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None).ok()?;
    connect(fd.as_raw_fd(), &UnixAddr::new_abstract(name.as_bytes()).ok()?).ok()?;
    Some(getsockopt(&fd, sockopt::PeerCredentials).ok()?.pid())
}
