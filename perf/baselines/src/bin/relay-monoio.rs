//! The smallest honest relay on monoio: io_uring, one thread, a task for each direction.
//!
//! What the runtime cannot express:
//!
//! - Buffers that the kernel picks (provided-buffer rings): each receive brings its own, so an idle
//!   connection holds two.
//! - Multishot accept and receive: each is submitted anew.
//! - A connect on a prepared socket. `TcpStream::connect` makes the socket itself, so SO_MARK has
//!   no place; here connect(2) is called and the ring waits until the socket is writable.
//! - Splice that is worth it: its `zero_copy` is IORING_OP_SPLICE, which holds a kernel thread for
//!   each idle direction, on a pipe per direction that is read in steps of 4 KiB.
//!
//! It has had no release since 2024.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use egret_baselines::{
    BUFFER_BYTES, end_both, listener_of_command_line, original_destination, upstream_socket,
};
use monoio::io::{AsyncReadRent, AsyncWriteRent, AsyncWriteRentExt, Splitable};
use monoio::net::{TcpListener, TcpStream};
use monoio::{IoUringDriver, RuntimeBuilder};

const RING_ENTRIES: u32 = 1024;

fn main() -> io::Result<()> {
    let listener = listener_of_command_line()?;
    // The settings that Egret's own ring has.
    let mut settings = io_uring::IoUring::builder();
    settings.setup_single_issuer().setup_defer_taskrun();
    let builder = RuntimeBuilder::<IoUringDriver>::new().uring_builder(settings);
    builder.with_entries(RING_ENTRIES).build()?.block_on(async {
        let listener = TcpListener::from_std(listener)?;
        loop {
            // An error is the connection's own, or there is no descriptor: it stays in the queue.
            if let Ok((downstream, _)) = listener.accept().await {
                monoio::spawn(relay(downstream));
            }
        }
    })
}

async fn relay(downstream: TcpStream) -> io::Result<()> {
    let upstream = connect(&downstream).await?;
    let ends = [downstream.as_raw_fd(), upstream.as_raw_fd()];
    let (from_downstream, to_downstream) = downstream.into_split();
    let (from_upstream, to_upstream) = upstream.into_split();
    let back = monoio::spawn(half(from_upstream, to_downstream, ends));
    // The descriptors are open until both halves are done, because this waits for both.
    half(from_downstream, to_upstream, ends).await;
    back.await;
    Ok(())
}

async fn connect(downstream: &TcpStream) -> io::Result<TcpStream> {
    let destination = original_destination(downstream)?;
    let socket = upstream_socket()?;
    if let Err(error) = socket.connect(&destination.into())
        && error.raw_os_error() != Some(nix::libc::EINPROGRESS)
    {
        return Err(error);
    }
    let upstream = TcpStream::from_std(socket.into())?;
    upstream.writable(true).await?;
    // Writable also means failed; a socket without a peer has.
    upstream.peer_addr()?;
    Ok(upstream)
}

/// One direction, until it ends; its end is passed on.
async fn half(mut from: impl AsyncReadRent, mut to: impl AsyncWriteRent, ends: [RawFd; 2]) {
    let mut buffer = Vec::with_capacity(BUFFER_BYTES);
    loop {
        let (result, filled) = from.read(buffer).await;
        let result = match result {
            Ok(0) => return drop(to.shutdown().await),
            Ok(_) => to.write_all(filled).await,
            Err(error) => (Err(error), filled),
        };
        match result {
            (Ok(_), emptied) => buffer = emptied,
            // The other direction is over too, and waits for bytes that nobody will send.
            (Err(_), _) => return end_both(ends),
        }
    }
}
