//! The kernel that plays a script: connections one after the other, exchanges one after the other
//! on each, then the client's end and the server's, then the drain.

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant, SystemTime};

use egret::internals::drain::Drain;
use egret::sys::buffers::{Buffer, BufferPool};
use egret::sys::kernel::{
    Completion, Errno, Expect, Kernel, Notice, Operation, Recorded, StreamSocket, Token, Trimmed,
};
use egret::sys::pipe::Pipe;
use egret::sys::socket::{Listener, Socket};
use egret::sys::uring::Uring;
use egret::sys::waker::Waker;
use nix::sys::socket::SockaddrStorage;

use super::Downstreams;

const BUFFERS: u16 = 64;

/// A turn of a busy worker.
const TURN: Duration = Duration::from_micros(50);

/// Longer than a draining worker goes on accepting.
const DRAINING_TURN: Duration = Duration::from_secs(1);

/// What happens.
#[derive(Debug)]
pub(super) struct Script {
    pub(super) connections: usize,
    /// On each connection.
    pub(super) exchanges: usize,
    /// Requests and answers, in turn over all connections.
    pub(super) rounds: Vec<(Vec<u8>, Vec<u8>)>,
    /// Begun when all is over.
    pub(super) drain: Drain,
    pub(super) downstreams: Downstreams,
    pub(super) server: TcpListener,
    pub(super) destination: SocketAddr,
}

/// Where the present connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// There is none.
    None,
    /// The next request is due, when somebody receives.
    Asks,
    /// The answer is due.
    Answers,
    /// The answer is on its way.
    Answered,
    /// The client has said all.
    Ends,
    /// The server has, too.
    Ended,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Scripted {
    script: Script,
    /// Makes the sockets.
    calls: Uring,
    pool: BufferPool,
    accept: Option<Token>,
    /// Receives in flight: of the downstream, of the upstream.
    receives: [Option<Token>; 2],
    /// The downstream's descriptor.
    downstream: i32,
    place: Place,
    /// Exchanges left on this connection.
    left: usize,
    round: usize,
    completions: VecDeque<Completion<Socket>>,
    /// The other ends of the present connection.
    peers: Vec<TcpStream>,
    now: Instant,
}

impl Scripted {
    pub(super) fn new(script: Script) -> Self {
        Self {
            script,
            calls: Uring::new(1).expect("io_uring is allowed here"),
            pool: BufferPool::new(BUFFERS).expect("address space"),
            accept: None,
            receives: [None; 2],
            downstream: -1,
            place: Place::None,
            left: 0,
            round: 0,
            completions: VecDeque::new(),
            peers: Vec::new(),
            now: Instant::now(),
        }
    }

    /// What is due next, if what it needs is there.
    fn play(&mut self) {
        match self.place {
            Place::None => self.connect(),
            Place::Asks => {
                let Some(token) = self.receives[0].take() else { return };
                let (request, _) = &self.script.rounds[self.round % self.script.rounds.len()];
                let buffer = self.pool.fill(request);
                self.arrive(token, buffer);
                self.place = Place::Answers;
            }
            // The request must have passed: a send puts it forward.
            Place::Answers | Place::Answered => {}
            Place::Ends => {
                let Some(token) = self.receives[0].take() else { return };
                self.arrive(token, None);
                self.place = Place::Ended;
            }
            Place::Ended => {
                let Some(token) = self.receives[1].take() else { return };
                self.arrive(token, None);
            }
        }
    }

    fn connect(&mut self) {
        let Some(token) = self.accept else { return };
        if self.script.connections == 0 {
            self.script.drain.begin(Duration::from_secs(3600));
            self.now += DRAINING_TURN;
            return;
        }
        self.script.connections -= 1;
        let (client, socket) = self.script.downstreams.connect();
        self.downstream = socket.as_raw_fd();
        self.peers.push(client);
        self.left = self.script.exchanges;
        self.place = Place::Asks;
        let accepted = Completion::Accepted { token, result: Ok(socket), rearm: false };
        self.completions.push_back(accepted);
    }

    fn arrive(&mut self, token: Token, buffer: Option<Buffer>) {
        let (result, expect) = (Ok(buffer), Expect::Nothing);
        self.completions.push_back(Completion::Received { token, result, expect, rearm: true });
    }

