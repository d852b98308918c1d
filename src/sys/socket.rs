//! TCP sockets and listeners: making them, their options, their addresses, how they end.
//!
//! All sockets are close-on-exec and non-blocking. The ring does not mind (its operations arm their
//! own poll), and splice(2) on a blocking socket would block the thread whatever its flags say.

use std::net::{SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, Shutdown, SockFlag, SockProtocol, SockType, SockaddrLike,
    SockaddrStorage, accept4, bind, getpeername, getsockname, getsockopt, listen, setsockopt,
    shutdown, socket, sockopt,
};

use crate::sys::kernel::{ListenSocket, StreamSocket};

/// Connections that the kernel may queue per listener; capped by `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// When the kernel asks whether a silent peer still lives.
#[derive(Debug, Clone, Copy)]
pub struct Keepalive {
    /// Silence before the first probe, in seconds.
    pub idle_seconds: u32,
    /// Between two probes, in seconds.
    pub interval_seconds: u32,
    /// Unanswered probes until the connection is dead.
    pub probes: u32,
}

/// Which connections a listener takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// To its own address.
    Own,
    /// To any address that TPROXY hands over (IP_TRANSPARENT; needs CAP_NET_RAW or CAP_NET_ADMIN).
    Transparent,
}

/// A connected, or still unconnected, TCP socket. Dropping it closes it; see
/// [`crate::sys::kernel::Kernel::close`] for the way that does not wait.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
}

/// A listening TCP socket.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
}

fn new_socket(address: &SocketAddr) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket(family, SockType::Stream, flags, SockProtocol::Tcp)
}

fn to_std(address: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(SocketAddr::from((v4.ip(), v4.port())));
    }
    let v6 = address.as_sockaddr_in6()?;
    Some(SocketAddrV6::new(v6.ip(), v6.port(), 0, v6.scope_id()).into())
}

fn local_address(fd: &OwnedFd) -> Result<SocketAddr, Errno> {
    let address: SockaddrStorage = getsockname(fd.as_raw_fd())?;
    to_std(&address).ok_or(Errno::EAFNOSUPPORT)
}

impl Socket {
    /// A socket that can be connected to an address of the same family as `address`, with
    /// TCP_NODELAY: bytes that are relayed have been delayed enough.
    ///
    /// # Errors
    /// EMFILE, ENFILE: no descriptor left. EAFNOSUPPORT: the host has no IPv6.
    pub fn for_connecting_to(address: &SocketAddr) -> Result<Self, Errno> {
        let fd = new_socket(address)?;
        setsockopt(&fd, sockopt::TcpNoDelay, &true)?;
        Ok(Self { fd })
    }

    /// Takes ownership of a descriptor that the kernel has just returned from an accept.
    pub(in crate::sys) fn from_accepted(raw: RawFd) -> Self {
        // SAFETY: from_raw_fd requires an open descriptor that nothing else owns. `raw` is the
        // result of one successful accept, which creates a new descriptor and reports it exactly
        // once.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        Self { fd }
    }

    /// Gives the descriptor to the kernel's asynchronous close.
    pub(in crate::sys) fn into_raw(self) -> RawFd {
        self.fd.into_raw_fd()
    }

    /// Sets the mark that netfilter and policy routing see on this socket's packets (SO_MARK).
    ///
    /// # Errors
    /// EPERM: neither CAP_NET_RAW (Linux 5.17) nor CAP_NET_ADMIN.
    pub fn set_mark(&self, mark: u32) -> Result<(), Errno> {
        setsockopt(&self.fd, sockopt::Mark, &mark)
    }

    /// Before the connect: the segment that ends the handshake waits for the first bytes and
    /// travels with them, which saves one packet of about twenty of a short connection
    /// (TCP_QUICKACK off, tcp(7)). [`StreamSocket::quickack_on`] must follow soon after
    /// the connect: if no bytes do, the kernel sends the segment only after 200 ms, and until then
    /// a server does not accept the connection, let alone greet.
    ///
    /// # Errors
    /// None that a TCP socket can meet.
    pub fn quickack_off(&self) -> Result<(), Errno> {
        set_quick_ack(&self.fd, false)
    }

    /// The other end's address.
    ///
    /// # Errors
    /// ENOTCONN: it is gone already.
    pub fn peer_address(&self) -> Result<SocketAddr, Errno> {
        let address: SockaddrStorage = getpeername(self.fd.as_raw_fd())?;
        to_std(&address).ok_or(Errno::EAFNOSUPPORT)
    }

