//! Peers whose behaviour is known: paced, slow, stalling, resetting, corrupting.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Hand every connection to `handle`, one after the other.
fn serve(handle: impl FnMut(TcpStream, u64) + Send + 'static) -> SocketAddr {
    serve_on(TcpListener::bind("127.0.0.1:0").unwrap(), handle)
}

fn serve_on(
    listener: TcpListener,
    mut handle: impl FnMut(TcpStream, u64) + Send + 'static,
) -> SocketAddr {
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for (number, stream) in (0..).zip(listener.incoming().flatten()) {
            handle(stream, number);
        }
    });
    address
}

/// Echo until the client closes, and do something before each answer.
fn echo(mut stream: TcpStream, mut before_answer: impl FnMut()) {
    stream.set_nodelay(true).unwrap();
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        before_answer();
        if stream.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
}

/// Echo, but once, some time after the first request, answer nothing for a while.
pub(crate) fn stalling_echo(stall: Duration, after: Duration) -> SocketAddr {
    serve(move |stream, _| {
        let begun = Instant::now();
        let mut stalled = false;
        echo(stream, || {
            if !stalled && begun.elapsed() >= after {
                stalled = true;
                thread::sleep(stall);
            }
        });
    })
}

pub(crate) fn slow_echo(service: Duration) -> SocketAddr {
    serve(move |stream, _| echo(stream, || thread::sleep(service)))
}

/// A blackhole: FIN for the first connection, RST for the second, and so on.
pub(crate) fn every_other_reset() -> SocketAddr {
    serve(|stream, number| {
        if number % 2 == 1 {
            let socket = socket2::SockRef::from(&stream);
            socket.set_linger(Some(Duration::ZERO)).unwrap();
        }
        drop(stream);
    })
}

/// HTTP answers at so many a second over all connections, however many are asked for.
pub(crate) fn paced_http(per_second: f64) -> SocketAddr {
    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let pace = Pace::new(per_second);
    serve(move |mut stream, _| {
        let pace = pace.clone();
        pace.begin();
        thread::spawn(move || {
            stream.set_nodelay(true).unwrap();
            let mut buffer = [0; 4096];
            // A client that waits for each answer has one request in a segment.
            while let Ok(1..) = stream.read(&mut buffer) {
                pace.wait(1.0);
                if stream.write_all(ANSWER).is_err() {
                    return;
                }
            }
        });
    })
}

/// Relay so many bytes a second from the clients, over all connections.
pub(crate) fn paced_relay(target: SocketAddr, bytes_per_second: f64) -> SocketAddr {
    let pace = Pace::new(bytes_per_second);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    // On loopback the kernel has megabytes of buffers, of which a client counts what it puts there.
    // A client's are sized by the segments that this end takes.
    let socket = socket2::SockRef::from(&listener);
    socket.set_tcp_mss(1448).unwrap();
    socket.set_recv_buffer_size(128 << 10).unwrap();
    serve_on(listener, move |downstream, _| {
        let upstream = TcpStream::connect(target).unwrap();
        pace.begin();
        let (back, forth) = (upstream.try_clone().unwrap(), downstream.try_clone().unwrap());
        let pace = pace.clone();
        thread::spawn(move || relay(downstream, upstream, |bytes| pace.wait(bytes.len() as f64)));
        thread::spawn(move || relay(back, forth, |_| {}));
    })
}

/// Units at a constant rate, as long as there are clients that want more.
#[derive(Clone)]
struct Pace {
    per_second: f64,
    next: Arc<Mutex<Instant>>,
}

impl Pace {
    fn new(per_second: f64) -> Self {
        Self { per_second, next: Arc::new(Mutex::new(Instant::now())) }
    }

    /// A client has come: what was not asked for before is not saved up.
    fn begin(&self) {
        let mut next = self.next.lock().unwrap();
        *next = (*next).max(Instant::now());
    }

    /// Wait for so many units. What a busy machine has kept this thread or its clients from is made
    /// good: they ask again as soon as they run.
    fn wait(&self, units: f64) {
        let mut next = self.next.lock().unwrap();
        *next += Duration::from_secs_f64(units / self.per_second);
        let due = *next;
        drop(next);
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Towards {
    Client,
    Server,
}

/// Relay, and flip one bit of byte [`CORRUPTED`] that goes one way on the first connection.
pub(crate) fn corrupting_relay(target: SocketAddr, towards: Towards) -> SocketAddr {
    serve(move |downstream, number| {
        let upstream = TcpStream::connect(target).unwrap();
        let ways = [
            (downstream.try_clone().unwrap(), upstream.try_clone().unwrap(), Towards::Server),
            (upstream, downstream, Towards::Client),
        ];
        for (from, to, way) in ways {
            // After a mismatch the load opens another connection, which is left alone.
            let corrupt = way == towards && number == 0;
            let mut passed = 0;
            let change = move |bytes: &mut [u8]| {
                let offset = CORRUPTED.checked_sub(passed);
                passed += bytes.len();
                if let Some(byte) = offset.and_then(|offset| bytes.get_mut(offset))
                    && corrupt
                {
                    *byte ^= 0x20;
                }
            };
            thread::spawn(move || relay(from, to, change));
        }
    })
}

const CORRUPTED: usize = 100_000;

/// One way, until it ends; each piece is handed to `act` before it goes on.
fn relay(mut from: TcpStream, mut to: TcpStream, mut act: impl FnMut(&mut [u8])) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        act(&mut buffer[..count]);
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    // Either end may be gone already.
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}
