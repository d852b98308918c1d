//! The kernel, without sleep, with a clock that can be moved on, and with clients whose addresses
//! are made up.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use crate::sys::buffers::{Buffer, BufferPool};
use crate::sys::kernel::{
    Completion, Errno, Expect, Kernel, Notice, Operation, Recorded, Token, Trimmed,
};
use crate::sys::pipe::Pipe;
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
pub(super) struct StepKernel {
    inner: Uring,
    view: Rc<View>,
    destination: SocketAddr,
}

impl StepKernel {
    /// Every connection meant to go to `destination`.
    pub(super) fn new(buffers: u16, view: Rc<View>, destination: SocketAddr) -> Self {
        let inner = Uring::new(buffers).expect("io_uring is allowed here");
        Self { inner, view, destination }
    }
}

impl Kernel for StepKernel {
    type Socket = Socket;
    type Listener = Listener;
    type Pipe = Pipe;

    fn accept(&mut self, listener: &Listener, token: Token) {
        self.inner.accept(listener, token);
    }

    fn connect(&mut self, socket: &Socket, address: &SocketAddr, token: Token) {
        self.inner.connect(socket, address, token);
    }

    fn receive(&mut self, socket: &Socket, most: u32, expect: Expect, token: Token) {
        self.inner.receive(socket, most, expect, token);
    }

    fn receive_multishot(&mut self, socket: &Socket, expect: Expect, token: Token) {
        self.inner.receive_multishot(socket, expect, token);
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

    fn submit(&mut self) -> io::Result<()> {
        self.inner.submit()
    }

    fn hurry(&mut self) {
        self.inner.hurry();
    }

    fn wait(&mut self, _: Option<Instant>) -> io::Result<()> {
        self.inner.wait(Some(Instant::now()))
    }

    fn next_completion(&mut self) -> Option<Completion<Socket>> {
        let completion = self.inner.next_completion()?;
        self.view.completions.set(self.view.completions.get() + 1);
        Some(completion)
    }

    fn overflows(&self) -> u64 {
        self.inner.overflows()
    }

    fn pool(&self) -> &BufferPool {
        self.inner.pool()
    }

    fn pool_mut(&mut self) -> &mut BufferPool {
        self.inner.pool_mut()
    }

    fn trim(&mut self) -> Trimmed {
        self.inner.trim()
    }

    fn open_socket(&mut self, address: &SocketAddr, mark: Option<u32>) -> Result<Socket, Errno> {
        self.inner.open_socket(address, mark)
    }

    /// Every connection comes from the same pod.
    fn peer_address(&self, _: &Socket) -> Result<SocketAddr, Errno> {
        Ok(SocketAddr::from(([10, 244, 1, 7], 40_000)))
    }

    fn original_destination(
        &self,
        _: &Socket,
        _: &SocketAddr,
        _: Recorded,
    ) -> Result<SocketAddr, Errno> {
        Ok(self.destination)
    }

    fn open_pipe(&mut self) -> Result<Pipe, Errno> {
        self.inner.open_pipe()
    }

    fn clear_waker(&mut self, waker: &Waker) {
        self.inner.clear_waker(waker);
    }

    fn now(&self) -> Instant {
        self.inner.now() + self.view.later.get()
    }

    fn wall_time(&self) -> SystemTime {
        self.inner.wall_time()
    }

    fn processor_time(&self) -> Duration {
        self.inner.processor_time()
    }

    fn seed(&self) -> u64 {
        self.inner.seed()
    }
}
