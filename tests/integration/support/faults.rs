//! A kernel that fails now and then, around the real one, with original destinations told by tests.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use egret::sys::buffers::{BUFFER_BYTES, Buffer, BufferPool};
use egret::sys::kernel::{
    Completion, Errno, Expect, Kernel, Notice, Operation, Recorded, Token, Trimmed,
};
use egret::sys::pipe::Pipe;
use egret::sys::socket::{Listener, Socket};
use egret::sys::uring::Uring;
use egret::sys::waker::Waker;

/// Where the connection from each address meant to go.
pub(crate) type Destinations = Arc<Mutex<HashMap<SocketAddr, SocketAddr>>>;

/// Which operations fail, shared with the test.
#[derive(Debug, Clone, Default)]
pub(crate) struct Faults {
    inner: Arc<Mutex<Plan>>,
}

#[derive(Debug, Default)]
struct Plan {
    /// Errors that the next accepts bring instead of their connections.
    accepts: VecDeque<Errno>,
    /// One in so many receives and sends fails without having been tried; 0: none.
    one_in: u64,
    errors: Vec<Errno>,
    drawn: u64,
    injected: u64,
    hold: Hold,
    /// Receives end with their first bytes: one that is held back, and goes on, would be overtaken
    /// by itself.
    receives_singly: bool,
    /// So many receives come in one turn.
    gathered: usize,
    /// How many of them have come.
    gathering: usize,
    /// After so many of them no wait begins.
    pauses_at: usize,
    /// No wait begins.
    paused: bool,
}

/// What a completion is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Received,
    Sent,
    Connected,
    /// A wait for readiness, or for a death.
    Ready,
}

/// How a completion comes that was held back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    AsItCame,
    /// A receive has met FIN.
    Ended,
    /// The connection is gone.
    Lost,
    /// It was cancelled.
    Cancelled,
}

/// One completion that is held back.
#[derive(Debug, Default)]
enum Hold {
    #[default]
    None,
    /// The first one of this kind after so many others.
    Wanted(Kind, u32),
    Held,
    Released(Outcome),
}

impl Faults {
    pub(crate) fn fail_accepts(&self, errors: impl IntoIterator<Item = Errno>) {
        self.inner.lock().unwrap().accepts.extend(errors);
    }

    pub(crate) fn fail_one_in(&self, one_in: u64, errors: &[Errno]) {
        let mut plan = self.inner.lock().unwrap();
        plan.one_in = one_in;
        plan.errors = errors.to_vec();
    }

    pub(crate) fn injected(&self) -> u64 {
        self.inner.lock().unwrap().injected
    }

    /// Holds back the completion of this kind that comes after `skipped` others.
    pub(crate) fn hold(&self, kind: Kind, skipped: u32) {
        self.inner.lock().unwrap().hold = Hold::Wanted(kind, skipped);
    }

    /// From now on, as on a kernel that knows no receives that stay.
    pub(crate) fn receive_singly(&self) {
        self.inner.lock().unwrap().receives_singly = true;
    }

    /// Keeps what is received until there is that much of it, and then passes it in one turn. After
    /// `pauses_at` receives the ring's next wait begins only with [`Faults::resume`]: what comes
    /// until then comes together.
    pub(crate) fn gather(&self, receives: usize, pauses_at: usize) {
        let mut plan = self.inner.lock().unwrap();
        (plan.gathered, plan.gathering, plan.pauses_at) = (receives, 0, pauses_at);
    }

    /// How much has been gathered.
    pub(crate) fn gathering(&self) -> usize {
        self.inner.lock().unwrap().gathering
    }

    /// Lets the waits begin again.
    pub(crate) fn resume(&self) {
        self.inner.lock().unwrap().paused = false;
    }

    pub(crate) fn is_holding(&self) -> bool {
        matches!(self.inner.lock().unwrap().hold, Hold::Held)
    }

    /// Lets the completion go that is held.
    pub(crate) fn release(&self, outcome: Outcome) {
        self.inner.lock().unwrap().hold = Hold::Released(outcome);
    }

