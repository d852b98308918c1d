//! The model of sockets and of the ring against the kernel: the same scripts on both, and what each
//! end saw.
//!
//! The peers are on loopback, where what one end sends is there when the call returns. Amounts are
//! small: what a queue holds is no promise of the kernel. Times are not compared.

use std::cell::RefCell;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::rc::Rc;
use std::time::Duration;

use egret::sys::kernel::{
    Completion, Errno, Expect, Kernel, ListenSocket, Notice, Operation, StreamSocket, Token,
};
use egret::sys::sim::{
    Draw, EndId, Habits, Link, Micros, Net, Outside, SimKernel, SimListener, SimSocket,
};
use egret::sys::socket::{Keepalive, Listener, Reach};
use egret::sys::uring::Uring;
use nix::sys::socket::{setsockopt, sockopt};

const SCRIPTS: u64 = 1_000;
const BUFFERS: u16 = 64;
const KEEPALIVE: Keepalive = Keepalive { idle_seconds: 60, interval_seconds: 60, probes: 3 };

/// Turns in which nothing completes, after which nothing more is under way.
const QUIET_TURNS: u32 = 2;

/// One thing that an end does.
#[derive(Debug, Clone, Copy)]
enum Act {
    Receive,
    Send(usize),
    Poll(Operation),
    Cancel(Operation),
    ShutdownWrite,
    PeerSends(usize),
    PeerReads,
    PeerFinishes,
    PeerResets,
    PeerCloses,
}

fn script(draw: &mut Draw) -> Vec<Act> {
    let act = |draw: &mut Draw| match draw.below(20) {
        0..=4 => Act::Receive,
        5 | 6 => Act::Send(1 + draw.below(300)),
        7 => Act::Poll(Operation::Readable),
        8 => Act::Poll(Operation::Writable),
        9 => Act::Poll(Operation::Dead),
        10 => Act::Cancel(draw.pick(&[
            Operation::Receive,
            Operation::Readable,
            Operation::Writable,
            Operation::Dead,
        ])),
        11 => Act::ShutdownWrite,
        12..=14 => Act::PeerSends(1 + draw.below(300)),
        15 | 16 => Act::PeerReads,
        17 => Act::PeerFinishes,
        18 => Act::PeerResets,
        _ => Act::PeerCloses,
    };
    (0..3 + draw.below(12)).map(|_| act(draw)).collect()
}

