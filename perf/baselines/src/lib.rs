//! What the baseline relays share, so that each of them is only its runtime.
//!
//! A baseline takes redirected TCP connections on one port, on one thread, finds out where each
//! meant to go, connects there and copies both ways until both are done. That is the least that
//! can stand beside Egret: no registry, no metrics, no timeouts, no limits, no drain, IPv4 only,
//! and a reset becomes an end. What a baseline costs is therefore a lower bound of what a proxy
//! on its runtime costs.

#![deny(unsafe_code)]

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::process;

use nix::libc::{ELOOP, EPERM};
use nix::sys::socket::{Shutdown, SockaddrIn, getsockname, getsockopt, shutdown, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

/// Each direction of each connection holds a buffer of this size for as long as it lives: none of
/// the runtimes can lend one only while bytes are there.
pub const BUFFER_BYTES: usize = 32 << 10;

/// Egret's default mark on its own connections: rules that redirect what local processes open
/// leave it alone.
const MARK: u32 = 1337;

/// As Egret's; the kernel lowers it to net.core.somaxconn.
const BACKLOG: i32 = 4096;

/// The listener on the port that the command line names, on all IPv4 addresses. Accepted sockets
/// inherit TCP_NODELAY from it. Ends the process when the command line is wrong (exit code 64,
/// sysexits.h).
///
/// # Errors
///
/// Those of bind(2) and listen(2).
pub fn listener_of_command_line() -> io::Result<TcpListener> {
    let mut arguments = std::env::args().skip(1);
    let port = arguments.next().and_then(|port| port.parse::<u16>().ok());
    let (Some(port), None) = (port, arguments.next()) else {
        eprintln!("usage: relay PORT    relays redirected IPv4 connections; prints `ready`");
        process::exit(64);
    };
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into())?;
    socket.listen(BACKLOG)?;
    println!("ready");
    Ok(socket.into())
}

/// Where the other end of an accepted connection meant to go.
///
/// # Errors
///
/// ENOENT: it was not redirected and conntrack does not know it. ELOOP: it was not redirected, and
/// connecting there would come back here for ever.
pub fn original_destination(stream: &impl AsRawFd) -> io::Result<SocketAddr> {
    let address = getsockopt(&descriptor(stream), sockopt::OriginalDst)?;
    let ip = Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr));
    let destination = SocketAddrV4::new(ip, u16::from_be(address.sin_port));
    let own: SockaddrIn = getsockname(stream.as_raw_fd())?;
    if SocketAddrV4::from(own) == destination {
        return Err(io::Error::from_raw_os_error(ELOOP));
    }
    Ok(destination.into())
}

/// A socket that can be connected upstream: non-blocking, without Nagle's algorithm, marked as the
/// proxy's own where the process may (CAP_NET_RAW).
///
/// # Errors
///
/// Out of descriptors.
pub fn upstream_socket() -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    match socket.set_mark(MARK) {
        Err(error) if error.raw_os_error() != Some(EPERM) => Err(error),
        _ => Ok(socket),
    }
}

/// Ends both connections of a relay, so that the operations in flight on them end too.
pub fn end_both(ends: [RawFd; 2]) {
    for end in ends {
        // One that is no longer connected is where it should be.
        let _ = shutdown(end, Shutdown::Both);
    }
}

/// The runtimes' streams tell the number of their descriptor and nothing else.
#[expect(unsafe_code, reason = "no safe call takes a number, and no runtime lends more")]
fn descriptor<T: AsRawFd>(stream: &T) -> BorrowedFd<'_> {
    // SAFETY: the descriptor must stay open while it is borrowed; the stream owns it, and the
    // lifetime holds the stream.
    unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) }
}
