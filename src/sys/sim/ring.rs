//! The ring: what is queued, what is in flight, what has completed.

use std::collections::VecDeque;
use std::net::SocketAddr;

use super::draw::Draw;
use super::net::{EndId, ListenerId, Net};
use crate::sys::buffers::BufferPool;
use crate::sys::kernel::{Completion, Errno, Expect, Notice, Operation, Token};

/// What the worker has queued.
#[derive(Debug)]
enum Submission {
    Start(Order),
    Cancel(Operation, Token),
    Close(EndId),
}

/// One operation.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) operation: Operation,
    pub(super) token: Token,
    pub(super) work: Work,
}

#[derive(Debug)]
pub(super) enum Work {
    Accept {
        listener: ListenerId,
    },
    Connect {
        end: EndId,
        address: SocketAddr,
    },
    /// `credit` bytes may come beyond the first ones.
    Receive {
        end: EndId,
        most: usize,
        credit: usize,
        fails: Option<Errno>,
    },
    Send {
        end: EndId,
        bytes: Vec<u8>,
        notice: Notice,
        fails: Option<Errno>,
    },
    Poll {
        end: EndId,
    },
}

impl Work {
    fn end(&self) -> Option<EndId> {
        match self {
            Self::Connect { end, .. }
            | Self::Receive { end, .. }
            | Self::Send { end, .. }
            | Self::Poll { end } => Some(*end),
            Self::Accept { .. } => None,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Ring {
    draw: Draw,
    queued: Vec<Submission>,
    armed: Vec<Order>,
    /// Completed, and not handed out, with the socket that each is about.
    done: VecDeque<(Option<EndId>, Completion<EndId>)>,
    /// Sends that succeed without ending a wait.
    skipped: VecDeque<(Option<EndId>, Completion<EndId>)>,
}

/// Whether an operation stays in flight.
enum Progress {
    Waits,
    Over,
}

impl Ring {
    pub(super) fn new(draw: Draw) -> Self {
        Self {
            draw,
            queued: Vec::new(),
            armed: Vec::new(),
            done: VecDeque::new(),
            skipped: VecDeque::new(),
        }
    }

    /// Queues an operation; its token must be unique among those of its kind in flight.
    pub(super) fn start(&mut self, order: Order) {
        let same = |other: &&Order| {
            other.token == order.token
                && other.operation == order.operation
                && other.work.end().is_some()
        };
        let twice = self.in_flight().find(same).filter(|_| order.work.end().is_some());
        assert!(twice.is_none(), "{:?} is in flight twice: {order:?}", order.operation);
        self.queued.push(Submission::Start(order));
    }

    pub(super) fn cancel(&mut self, operation: Operation, token: Token) {
        self.queued.push(Submission::Cancel(operation, token));
    }

    /// Queues the close of a descriptor; nothing of it may be in flight.
    pub(super) fn close(&mut self, end: EndId) {
        let order = self.in_flight().find(|one| one.work.end() == Some(end));
        assert!(order.is_none(), "closed with an operation in flight: {order:?}");
        let untold = self.done.iter().chain(&self.skipped).find(|(of, _)| *of == Some(end));
        assert!(untold.is_none(), "closed before a completion was read: {untold:?}");
        self.queued.push(Submission::Close(end));
    }

    fn in_flight(&self) -> impl Iterator<Item = &Order> {
        let queued = self.queued.iter().filter_map(|submission| match submission {
            Submission::Start(order) => Some(order),
            Submission::Cancel(..) | Submission::Close(_) => None,
        });
        queued.chain(&self.armed)
    }

    pub(super) fn finish(&mut self, completion: Completion<EndId>) {
        self.done.push_back((None, completion));
    }

    /// No completion waits to be handed out.
    pub(super) fn is_quiet(&self) -> bool {
        self.done.is_empty()
    }

    /// The kernel takes what is queued: what can be done at once is.
    pub(super) fn hand_over(&mut self, net: &mut Net, pool: &mut BufferPool) {
        for submission in std::mem::take(&mut self.queued) {
            match submission {
                Submission::Start(order) => {
                    if let Work::Connect { end, address } = order.work {
                        net.begin_connect(end, address);
                    }
                    self.armed.push(order);
                }
                Submission::Cancel(operation, token) => {
                    self.end_early(operation, token, net, pool);
                }
                Submission::Close(end) => net.close(end),
            }
            if self.draw.one_in(2) {
                self.progress(net, pool);
            }
        }
        self.progress(net, pool);
    }

    /// A cancelled operation may have completed before.
    fn end_early(
        &mut self,
        operation: Operation,
        token: Token,
        net: &mut Net,
        pool: &mut BufferPool,
    ) {
        if self.draw.one_in(2) {
            self.progress(net, pool);
        }
        let is_it = |order: &Order| order.operation == operation && order.token == token;
        let Some(at) = self.armed.iter().position(is_it) else { return };
        let order = self.armed.remove(at);
        let completion = ended(&order, Errno::ECANCELED);
        self.done.push_back((order.work.end(), completion));
    }

    /// Lets every operation go as far as it can.
    pub(super) fn progress(&mut self, net: &mut Net, pool: &mut BufferPool) {
        // Whose turn is first shows: a receive takes the error for which another waits. The kernel
        // serves the latest first (observed on Linux 6.18), which is no promise.
        if !net.is_whole() && self.armed.len() > 1 {
            let (one, other) =
                (self.draw.below(self.armed.len()), self.draw.below(self.armed.len()));
            self.armed.swap(one, other);
        }
        for at in (0..self.armed.len()).rev() {
            let (order, mut out) = (&mut self.armed[at], Vec::new());
            let end = order.work.end();
            let progress = attempt(order, net, pool, &mut out);
            let skips = matches!(order.work, Work::Send { notice: Notice::Skip, .. })
                && matches!(out[..], [Completion::Sent { result: Ok(_), .. }]);
            let queue = if skips { &mut self.skipped } else { &mut self.done };
            queue.extend(out.into_iter().map(|one| (end, one)));
            if let Progress::Over = progress {
                self.armed.remove(at);
            }
        }
    }

    /// What is handed out from now on: in any order, but each operation's own.
    pub(super) fn begin_turn(&mut self, reorders: bool) {
        if !reorders {
            self.done.extend(self.skipped.drain(..));
            return;
        }
        // A CQE-skip send is reported with what comes next, before or behind it.
        while let Some(skipped) = self.skipped.pop_front() {
            let at = self.draw.below(self.done.len() + 1);
            self.done.insert(at, skipped);
        }
        for _ in 0..self.done.len() {
            let (one, other) = (self.draw.below(self.done.len()), self.draw.below(self.done.len()));
            let (first, second) = (one.min(other), one.max(other));
            let of = |at: usize| key(&self.done[at].1);
            let is_free = (first..second).all(|at| of(at) != of(second))
                && (first + 1..=second).all(|at| of(at) != of(first));
            if is_free {
                self.done.swap(first, second);
            }
        }
    }

    /// The next completion of this turn.
    pub(super) fn next(&mut self) -> Option<Completion<EndId>> {
        self.done.pop_front().map(|(_, completion)| completion)
    }
}

fn key(completion: &Completion<EndId>) -> (Operation, Token) {
    match completion {
        Completion::Accepted { token, .. } => (Operation::Accept, *token),
        Completion::Connected { token, .. } => (Operation::Connect, *token),
        Completion::Received { token, .. } => (Operation::Receive, *token),
        Completion::Sent { token, .. } => (Operation::Send, *token),
        Completion::Ready { token, operation, .. } => (*operation, *token),
    }
}

/// How `order` completes without having been done.
fn ended(order: &Order, errno: Errno) -> Completion<EndId> {
    let token = order.token;
    match order.operation {
        Operation::Accept => Completion::Accepted { token, result: Err(errno), rearm: true },
        Operation::Connect => Completion::Connected { token, result: Err(errno) },
        Operation::Receive => {
            let expect = Expect::Nothing;
            Completion::Received { token, result: Err(errno), expect, rearm: true }
        }
        Operation::Send => Completion::Sent { token, result: Err(errno) },
        operation @ (Operation::Readable | Operation::Writable | Operation::Dead) => {
            Completion::Ready { token, operation, result: Err(errno) }
        }
    }
}

fn attempt(
    order: &mut Order,
    net: &mut Net,
    pool: &mut BufferPool,
    out: &mut Vec<Completion<EndId>>,
) -> Progress {
    let (token, operation) = (order.token, order.operation);
    match &mut order.work {
        Work::Accept { listener } => loop {
            match net.accept(*listener) {
                None => return Progress::Waits,
                Some(Ok(end)) => {
                    out.push(Completion::Accepted { token, result: Ok(end), rearm: false });
                }
                Some(Err(error)) => {
                    out.push(Completion::Accepted { token, result: Err(error), rearm: true });
                    return Progress::Over;
                }
            }
        },
        Work::Connect { end, .. } => match net.connected(*end) {
            None => Progress::Waits,
            Some(result) => {
                out.push(Completion::Connected { token, result });
                Progress::Over
            }
        },
        Work::Receive { end, most, credit, fails } => {
            if let Some(error) = fails.take() {
                out.push(ended(order, error));
                return Progress::Over;
            }
            receive(token, *end, *most, credit, net, pool, out)
        }
        Work::Send { end, bytes, fails, .. } => {
            let result = match fails.take() {
                Some(error) => Err(error),
                None => {
                    let count = net.part(bytes.len());
                    net.write(*end, &bytes[..count])
                }
            };
            out.push(Completion::Sent { token, result });
            Progress::Over
        }
        Work::Poll { end } => {
            let Some(result) = poll(operation, *end, net) else { return Progress::Waits };
            out.push(Completion::Ready { token, operation, result });
            Progress::Over
        }
    }
}

fn receive(
    token: Token,
    end: EndId,
    most: usize,
    credit: &mut usize,
    net: &mut Net,
    pool: &mut BufferPool,
    out: &mut Vec<Completion<EndId>>,
) -> Progress {
    loop {
        if !net.is_readable(end) {
            return Progress::Waits;
        }
        if net.has_received(end) && pool.free() == 0 {
            let (result, expect) = (Err(Errno::ENOBUFS), Expect::Bytes);
            out.push(Completion::Received { token, result, expect, rearm: true });
            return Progress::Over;
        }
        let most = net.part(most);
        let result = net.read(end, most);
        let expect = if net.has_received(end) { Expect::Bytes } else { Expect::Nothing };
        let bytes = match result {
            Ok(bytes) if !bytes.is_empty() => bytes,
            ended => {
                let result = ended.map(|_| None);
                out.push(Completion::Received { token, result, expect, rearm: true });
                return Progress::Over;
            }
        };
        let rearm = *credit <= bytes.len();
        *credit = credit.saturating_sub(bytes.len());
        let result = Ok(Some(pool.fill(&bytes).expect("one is free")));
        out.push(Completion::Received { token, result, expect, rearm });
        if rearm {
            return Progress::Over;
        }
    }
}

/// A ring adds POLLRDHUP to every wait, so a FIN ends each of them but those for room to write,
/// which stand in an epoll instance then (see `sys/writable.rs`).
fn poll(operation: Operation, end: EndId, net: &Net) -> Option<Result<(), Errno>> {
    let is_ready = match operation {
        Operation::Readable => net.is_readable(end),
        Operation::Writable => net.is_writable(end),
        _ => net.has_error(end),
    };
    match operation {
        _ if is_ready => Some(Ok(())),
        Operation::Dead if net.has_hung_up(end) => Some(Err(Errno::EAGAIN)),
        _ => None,
    }
}