    /// Where `peer`, the other end, meant to go before netfilter redirected it (SO_ORIGINAL_DST for
    /// IPv4, IP6T_SO_ORIGINAL_DST for IPv6; linux/netfilter_ipv4.h,
    /// linux/netfilter_ipv6/ip6_tables.h).
    ///
    /// # Errors
    /// ENOENT: conntrack knows no redirection of this connection. ENOPROTOOPT: the kernel has no
    /// conntrack.
    pub fn original_destination(&self, peer: &SocketAddr) -> Result<SocketAddr, Errno> {
        if peer.is_ipv4() {
            let v4 = getsockopt(&self.fd, sockopt::OriginalDst)?;
            let ip = std::net::Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            return Ok(SocketAddr::from((ip, u16::from_be(v4.sin_port))));
        }
        let v6 = getsockopt(&self.fd, sockopt::Ip6tOriginalDst)?;
        let ip = std::net::Ipv6Addr::from(v6.sin6_addr.s6_addr);
        Ok(SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), 0, v6.sin6_scope_id).into())
    }
}

fn set_keepalive(fd: &OwnedFd, keepalive: Keepalive) -> Result<(), Errno> {
    setsockopt(fd, sockopt::KeepAlive, &true)?;
    setsockopt(fd, sockopt::TcpKeepIdle, &keepalive.idle_seconds)?;
    setsockopt(fd, sockopt::TcpKeepInterval, &keepalive.interval_seconds)?;
    setsockopt(fd, sockopt::TcpKeepCount, &keepalive.probes)
}

impl Listener {
    /// Listens on `address`, sharing the port with the process's other listeners (SO_REUSEPORT). An
    /// IPv6 listener takes IPv6 only. TCP_NODELAY and keepalive are set here once: accepted sockets
    /// inherit them.
    ///
    /// # Errors
    /// EADDRINUSE: somebody else has the port. EPERM: `Reach::Transparent` without CAP_NET_RAW.
    pub fn bind(address: &SocketAddr, reach: Reach, keepalive: Keepalive) -> Result<Self, Errno> {
        let fd = new_socket(address)?;
        setsockopt(&fd, sockopt::ReuseAddr, &true)?;
        setsockopt(&fd, sockopt::ReusePort, &true)?;
        setsockopt(&fd, sockopt::TcpNoDelay, &true)?;
        set_keepalive(&fd, keepalive)?;
        if address.is_ipv6() {
            setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
        }
        if reach == Reach::Transparent {
            set_transparent(&fd, address)?;
        }
        bind(fd.as_raw_fd(), &SockaddrStorage::from(*address))?;
        listen(&fd, Backlog::new(BACKLOG)?)?;
        Ok(Self { fd })
    }

    /// Finds out whether `address` can be listened on, and the port if it is 0. SO_REUSEPORT alone
    /// would let a second process share the port in silence.
    ///
    /// # Errors
    /// EADDRINUSE: somebody listens there. EAFNOSUPPORT: the host does not know the address family.
    pub fn probe(address: &SocketAddr) -> Result<SocketAddr, Errno> {
        let fd = new_socket(address)?;
        setsockopt(&fd, sockopt::ReuseAddr, &true)?;
        if address.is_ipv6() {
            setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
        }
        bind(fd.as_raw_fd(), &SockaddrStorage::from(*address))?;
        let probe = Self { fd };
        probe.local_address()
    }

    /// The address that it is bound to; tells the port when port 0 was asked for.
    ///
    /// # Errors
    /// None that a TCP socket can meet, short of memory.
    pub fn local_address(&self) -> Result<SocketAddr, Errno> {
        local_address(&self.fd)
    }
}

impl StreamSocket for Socket {
    fn quickack_on(&self) {
        // A TCP socket takes this option in every state.
        let _ = set_quick_ack(&self.fd, true);
    }

    fn set_keepalive(&self, keepalive: Keepalive) -> Result<(), Errno> {
        set_keepalive(&self.fd, keepalive)
    }

    fn set_user_timeout(&self, timeout: Duration) {
        let millis = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
        // A TCP socket takes this option in every state.
        let _ = setsockopt(&self.fd, sockopt::TcpUserTimeout, &millis);
    }

    fn local_address(&self) -> Result<SocketAddr, Errno> {
        local_address(&self.fd)
    }

    fn is_connected(&self) -> bool {
        self.peer_address().is_ok()
    }

