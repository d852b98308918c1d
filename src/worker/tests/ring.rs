//! The kernel's ring, without sleep and with a clock that can be moved on.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::sys::buffers::Buffer;
use crate::sys::ring::{Completion, Expect, Notice, Operation, Ring, Token, Trimmed};
use crate::sys::socket::{Listener, Socket};
use crate::sys::uring::Uring;
use crate::sys::waker::Waker;

/// What a test sees of the ring, and does to it.
#[derive(Debug, Default)]
pub(super) struct View {
    /// Added to the clock.
    pub(super) later: Cell<Duration>,
    /// Completions that were handed out.
    pub(super) completions: Cell<u64>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct StepRing {
    inner: Uring,
    view: Rc<View>,
}

impl StepRing {
    pub(super) fn new(buffers: u16, view: Rc<View>) -> Self {
        Self { inner: Uring::new(buffers).expect("io_uring is allowed here"), view }
    }
}

impl Ring for StepRing {
    fn accept(&mut self, listener: &Listener, token: Token) {
        self.inner.accept(listener, token);
    }

    fn connect(&mut self, socket: &Socket, address: &SocketAddr, token: Token) {
        self.inner.connect(socket, address, token);
    }

    fn receive(&mut self, socket: &Socket, most: u32, expect: Expect, token: Token) {
        self.inner.receive(socket, most, expect, token);
    }

    fn receive_on(&mut self, socket: &Socket, expect: Expect, token: Token) {
        self.inner.receive_on(socket, expect, token);
    }

    fn send(&mut self, at: &Socket, buffer: &Buffer, part: Range<u32>, notice: Notice, t: Token) {
        self.inner.send(at, buffer, part, notice, t);
    }

    fn poll(&mut self, socket: &Socket, operation: Operation, token: Token) {
        self.inner.poll(socket, operation, token);
    }

    fn poll_waker(&mut self, waker: &Waker, token: Token) {
        self.inner.poll_waker(waker, token);
    }

    fn cancel(&mut self, operation: Operation, token: Token) {
        self.inner.cancel(operation, token);
    }

    fn close(&mut self, socket: Socket) {
        self.inner.close(socket);
    }

    fn bytes<'a>(&'a self, buffer: &'a Buffer) -> &'a [u8] {
        self.inner.bytes(buffer)
    }

    fn fill(&mut self, bytes: &[u8]) -> Option<Buffer> {
        self.inner.fill(bytes)
    }

    fn prepend(&mut self, buffer: &mut Buffer, bytes: &[u8]) {
        self.inner.prepend(buffer, bytes);
    }

    fn release(&mut self, buffer: Buffer) {
        self.inner.release(buffer);
    }

    fn free_buffers(&self) -> usize {
        self.inner.free_buffers()
    }

    fn trim(&mut self) -> Trimmed {
        self.inner.trim()
    }

    fn submit(&mut self) -> io::Result<()> {
        self.inner.submit()
    }

    fn hurry(&mut self) {
        self.inner.hurry();
    }

    fn wait(&mut self, _: Option<Instant>) -> io::Result<()> {
        self.inner.wait(Some(Instant::now()))
    }

    fn next_completion(&mut self) -> Option<Completion> {
        let completion = self.inner.next_completion()?;
        self.view.completions.set(self.view.completions.get() + 1);
        Some(completion)
    }

    fn now(&self) -> Instant {
        self.inner.now() + self.view.later.get()
    }

    fn overflows(&self) -> u64 {
        self.inner.overflows()
    }
}
