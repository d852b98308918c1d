//! Opening connections, and reading from them.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream as StdStream};
use std::time::Duration;

use monoio::buf::IoBufMut;
use monoio::io::AsyncReadRent;
use monoio::net::TcpStream;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use crate::arguments::Common;

/// Where connections go, and where they come from.
#[derive(Debug, Clone)]
pub(crate) struct Connector {
    pub(crate) target: SocketAddr,
    /// Source addresses, in turn; empty: what the kernel chooses.
    pub(crate) sources: Vec<IpAddr>,
    pub(crate) timeout: Duration,
}

impl Connector {
    pub(crate) fn new(common: &Common) -> Self {
        Self { target: common.target, sources: common.bind.clone(), timeout: common.timeout }
    }

    /// Connect, without Nagle's algorithm: a request must leave when it is sent.
    ///
    /// # Errors
    ///
    /// `TimedOut`, and whatever connect(2) reports.
    pub(crate) async fn open(&self, number: usize) -> io::Result<TcpStream> {
        let socket =
            Socket::new(Domain::for_address(self.target), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        if !self.sources.is_empty() {
            let source = self.sources[number % self.sources.len()];
            // The port is chosen at connect, by the whole address pair, else all destinations
            // would share one range of ports: ip(7).
            setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        match socket.connect(&self.target.into()) {
            Err(error) if error.raw_os_error() != Some(nix::libc::EINPROGRESS) => Err(error),
            _ => self.established(socket.into()).await,
        }
    }

    async fn established(&self, socket: StdStream) -> io::Result<TcpStream> {
        let mut stream = TcpStream::from_std(socket)?;
        let ready = monoio::time::timeout(self.timeout, stream.writable(true)).await;
        ready.map_err(|_| io::ErrorKind::TimedOut)??;
        // Writable may also mean failed: connect(2). The peer's address is known exactly when the
        // connection stands, and the next operation returns the pending error.
        match stream.peer_addr() {
            Ok(_) => Ok(stream),
            Err(error) => {
                let (result, _) = stream.read(vec![0; 1]).await;
                Err(result.err().unwrap_or(error))
            }
        }
    }
}

/// Read once, behind what the buffer holds. 0 is the end of the stream.
///
/// # Errors
///
/// Those of recv(2).
pub(crate) async fn read_more(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<usize> {
    let filled = buffer.len();
    if filled == buffer.capacity() {
        // A receive into no room would look like the stream's end.
        buffer.reserve(filled.max(1024));
    }
    let taken = std::mem::take(buffer);
    let (result, rest) = stream.read(taken.slice_mut(filled..)).await;
    *buffer = rest.into_inner();
    result
}