    fn takes(&self, of: Kind) -> bool {
        let hold = &mut self.inner.lock().unwrap().hold;
        match hold {
            Hold::Wanted(kind, skipped) if *kind == of && *skipped > 0 => *skipped -= 1,
            Hold::Wanted(kind, _) if *kind == of => {
                *hold = Hold::Held;
                return true;
            }
            _ => {}
        }
        false
    }

    /// One more was gathered; whether these are all.
    fn gathers(&self) -> Option<bool> {
        let mut plan = self.inner.lock().unwrap();
        if plan.gathered == 0 {
            return None;
        }
        plan.gathering += 1;
        plan.paused |= plan.gathering == plan.pauses_at;
        let are_all = plan.gathering == plan.gathered;
        if are_all {
            plan.gathered = 0;
        }
        Some(are_all)
    }

    fn released(&self) -> Option<Outcome> {
        let hold = &mut self.inner.lock().unwrap().hold;
        let Hold::Released(outcome) = *hold else { return None };
        *hold = Hold::None;
        Some(outcome)
    }

    fn accept_error(&self) -> Option<Errno> {
        let mut plan = self.inner.lock().unwrap();
        let error = plan.accepts.pop_front();
        plan.injected += u64::from(error.is_some());
        error
    }

    /// Draws from a fixed sequence, so that a failing run can be repeated.
    fn draw(&self) -> Option<Errno> {
        let mut plan = self.inner.lock().unwrap();
        if plan.one_in == 0 {
            return None;
        }
        plan.drawn += 1;
        let mixed = plan.drawn.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        if !mixed.is_multiple_of(plan.one_in) {
            return None;
        }
        plan.injected += 1;
        let index = usize::try_from(plan.injected).unwrap() % plan.errors.len();
        Some(plan.errors[index])
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct FaultyKernel {
    inner: Uring,
    faults: Faults,
    destinations: Destinations,
    /// Completions of operations that were never submitted.
    made_up: VecDeque<Completion<Socket>>,
    held: Option<Completion<Socket>>,
    gathered: VecDeque<Completion<Socket>>,
    /// Nobody else's waits are held back.
    waker: Option<Token>,
}

impl FaultyKernel {
    pub(crate) fn new(inner: Uring, faults: Faults, destinations: Destinations) -> Self {
        let (made_up, gathered) = (VecDeque::new(), VecDeque::new());
        Self { inner, faults, destinations, made_up, held: None, gathered, waker: None }
    }

    /// A receive may fail without having been tried.
    fn fails_receive(&mut self, token: Token) -> bool {
        let Some(error) = self.faults.draw() else { return false };
        let (result, expect) = (Err(error), Expect::Nothing);
        self.made_up.push_back(Completion::Received { token, result, expect, rearm: true });
        true
    }

    /// Holds `completion` back, if it is the one that is wanted.
    fn pass(&mut self, completion: Completion<Socket>) -> Option<Completion<Socket>> {
        let kind = match &completion {
            Completion::Received { .. } => Kind::Received,
            Completion::Sent { .. } => Kind::Sent,
            Completion::Connected { .. } => Kind::Connected,
            Completion::Ready { token, .. } if Some(*token) != self.waker => Kind::Ready,
            _ => return Some(completion),
        };
        if kind == Kind::Received
            && let Some(are_all) = self.faults.gathers()
        {
            self.gathered.push_back(completion);
            if are_all {
                self.made_up.append(&mut self.gathered);
            }
            return None;
        }
        if !self.faults.takes(kind) {
            return Some(completion);
        }
        self.held = Some(completion);
        None
    }

    /// `completion`, as `outcome` says.
    fn change(&mut self, completion: Completion<Socket>, outcome: Outcome) -> Completion<Socket> {
        let errno = match outcome {
            Outcome::AsItCame => return completion,
            Outcome::Ended | Outcome::Lost => Errno::ECONNRESET,
            Outcome::Cancelled => Errno::ECANCELED,
        };
        match completion {
            Completion::Received { token, result, expect, rearm } => {
                if let Ok(Some(buffer)) = result {
                    self.inner.pool_mut().release(buffer);
                }
                let result = if outcome == Outcome::Ended { Ok(None) } else { Err(errno) };
                Completion::Received { token, result, expect, rearm }
            }
            Completion::Sent { token, .. } => Completion::Sent { token, result: Err(errno) },
            Completion::Connected { token, .. } => {
                Completion::Connected { token, result: Err(errno) }
            }
            Completion::Ready { token, operation, .. } => {
                Completion::Ready { token, operation, result: Err(errno) }
            }
            other => other,
        }
    }
}

impl Kernel for FaultyKernel {
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
        if !self.fails_receive(token) {
            self.inner.receive(socket, most, expect, token);
        }
    }

    fn receive_multishot(&mut self, socket: &Socket, expect: Expect, token: Token) {
        if self.faults.inner.lock().unwrap().receives_singly {
            return self.receive(socket, BUFFER_BYTES, expect, token);
        }
        if !self.fails_receive(token) {
            self.inner.receive_multishot(socket, expect, token);
        }
    }

    fn send(
        &mut self,
        socket: &Socket,
        buffer: &Buffer,
        bytes: Range<u32>,
        notice: Notice,
        token: Token,
    ) {
        match self.faults.draw() {
            // A send needs no buffer of the pool.
            Some(error) if error != Errno::ENOBUFS => {
                self.made_up.push_back(Completion::Sent { token, result: Err(error) });
            }
            _ => self.inner.send(socket, buffer, bytes, notice, token),
        }
    }

    fn poll(&mut self, socket: &Socket, operation: Operation, token: Token) {
        self.inner.poll(socket, operation, token);
    }

    fn poll_waker(&mut self, waker: &Waker, token: Token) {
        self.waker = Some(token);
        self.inner.poll_waker(waker, token);
    }

    fn cancel(&mut self, operation: Operation, token: Token) {
        self.inner.cancel(operation, token);
    }

    fn close(&mut self, socket: Socket) {
        self.inner.close(socket);
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

    fn submit(&mut self) -> io::Result<()> {
        self.inner.submit()
    }

    fn hurry(&mut self) {
        self.inner.hurry();
    }

    fn wait(&mut self, deadline: Option<Instant>) -> io::Result<()> {
        while self.faults.inner.lock().unwrap().paused {
            std::thread::sleep(Duration::from_millis(1));
        }
        if let Some(outcome) = self.faults.released()
            && let Some(completion) = self.held.take()
        {
            let changed = self.change(completion, outcome);
            self.made_up.push_back(changed);
        }
        let deadline = if self.made_up.is_empty() { deadline } else { Some(Instant::now()) };
        self.inner.wait(deadline)
    }

    fn next_completion(&mut self) -> Option<Completion<Socket>> {
        if let Some(completion) = self.made_up.pop_front() {
            return Some(completion);
        }
        let completion = loop {
            let Some(next) = self.inner.next_completion() else {
                return self.made_up.pop_front();
            };
            if let Some(completion) = self.pass(next) {
                break completion;
            }
        };
        let Completion::Accepted { token, result: Ok(socket), rearm } = completion else {
            return Some(completion);
        };
        match self.faults.accept_error() {
            Some(error) => {
                self.inner.close(socket);
                Some(Completion::Accepted { token, result: Err(error), rearm })
            }
            None => Some(Completion::Accepted { token, result: Ok(socket), rearm }),
        }
    }

    fn overflows(&self) -> u64 {
        self.inner.overflows()
    }

    fn open_socket(&mut self, address: &SocketAddr, mark: Option<u32>) -> Result<Socket, Errno> {
        self.inner.open_socket(address, mark)
    }

    fn peer_address(&self, socket: &Socket) -> Result<SocketAddr, Errno> {
        self.inner.peer_address(socket)
    }

    fn original_destination(
        &self,
        _: &Socket,
        peer: &SocketAddr,
        _: Recorded,
    ) -> Result<SocketAddr, Errno> {
        self.destinations.lock().unwrap().get(peer).copied().ok_or(Errno::ENOENT)
    }

    fn open_pipe(&mut self) -> Result<Pipe, Errno> {
        self.inner.open_pipe()
    }

    fn clear_waker(&mut self, waker: &Waker) {
        self.inner.clear_waker(waker);
    }

    fn now(&self) -> Instant {
        self.inner.now()
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