    /// The answer comes as soon as the request has gone and the upstream is received from.
    fn answer(&mut self) {
        if let (Place::Answers, Some(token)) = (self.place, self.receives[1].take()) {
            let (_, answer) = &self.script.rounds[self.round % self.script.rounds.len()];
            let buffer = self.pool.fill(answer);
            self.arrive(token, buffer);
            self.place = Place::Answered;
        }
    }
}

impl Kernel for Scripted {
    type Socket = Socket;
    type Listener = Listener;
    type Pipe = Pipe;

    fn accept(&mut self, _: &Listener, token: Token) {
        self.accept = Some(token);
    }

    fn connect(&mut self, socket: &Socket, address: &SocketAddr, token: Token) {
        // In progress, and complete at once over loopback.
        let _ = nix::sys::socket::connect(socket.as_raw_fd(), &SockaddrStorage::from(*address));
        // The bytes that end the handshake are never sent, and the accept would wait 200 ms for it.
        socket.quickack_on();
        self.peers.push(self.script.server.accept().expect("it is connected to").0);
        self.completions.push_back(Completion::Connected { token, result: Ok(()) });
    }

    fn receive(&mut self, socket: &Socket, _: u32, _: Expect, token: Token) {
        let side = usize::from(socket.as_raw_fd() != self.downstream);
        self.receives[side] = Some(token);
    }

    fn receive_multishot(&mut self, socket: &Socket, expect: Expect, token: Token) {
        // Ends with the first bytes, as on a kernel that knows no better.
        self.receive(socket, u32::MAX, expect, token);
    }

    fn send(&mut self, socket: &Socket, _: &Buffer, bytes: Range<u32>, _: Notice, token: Token) {
        let result = Ok(bytes.len());
        self.completions.push_back(Completion::Sent { token, result });
        if socket.as_raw_fd() != self.downstream {
            return self.answer();
        }
        self.round += 1;
        self.left -= 1;
        self.place = if self.left == 0 { Place::Ends } else { Place::Asks };
    }

    fn poll(&mut self, _: &Socket, _: Operation, _: Token) {}

    fn poll_waker(&mut self, _: &Waker, _: Token) {}

    fn cancel(&mut self, operation: Operation, token: Token) {
        let error = Errno::ECANCELED;
        let completion = match operation {
            Operation::Accept => Completion::Accepted { token, result: Err(error), rearm: true },
            _ => Completion::Ready { token, operation, result: Err(error) },
        };
        self.completions.push_back(completion);
    }

    fn close(&mut self, socket: Socket) {
        if socket.as_raw_fd() != self.downstream {
            // The downstream's was closed before.
            self.peers.clear();
            self.place = Place::None;
        }
    }

    fn pool(&self) -> &BufferPool {
        &self.pool
    }

    fn pool_mut(&mut self) -> &mut BufferPool {
        &mut self.pool
    }

    fn trim(&mut self) -> Trimmed {
        Trimmed::Fully
    }

    fn submit(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn hurry(&mut self) {}

    fn wait(&mut self, _: Option<Instant>) -> io::Result<()> {
        self.now += TURN;
        if self.completions.is_empty() {
            self.play();
        }
        Ok(())
    }

    fn next_completion(&mut self) -> Option<Completion<Socket>> {
        self.completions.pop_front()
    }

    fn overflows(&self) -> u64 {
        0
    }

    fn open_socket(&mut self, address: &SocketAddr, mark: Option<u32>) -> Result<Socket, Errno> {
        self.calls.open_socket(address, mark)
    }

    /// Every connection comes from the same pod.
    fn peer_address(&self, _: &Socket) -> Result<SocketAddr, Errno> {
        Ok(SocketAddr::from(([10, 244, 1, 7], 40_000)))
    }

    /// Every connection meant to go to the server.
    fn original_destination(
        &self,
        _: &Socket,
        _: &SocketAddr,
        _: Recorded,
    ) -> Result<SocketAddr, Errno> {
        Ok(self.script.destination)
    }

    fn open_pipe(&mut self) -> Result<Pipe, Errno> {
        Err(Errno::EMFILE)
    }

    fn clear_waker(&mut self, _: &Waker) {}

    fn now(&self) -> Instant {
        self.now
    }

    fn wall_time(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH
    }

    fn processor_time(&self) -> Duration {
        Duration::ZERO
    }

    fn seed(&self) -> u64 {
        0
    }
}
