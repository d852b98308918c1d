//! The smallest honest relay on tokio: epoll, a current-thread runtime.
//!
//! `copy_bidirectional` does the half-close: the end of one direction is passed on when its last
//! byte is, and the other direction goes on. What the runtime cannot express: waiting for bytes
//! without a buffer that is ready for them, batching system calls over connections, and more than
//! one operation per call into the kernel (each read, write and registration is one).

use std::io;

use egret_baselines::{
    BUFFER_BYTES, listener_of_command_line, original_destination, upstream_socket,
};
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

fn main() -> io::Result<()> {
    let listener = listener_of_command_line()?;
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let listener = TcpListener::from_std(listener)?;
        loop {
            // An error is the connection's (it is gone) or the process's (no descriptor is free).
            // Either way the next accept waits in the kernel or fails at once.
            if let Ok((downstream, _)) = listener.accept().await {
                tokio::spawn(relay(downstream));
            } else {
                tokio::task::yield_now().await;
            }
        }
    })
}

async fn relay(mut downstream: TcpStream) -> io::Result<()> {
    let destination = original_destination(&downstream)?;
    let socket = TcpSocket::from_std_stream(upstream_socket()?.into());
    let mut upstream = socket.connect(destination).await?;
    let sizes = (BUFFER_BYTES, BUFFER_BYTES);
    copy_bidirectional_with_sizes(&mut downstream, &mut upstream, sizes.0, sizes.1).await?;
    Ok(())
}