/// The other end, in the test's hands.
trait Peer {
    fn send(&mut self, bytes: &[u8]);
    /// What has come, and how it ended, if it did.
    fn read(&mut self) -> (usize, &'static str);
    fn finish(&mut self);
    fn reset(&mut self);
    fn close(&mut self);
}

/// Runs a script, and tells what was seen.
fn run<K: Kernel>(
    kernel: &mut K,
    socket: K::Socket,
    peer: &mut impl Peer,
    script: &[Act],
) -> Vec<String> {
    let mut seen = Vec::new();
    let mut in_flight: Vec<Operation> = Vec::new();
    let mut is_peer_open = true;
    for act in script {
        seen.push(format!("{act:?}"));
        match *act {
            // Two that wait for the same bytes race, and the worker never has two.
            Act::Receive if !waits_for_bytes(&in_flight) => {
                in_flight.push(Operation::Receive);
                kernel.receive(&socket, 32 * 1024, Expect::Bytes, token(Operation::Receive));
            }
            Act::Send(count) => {
                let buffer = kernel.pool_mut().fill(&vec![7; count]).expect("a buffer is free");
                let range = 0..u32::try_from(count).unwrap();
                let token = token(Operation::Send);
                kernel.send(&socket, &buffer, range, Notice::Prompt, token);
                settle(kernel, &mut in_flight, &mut seen);
                kernel.pool_mut().release(buffer);
            }
            Act::Poll(Operation::Readable) if waits_for_bytes(&in_flight) => {}
            Act::Poll(operation) if !in_flight.contains(&operation) => {
                in_flight.push(operation);
                kernel.poll(&socket, operation, token(operation));
            }
            Act::Cancel(operation) if in_flight.contains(&operation) => {
                kernel.cancel(operation, token(operation));
            }
            Act::ShutdownWrite => seen.push(format!("{:?}", socket.shutdown_write())),
            Act::PeerSends(count) if is_peer_open => peer.send(&vec![9; count]),
            Act::PeerReads if is_peer_open => seen.push(format!("{:?}", peer.read())),
            Act::PeerFinishes if is_peer_open => peer.finish(),
            Act::PeerResets if is_peer_open => {
                peer.reset();
                is_peer_open = false;
            }
            Act::PeerCloses if is_peer_open => {
                peer.close();
                is_peer_open = false;
            }
            _ => {}
        }
        settle(kernel, &mut in_flight, &mut seen);
        seen.push(format!("connected: {}", socket.is_connected()));
    }
    for operation in in_flight.clone() {
        kernel.cancel(operation, token(operation));
    }
    settle(kernel, &mut in_flight, &mut seen);
    assert_eq!(in_flight, [], "a cancelled operation completes");
    kernel.close(socket);
    kernel.submit().unwrap();
    settle(kernel, &mut in_flight, &mut seen);
    if is_peer_open {
        seen.push(format!("at the end: {:?}", peer.read()));
        peer.close();
    }
    seen
}

fn waits_for_bytes(in_flight: &[Operation]) -> bool {
    in_flight.iter().any(|one| matches!(one, Operation::Receive | Operation::Readable))
}

fn token(operation: Operation) -> Token {
    Token(operation as u64)
}

/// Lets everything happen that can.
fn settle<K: Kernel>(kernel: &mut K, in_flight: &mut Vec<Operation>, seen: &mut Vec<String>) {
    let mut quiet = 0;
    let mut told = Vec::new();
    while quiet < QUIET_TURNS {
        kernel.wait(Some(kernel.now() + Duration::from_micros(300))).unwrap();
        quiet += 1;
        while let Some(completion) = kernel.next_completion() {
            quiet = 0;
            let (operation, text) = tell(kernel, completion);
            in_flight.retain(|one| *one != operation);
            told.push(text);
        }
    }
    // A receive that ends with it may take the error for which the wait is.
    if told.iter().any(|text| text.starts_with("receive")) {
        let dead = told.iter_mut().filter(|text| text.starts_with("Dead: "));
        dead.for_each(|text| *text = "Dead: over".into());
    }
    // Completions of different operations come in any order.
    told.sort();
    seen.append(&mut told);
}

fn tell<K: Kernel>(kernel: &mut K, completion: Completion<K::Socket>) -> (Operation, String) {
    match completion {
        Completion::Received { result, .. } => {
            let text = match result {
                Ok(Some(buffer)) => {
                    let length = buffer.length();
                    kernel.pool_mut().release(buffer);
                    format!("received {length}")
                }
                Ok(None) => "received the end".into(),
                Err(error) => format!("receive: {error}"),
            };
            (Operation::Receive, text)
        }
        Completion::Sent { result, .. } => (Operation::Send, format!("sent {result:?}")),
        Completion::Ready { operation, result, .. } => {
            (operation, format!("{operation:?}: {result:?}"))
        }
        Completion::Accepted { .. } | Completion::Connected { .. } => unreachable!("not asked for"),
    }
}

// The kernel.

struct RealPeer(Option<TcpStream>);

impl Peer for RealPeer {
    fn send(&mut self, bytes: &[u8]) {
        // It may have been reset.
        let _ = self.0.as_mut().unwrap().write(bytes);
    }

    fn read(&mut self) -> (usize, &'static str) {
        let (mut total, mut chunk) = (0, [0; 4096]);
        loop {
            match self.0.as_mut().unwrap().read(&mut chunk) {
                Ok(0) => return (total, "end"),
                Ok(count) => total += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return (total, "more"),
                Err(_) => return (total, "error"),
            }
        }
    }

