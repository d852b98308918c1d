//! A kernel made of values: a ring, sockets, pipes and a clock, all drawn from one seed.
//!
//! It stands below a worker in the place of [`crate::sys::uring`] and keeps the promises of
//! [`Kernel`], but in every order that they allow: completions of different operations swap places,
//! come alone or in bunches, an operation that is cancelled may complete first, a send takes a part
//! of its bytes, a receive finds no buffer. An hour of idling takes as long as a jump of the clock.
//!
//! What sockets do is in [`net`], each rule with its source. What is outside of the worker (peers,
//! the control plane) is an [`Outside`]: the kernel calls it whenever something has happened, from
//! within [`Kernel::wait`], so one thread runs everything and a seed repeats it.
//!
//! It is part of `sys`, behind the feature `internals`, and not a crate of its own: it implements a
//! trait of `sys`, and the unit tests of the worker can use it as well as the tests outside.

mod draw;
mod handles;
mod net;
mod ring;

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::sys::buffers::{BUFFER_BYTES, Buffer, BufferPool};
use crate::sys::kernel::{
    Completion, Errno, Expect, Kernel, Notice, Operation, Recorded, Token, Trimmed,
};
use crate::sys::waker::Waker;

pub use draw::Draw;
pub use handles::{SimListener, SimPipe, SimSocket};
pub use net::{EndId, Link, ListenerId, Micros, Net, Outcome};
use ring::{Order, Ring, Work};

/// What is outside of the worker.
pub trait Outside: std::fmt::Debug {
    /// Does what is due at [`Net::now`]; called after every event.
    fn step(&mut self, net: &mut Net);
    /// When it wants to act next, if nothing happens before.
    fn next(&self) -> Option<Micros>;
}

/// How this kernel behaves within what is promised.
#[derive(Debug, Clone, Copy)]
pub struct Habits {
    /// Buffers of the pool.
    pub buffers: u16,
    /// One receive or send in so many fails without having been tried (EAGAIN, EINTR); 0: none.
    pub fails_one_in: usize,
    /// A completion may wait for a later turn, and others overtake it.
    pub reorders: bool,
    /// The most completions of one turn.
    pub turn_completions: usize,
    /// The most that one turn's own work takes.
    pub turn_us: Micros,
    /// The most turns of a whole run: one that is not over then spins.
    pub turns_max: u64,
}

/// See the module.
#[derive(Debug)]
pub struct SimKernel {
    net: Rc<RefCell<Net>>,
    outside: Box<dyn Outside>,
    habits: Habits,
    ring: Ring,
    pool: BufferPool,
    draw: Draw,
    waker: Option<(Waker, Token)>,
    hurried: bool,
    left_in_turn: usize,
    turns: u64,
}

impl SimKernel {
    /// A kernel over `net`, with the rest of the world.
    ///
    /// # Errors
    /// ENOMEM: no memory for the buffers.
    pub fn new(
        net: Rc<RefCell<Net>>,
        outside: Box<dyn Outside>,
        habits: Habits,
        mut draw: Draw,
    ) -> io::Result<Self> {
        Ok(Self {
            net,
            outside,
            habits,
            ring: Ring::new(draw.branch()),
            pool: BufferPool::new(habits.buffers)?,
            draw,
            waker: None,
            hurried: false,
            left_in_turn: 0,
            turns: 0,
        })
    }

    fn push(&mut self, operation: Operation, token: Token, work: Work) {
        self.ring.start(Order { operation, token, work });
    }

    /// A receive or send fails without having been tried.
    fn fails(&mut self) -> Option<Errno> {
        let is_drawn = self.habits.fails_one_in > 0 && self.draw.one_in(self.habits.fails_one_in);
        is_drawn.then(|| self.draw.pick(&[Errno::EAGAIN, Errno::EINTR]))
    }

    /// Lets the world go on until `deadline`, or until something has completed.
    fn pass_time(&mut self, deadline: Option<Micros>, may_sleep: bool) {
        let mut still = 0;
        loop {
            self.happen();
            let now = self.net.borrow().now();
            if !may_sleep || !self.ring.is_quiet() || deadline.is_some_and(|at| at <= now) {
                return;
            }
            let next = [self.net.borrow().next_event(), self.outside.next(), deadline];
            let Some(next) = next.into_iter().flatten().min() else {
                panic!("the worker sleeps, and nothing will ever wake it");
            };
            still = if next > now { 0 } else { still + 1 };
            assert!(still < 10_000, "the world spins at {now}");
            self.net.borrow_mut().advance(next.max(now));
        }
    }

    /// What is due happens, and the operations that can complete do.
    fn happen(&mut self) {
        let mut net = self.net.borrow_mut();
        loop {
            net.run_due();
            self.outside.step(&mut net);
            self.ring.progress(&mut net, &mut self.pool);
            if !net.is_due() {
                break;
            }
        }
        drop(net);
        self.look_at_waker();
    }

    fn look_at_waker(&mut self) {
        let Some((waker, token)) = &self.waker else { return };
        let mut polled = [PollFd::new(waker.as_fd(), PollFlags::POLLIN)];
        if poll(&mut polled, PollTimeout::ZERO) == Ok(1) {
            self.ring.finish(Completion::Ready {
                token: *token,
                operation: Operation::Readable,
                result: Ok(()),
            });
            self.waker = None;
        }
    }
}

/// The net remembers what is missing.
impl Drop for SimKernel {
    fn drop(&mut self) {
        if let Ok(mut net) = self.net.try_borrow_mut() {
            net.missing_buffers = self.pool.count() - self.pool.free();
        }
    }
}

