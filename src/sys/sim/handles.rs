//! What a worker holds of the net: sockets, listeners, pipes.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use super::net::{EndId, ListenerId, Net};
use crate::sys::kernel::{Errno, ListenSocket, SplicePipe, StreamSocket};
use crate::sys::pipe::Spliced;
use crate::sys::socket::Keepalive;

/// A TCP connection of the worker.
#[derive(Debug)]
pub struct SimSocket {
    net: Rc<RefCell<Net>>,
    end: EndId,
    is_open: bool,
}

impl SimSocket {
    pub(super) fn new(net: &Rc<RefCell<Net>>, end: EndId) -> Self {
        Self { net: Rc::clone(net), end, is_open: true }
    }

    pub(super) fn end(&self) -> EndId {
        self.end
    }

    /// What is left when the ring is to close it.
    pub(super) fn into_end(mut self) -> EndId {
        self.is_open = false;
        self.end
    }
}

/// As a descriptor is closed when its owner is dropped.
impl Drop for SimSocket {
    fn drop(&mut self) {
        if self.is_open {
            self.net.borrow_mut().close(self.end);
        }
    }
}

impl StreamSocket for SimSocket {
    fn local_address(&self) -> Result<SocketAddr, Errno> {
        Ok(self.net.borrow().local_address(self.end))
    }

    fn quickack_on(&self) {}

    fn set_keepalive(&self, _: Keepalive) -> Result<(), Errno> {
        Ok(())
    }

    fn set_user_timeout(&self, _: Duration) {}

    fn is_connected(&self) -> bool {
        self.net.borrow().is_connected(self.end)
    }

    fn verify_connected(&self) -> Result<(), Errno> {
        let mut net = self.net.borrow_mut();
        match net.is_connected(self.end) {
            true => Ok(()),
            false => Err(net.pending_error(self.end).unwrap_or(Errno::EHOSTUNREACH)),
        }
    }

    fn shutdown_write(&self) -> Result<(), Errno> {
        self.net.borrow_mut().finish(self.end)
    }

    fn reset_on_close(&self) {
        self.net.borrow_mut().reset_on_close(self.end);
    }

    fn unacknowledged_bytes(&self) -> usize {
        self.net.borrow().unacknowledged(self.end)
    }

    fn discard_input(&self) -> bool {
        loop {
            match self.net.borrow_mut().read(self.end, usize::MAX) {
                Ok(bytes) if bytes.is_empty() => return true,
                Ok(_) => {}
                Err(Errno::EAGAIN) => return false,
                Err(_) => return true,
            }
        }
    }
}

/// A listening socket of the worker.
#[derive(Debug)]
pub struct SimListener {
    net: Rc<RefCell<Net>>,
    id: ListenerId,
}

impl SimListener {
    /// A listener in `net`.
    #[must_use]
    pub fn new(net: &Rc<RefCell<Net>>) -> Self {
        Self { net: Rc::clone(net), id: net.borrow_mut().add_listener() }
    }

    /// Where clients connect to.
    #[must_use]
    pub fn id(&self) -> ListenerId {
        self.id
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        self.net.borrow_mut().close_listener(self.id);
    }
}

impl ListenSocket for SimListener {
    type Socket = SimSocket;

    fn accept_now(&self) -> Result<SimSocket, Errno> {
        let accepted = self.net.borrow_mut().accept(self.id).ok_or(Errno::EAGAIN)??;
        Ok(SimSocket::new(&self.net, accepted))
    }

    fn refuse_new_handshakes(&self) -> Result<(), Errno> {
        self.net.borrow_mut().refuse_handshakes(self.id);
        Ok(())
    }
}

/// A pipe.
#[derive(Debug)]
pub struct SimPipe {
    net: Rc<RefCell<Net>>,
    bytes: VecDeque<u8>,
    capacity: usize,
}

impl SimPipe {
    pub(super) fn new(net: &Rc<RefCell<Net>>, capacity: usize) -> Self {
        Self { net: Rc::clone(net), bytes: VecDeque::new(), capacity }
    }
}

impl Drop for SimPipe {
    fn drop(&mut self) {
        self.net.borrow_mut().close_pipe();
    }
}

impl SplicePipe for SimPipe {
    type Socket = SimSocket;

    fn pending_bytes(&self) -> usize {
        self.bytes.len()
    }

    fn fill(&mut self, source: &SimSocket, most: u64) -> Result<Spliced, Errno> {
        assert!(self.bytes.is_empty(), "a pipe is filled only when it is empty");
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(self.capacity);
        let mut net = self.net.borrow_mut();
        let most = net.part(most);
        match net.read(source.end, most) {
            Ok(bytes) if bytes.is_empty() => Ok(Spliced::End),
            Ok(bytes) => {
                self.bytes.extend(&bytes);
                Ok(Spliced::Bytes(bytes.len()))
            }
            Err(Errno::EAGAIN) => Ok(Spliced::NotReady),
            Err(error) => Err(error),
        }
    }

    fn flush(&mut self, target: &SimSocket) -> Result<Spliced, Errno> {
        let mut net = self.net.borrow_mut();
        match net.write(target.end, self.bytes.make_contiguous()) {
            Ok(count) => {
                self.bytes.drain(..count);
                Ok(Spliced::Bytes(count))
            }
            Err(Errno::EAGAIN) => Ok(Spliced::NotReady),
            Err(error) => Err(error),
        }
    }
}