    fn verify_connected(&self) -> Result<(), Errno> {
        if self.is_connected() {
            return Ok(());
        }
        match getsockopt(&self.fd, sockopt::SocketError)? {
            0 => Err(Errno::EHOSTUNREACH),
            error => Err(Errno::from_raw(error)),
        }
    }

    fn shutdown_write(&self) -> Result<(), Errno> {
        shutdown(self.fd.as_raw_fd(), Shutdown::Write)
    }

    fn reset_on_close(&self) {
        let linger = libc::linger { l_onoff: 1, l_linger: 0 };
        // A TCP socket takes this option in every state.
        let _ = setsockopt(&self.fd, sockopt::Linger, &linger);
    }

    fn unacknowledged_bytes(&self) -> usize {
        let mut bytes: libc::c_int = 0;
        // SAFETY: ioctl(SIOCOUTQ) writes one int to the pointer it is given; `bytes` is an int that
        // lives until the call returns, and the descriptor is owned by `self`.
        let result = unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
        if result < 0 { 0 } else { usize::try_from(bytes).unwrap_or(0) }
    }

    fn discard_input(&self) -> bool {
        let mut scratch = [0_u8; 4096];
        // Bounded, so that a fast peer cannot hold the thread: 256 KiB a call.
        for _ in 0..64 {
            match nix::sys::socket::recv(
                self.fd.as_raw_fd(),
                &mut scratch,
                nix::sys::socket::MsgFlags::MSG_DONTWAIT,
            ) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(Errno::EAGAIN | Errno::EINTR) => return false,
                Err(_) => return true,
            }
        }
        false
    }
}

impl ListenSocket for Listener {
    type Socket = Socket;

    fn accept_now(&self) -> Result<Socket, Errno> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        accept4(self.fd.as_raw_fd(), flags).map(Socket::from_accepted)
    }

    fn refuse_new_handshakes(&self) -> Result<(), Errno> {
        // The filter sees the segment from its TCP header on (net/ipv4/tcp_ipv4.c, tcp_filter).
        // Byte 13 holds the flags (RFC 9293, 3.1): SYN is 0x02, ACK 0x10.
        const FLAGS_OFFSET: u32 = 13;
        const SYN_AND_ACK: u32 = 0x12;
        const SYN: u32 = 0x02;
        const KEEP_ALL: u32 = u32::MAX;
        let op = |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter {
            code: u16::try_from(code).unwrap_or(0),
            jt,
            jf,
            k,
        };
        let mut program = [
            op(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, FLAGS_OFFSET, 0, 0),
            op(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, SYN_AND_ACK, 0, 0),
            op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, SYN, 0, 1),
            op(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
            op(libc::BPF_RET | libc::BPF_K, KEEP_ALL, 0, 0),
        ];
        let length = u16::try_from(program.len()).map_err(|_| Errno::EINVAL)?;
        let filter = libc::sock_fprog { len: length, filter: program.as_mut_ptr() };
        // The kernel copies the program before the call returns.
        set_option(&self.fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &filter)
    }
}

fn set_quick_ack(fd: &OwnedFd, on: bool) -> Result<(), Errno> {
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_QUICKACK, &libc::c_int::from(on))
}

fn set_transparent(fd: &OwnedFd, address: &SocketAddr) -> Result<(), Errno> {
    if address.is_ipv4() {
        return setsockopt(fd, sockopt::IpTransparent, &true);
    }
    let on: libc::c_int = 1;
    set_option(fd, libc::SOL_IPV6, libc::IPV6_TRANSPARENT, &on)
}

/// setsockopt(2) for the options that nix does not know.
fn set_option<T: Copy>(fd: &OwnedFd, level: i32, name: i32, value: &T) -> Result<(), Errno> {
    let length = libc::socklen_t::try_from(size_of::<T>()).map_err(|_| Errno::EINVAL)?;
    let pointer: *const T = value;
    // SAFETY: setsockopt requires `length` readable bytes at the pointer; `value` is a live
    // reference to a T of that size. Where T itself holds a pointer (sock_fprog), the caller keeps
    // its target alive during this call, and the kernel copies it within the call.
    let result = unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, pointer.cast(), length) };
    Errno::result(result).map(drop)
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl From<Socket> for OwnedFd {
    fn from(socket: Socket) -> Self {
        socket.fd
    }
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// An address in the form that connect(2) takes.
pub(in crate::sys) fn to_kernel(address: &SocketAddr) -> (SockaddrStorage, libc::socklen_t) {
    let storage = SockaddrStorage::from(*address);
    let length = storage.len();
    (storage, length)
}