impl Kernel for SimKernel {
    type Socket = SimSocket;
    type Listener = SimListener;
    type Pipe = SimPipe;

    fn accept(&mut self, listener: &SimListener, token: Token) {
        self.push(Operation::Accept, token, Work::Accept { listener: listener.id() });
    }

    fn connect(&mut self, socket: &SimSocket, address: &SocketAddr, token: Token) {
        let work = Work::Connect { end: socket.end(), address: *address };
        self.push(Operation::Connect, token, work);
    }

    fn receive(&mut self, socket: &SimSocket, most: u32, _: Expect, token: Token) {
        let most = most.clamp(1, BUFFER_BYTES) as usize;
        let credit = 0;
        let fails = self.fails();
        let work = Work::Receive { end: socket.end(), most, credit, fails };
        self.push(Operation::Receive, token, work);
    }

    fn receive_multishot(&mut self, socket: &SimSocket, _: Expect, token: Token) {
        let credit = self.draw.pick(&[0, 1, 32 * 1024, crate::sys::kernel::RECEIVE_CREDIT_BYTES]);
        let fails = self.fails();
        let most = BUFFER_BYTES as usize;
        let work = Work::Receive { end: socket.end(), most, credit: credit as usize, fails };
        self.push(Operation::Receive, token, work);
    }

    fn send(
        &mut self,
        socket: &SimSocket,
        buffer: &Buffer,
        bytes: Range<u32>,
        notice: Notice,
        token: Token,
    ) {
        let bytes = self.pool.range(buffer, bytes).to_vec();
        let fails = self.fails();
        let work = Work::Send { end: socket.end(), bytes, notice, fails };
        self.push(Operation::Send, token, work);
    }

    fn poll(&mut self, socket: &SimSocket, operation: Operation, token: Token) {
        self.push(operation, token, Work::Poll { end: socket.end() });
    }

    fn poll_waker(&mut self, waker: &Waker, token: Token) {
        self.waker = Some((waker.clone(), token));
    }

    fn cancel(&mut self, operation: Operation, token: Token) {
        self.ring.cancel(operation, token);
    }

    fn close(&mut self, socket: SimSocket) {
        self.ring.close(socket.into_end());
    }

    fn submit(&mut self) -> io::Result<()> {
        self.ring.hand_over(&mut self.net.borrow_mut(), &mut self.pool);
        self.happen();
        Ok(())
    }

    fn hurry(&mut self) {
        self.hurried = true;
    }

    fn wait(&mut self, deadline: Option<Instant>) -> io::Result<()> {
        self.turns += 1;
        assert!(self.turns <= self.habits.turns_max, "the worker spins: {} turns", self.turns);
        let may_sleep = !std::mem::take(&mut self.hurried);
        let worked = self.draw.up_to(self.habits.turn_us);
        let now = self.net.borrow().now();
        self.net.borrow_mut().advance(now + worked);
        self.ring.hand_over(&mut self.net.borrow_mut(), &mut self.pool);
        let deadline = deadline.map(|at| self.net.borrow().micros(at));
        self.pass_time(deadline, may_sleep);
        self.left_in_turn = 1 + self.draw.below(self.habits.turn_completions);
        self.ring.begin_turn(self.habits.reorders);
        Ok(())
    }

    fn next_completion(&mut self) -> Option<Completion<SimSocket>> {
        self.left_in_turn = self.left_in_turn.checked_sub(1)?;
        Some(match self.ring.next()? {
            Completion::Accepted { token, result, rearm } => {
                let result = result.map(|end| SimSocket::new(&self.net, end));
                Completion::Accepted { token, result, rearm }
            }
            Completion::Connected { token, result } => Completion::Connected { token, result },
            Completion::Received { token, result, expect, rearm } => {
                Completion::Received { token, result, expect, rearm }
            }
            Completion::Sent { token, result } => Completion::Sent { token, result },
            Completion::Ready { token, operation, result } => {
                Completion::Ready { token, operation, result }
            }
        })
    }

    fn overflows(&self) -> u64 {
        0
    }

    fn pool(&self) -> &BufferPool {
        &self.pool
    }

    fn pool_mut(&mut self) -> &mut BufferPool {
        &mut self.pool
    }

    fn trim(&mut self) -> Trimmed {
        self.pool.trim()
    }

    fn open_socket(
        &mut self,
        address: &SocketAddr,
        _mark: Option<u32>,
    ) -> Result<SimSocket, Errno> {
        let end = self.net.borrow_mut().open(address)?;
        Ok(SimSocket::new(&self.net, end))
    }

    fn peer_address(&self, socket: &SimSocket) -> Result<SocketAddr, Errno> {
        self.net.borrow().peer_address(socket.end())
    }

    fn original_destination(
        &self,
        socket: &SimSocket,
        _peer: &SocketAddr,
        _by: Recorded,
    ) -> Result<SocketAddr, Errno> {
        self.net.borrow().meant(socket.end()).ok_or(Errno::ENOENT)
    }

    fn open_pipe(&mut self) -> Result<SimPipe, Errno> {
        let capacity = self.net.borrow_mut().open_pipe()?;
        Ok(SimPipe::new(&self.net, capacity))
    }

    fn clear_waker(&mut self, waker: &Waker) {
        waker.clear();
    }

    fn now(&self) -> Instant {
        let net = self.net.borrow();
        net.instant(net.now())
    }

    fn wall_time(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_micros(self.net.borrow().now())
    }

    fn processor_time(&self) -> Duration {
        Duration::from_micros(self.net.borrow().now())
    }

    fn seed(&self) -> u64 {
        self.draw.peek()
    }
}
