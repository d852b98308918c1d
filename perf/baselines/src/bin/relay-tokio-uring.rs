//! The smallest honest relay on tokio-uring: a ring whose descriptor tokio's epoll waits for.
//!
//! What the runtime cannot express:
//!
//! - Buffers that the kernel picks (provided-buffer rings); an idle connection holds two.
//! - Multishot accept and receive.
//! - Waiting in the ring: every wake-up goes through epoll_wait, then the ring, so a small exchange
//!   costs one system call more than on the other runtimes. DEFER_TASKRUN, which Egret's ring has,
//!   cannot be used: completions would then only appear inside io_uring_enter, which nobody calls
//!   while epoll waits.
//! - Waiting for room to write when the peer has sent FIN: there it tries again after a pause.
//! - A connect on a prepared socket, so SO_MARK has no place: tokio connects, and hands over.
//!
//! It has had no release since 2024.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;
use std::time::Duration;

use egret_baselines::{
    BUFFER_BYTES, end_both, listener_of_command_line, original_destination, upstream_socket,
};
use tokio::net::TcpSocket;
use tokio_uring::buf::BoundedBuf;
use tokio_uring::net::{TcpListener, TcpStream};

const RING_ENTRIES: u32 = 1024;

/// Before a write that found no room is tried again.
const FULL_PAUSE: Duration = Duration::from_millis(1);

fn main() -> io::Result<()> {
    let listener = listener_of_command_line()?;
    tokio_uring::builder().entries(RING_ENTRIES).start(async {
        let listener = TcpListener::from_std(listener);
        loop {
            // An error is the connection's own, or there is no descriptor: it stays in the queue.
            if let Ok((downstream, _)) = listener.accept().await {
                tokio_uring::spawn(relay(downstream));
            }
        }
    })
}

async fn relay(downstream: TcpStream) -> io::Result<()> {
    let destination = original_destination(&downstream)?;
    let socket = TcpSocket::from_std_stream(upstream_socket()?.into());
    let upstream = socket.connect(destination).await?.into_std()?;
    let ends = [downstream.as_raw_fd(), upstream.as_raw_fd()];
    let (downstream, upstream) = (Rc::new(downstream), Rc::new(TcpStream::from_std(upstream)));
    let back = tokio_uring::spawn(half(upstream.clone(), downstream.clone(), ends));
    // The descriptors are open until both halves are done, because this waits for both.
    half(downstream.clone(), upstream.clone(), ends).await;
    back.await?;
    Ok(())
}

/// One direction, until it ends; its end is passed on.
async fn half(from: Rc<TcpStream>, to: Rc<TcpStream>, ends: [RawFd; 2]) {
    let mut buffer = Vec::with_capacity(BUFFER_BYTES);
    loop {
        let (result, filled) = from.read(buffer).await;
        let (result, emptied) = match result {
            Ok(0) => return drop(to.shutdown(Shutdown::Write)),
            // A read never shortens the vector's length: the rest is of an earlier one.
            Ok(count) => pass_on(&to, filled, count).await,
            Err(error) => (Err(error), filled),
        };
        buffer = emptied;
        if result.is_err() {
            // The other direction is over too, and waits for bytes that nobody will send.
            return end_both(ends);
        }
    }
}

/// Writes the first `count` bytes of `buffer`.
async fn pass_on(to: &TcpStream, mut buffer: Vec<u8>, count: usize) -> (io::Result<()>, Vec<u8>) {
    let mut written = 0;
    while written < count {
        let (result, given_back) = to.write(buffer.slice(written..count)).submit().await;
        buffer = given_back.into_inner();
        match result {
            Ok(bytes) => written += bytes,
            // After the peer's FIN the kernel's waits for room end at once, and so may a write; the
            // runtime has no way to wait.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                tokio::time::sleep(FULL_PAUSE).await;
            }
            Err(error) => return (Err(error), buffer),
        }
    }
    (Ok(()), buffer)
}