    fn finish(&mut self) {
        let _ = self.0.as_mut().unwrap().shutdown(Shutdown::Write);
    }

    fn reset(&mut self) {
        let stream = self.0.take().unwrap();
        let linger = libc::linger { l_onoff: 1, l_linger: 0 };
        setsockopt(&stream, sockopt::Linger, &linger).unwrap();
    }

    fn close(&mut self) {
        self.0 = None;
    }
}

fn on_the_kernel(kernel: &mut Uring, script: &[Act]) -> Vec<String> {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listener = Listener::bind(&any, Reach::Own, KEEPALIVE).unwrap();
    let peer = TcpStream::connect(listener.local_address().unwrap()).unwrap();
    peer.set_nonblocking(true).unwrap();
    peer.set_nodelay(true).unwrap();
    let socket = listener.accept_now().unwrap();
    run(kernel, socket, &mut RealPeer(Some(peer)), script)
}

// The model.

#[derive(Debug)]
struct Nobody;

impl Outside for Nobody {
    fn step(&mut self, _: &mut Net) {}

    fn next(&self) -> Option<Micros> {
        None
    }
}

struct ModelPeer {
    net: Rc<RefCell<Net>>,
    end: EndId,
}

impl Peer for ModelPeer {
    fn send(&mut self, bytes: &[u8]) {
        let _ = self.net.borrow_mut().write(self.end, bytes);
    }

    fn read(&mut self) -> (usize, &'static str) {
        let mut total = 0;
        loop {
            match self.net.borrow_mut().read(self.end, 4096) {
                Ok(bytes) if bytes.is_empty() => return (total, "end"),
                Ok(bytes) => total += bytes.len(),
                Err(Errno::EAGAIN) => return (total, "more"),
                Err(_) => return (total, "error"),
            }
        }
    }

    fn finish(&mut self) {
        let _ = self.net.borrow_mut().finish(self.end);
    }

    fn reset(&mut self) {
        self.net.borrow_mut().reset(self.end);
    }

    fn close(&mut self) {
        self.net.borrow_mut().close(self.end);
    }
}

fn on_the_model(seed: u64, script: &[Act]) -> Vec<String> {
    let mut draw = Draw::new(seed);
    let address = IpAddr::from(Ipv4Addr::LOCALHOST);
    let net = Rc::new(RefCell::new(Net::new(draw.branch(), address)));
    net.borrow_mut().deliver_whole();
    let habits = Habits {
        buffers: BUFFERS,
        fails_one_in: 0,
        reorders: false,
        turn_completions: 64,
        turn_us: 0,
        turns_max: 10_000,
    };
    let listener = SimListener::new(&net);
    let link = Link { delay_us: 0, jitter_us: 0, send_bytes: 1 << 20, receive_bytes: 1 << 20 };
    let from = SocketAddr::from((Ipv4Addr::LOCALHOST, 40_000));
    let end = net.borrow_mut().connect(listener.id(), from, None, link).unwrap();
    let socket: SimSocket = listener.accept_now().unwrap();
    let mut kernel = SimKernel::new(Rc::clone(&net), Box::new(Nobody), habits, draw).unwrap();
    run(&mut kernel, socket, &mut ModelPeer { net, end }, script)
}

#[test]
fn the_model_sees_what_the_kernel_sees() {
    let mut kernel = Uring::new(BUFFERS).unwrap();
    let only = crate::number(crate::SEED);
    for seed in only.map_or(0..SCRIPTS, |seed| seed..seed + 1) {
        let script = script(&mut Draw::new(seed));
        let (real, model) = (on_the_kernel(&mut kernel, &script), on_the_model(seed, &script));
        let same = real.iter().zip(&model).take_while(|(one, other)| one == other).count();
        assert_eq!(
            (real.get(same), model.get(same)),
            (None, None),
            "script {seed}: the kernel, the model; before:\n{}",
            real[..same].join("\n")
        );
    }
}
