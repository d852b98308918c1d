//! What the kernel does, as far as the code above leans on it: one small test per fact.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use nix::sys::socket::MsgFlags;

use crate::sys::buffers::{BUFFER_BYTES, Buffer, BufferPool};
use crate::sys::kernel::{
    Completion, Errno, Expect, Kernel, ListenSocket, Notice, Operation, RECEIVE_CREDIT_BYTES,
    SplicePipe, StreamSocket, Token,
};
use crate::sys::pipe::{Pipe, PipePool, Spliced};
use crate::sys::socket::{Keepalive, Listener, Reach, Socket};
use crate::sys::thread::{give_way, lengthen_slice, scheduling};
use crate::sys::uring::Uring;

const TOKEN: Token = Token(7);
const KEEPALIVE: Keepalive = Keepalive { idle_seconds: 180, interval_seconds: 180, probes: 9 };
const SOON: Duration = Duration::from_secs(5);

fn ring() -> Uring {
    Uring::new(64).unwrap()
}

fn listener() -> (Listener, SocketAddr) {
    let any = "127.0.0.1:0".parse().unwrap();
    let listener = Listener::bind(&any, Reach::Own, KEEPALIVE).unwrap();
    let address = listener.local_address().unwrap();
    (listener, address)
}

/// A socket as the proxy has it, and a plain one at the other end.
fn pair() -> (Socket, TcpStream) {
    let (listener, address) = listener();
    let peer = TcpStream::connect(address).unwrap();
    peer.set_nodelay(true).unwrap();
    peer.set_read_timeout(Some(SOON)).unwrap();
    (accepted(&listener), peer)
}

/// The next connection that `listener` has queued.
fn accepted(listener: &Listener) -> Socket {
    let give_up = Instant::now() + SOON;
    loop {
        match listener.accept_now() {
            Ok(socket) => return socket,
            Err(error) => assert_eq!(error, Errno::EAGAIN),
        }
        assert!(Instant::now() < give_up, "nothing was accepted");
    }
}

fn within(time: Duration) -> Option<Instant> {
    Some(Instant::now() + time)
}

fn next(ring: &mut Uring) -> Completion<Socket> {
    loop {
        if let Some(completion) = ring.next_completion() {
            return completion;
        }
        ring.wait(within(SOON)).unwrap();
    }
}

fn nothing_within(ring: &mut Uring, time: Duration) {
    ring.wait(within(time)).unwrap();
    let completion = ring.next_completion();
    assert!(completion.is_none(), "{completion:?}");
}

fn receive(ring: &mut Uring, socket: &Socket) -> Result<Option<Buffer>, Errno> {
    ring.receive(socket, BUFFER_BYTES, Expect::Bytes, TOKEN);
    match next(ring) {
        Completion::Received { token: TOKEN, result, .. } => result,
        other => panic!("{other:?}"),
    }
}

/// Sends until there is no room, and leaves a wait for room in flight that does not end.
fn fill_up(ring: &mut Uring, socket: &Socket, buffer: &Buffer) {
    loop {
        ring.send(socket, buffer, 0..buffer.length(), Notice::Prompt, TOKEN);
        let Completion::Sent { result, .. } = next(ring) else { panic!() };
        if result.is_ok() {
            continue;
        }
        assert_eq!(result, Err(Errno::EAGAIN));
        ring.poll(socket, Operation::Writable, TOKEN);
        // The kernel may still move bytes to the receiver, or grant more memory.
        let rests = (0..10).all(|_| {
            ring.wait(within(Duration::from_millis(20))).unwrap();
            ring.next_completion().is_none()
        });
        if rests {
            return;
        }
    }
}

fn kernel_workers() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names =
        tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.starts_with("iou-wrk")).count()
}

#[test]
fn a_receive_takes_no_more_than_asked_and_bytes_can_be_put_in_front() {
    let mut ring = ring();
    let (socket, mut peer) = pair();
    peer.write_all(b"second third").unwrap();
    ring.receive(&socket, 6, Expect::Bytes, TOKEN);
    let Completion::Received { result: Ok(Some(mut buffer)), .. } = next(&mut ring) else {
        panic!()
    };
    assert_eq!(ring.pool().bytes(&buffer), b"second");
    ring.pool_mut().prepend(&mut buffer, b"first ");
    assert_eq!(ring.pool().bytes(&buffer), b"first second");
    ring.send(&socket, &buffer, 6..9, Notice::Prompt, TOKEN);
    let Completion::Sent { result, .. } = next(&mut ring) else { panic!() };
    assert_eq!(result, Ok(3));
    let mut read = [0; 3];
    peer.read_exact(&mut read).unwrap();
    assert_eq!(&read, b"sec");
    ring.pool_mut().release(buffer);
}

#[test]
fn a_buffer_can_be_filled_while_there_is_a_free_one() {
    // Half are offered to the kernel.
    let mut ring = Uring::new(34).unwrap();
    let filled: Vec<Buffer> = std::iter::from_fn(|| ring.pool_mut().fill(b"own words")).collect();
    assert_eq!(filled.len(), 17);
    assert!(filled.iter().all(|buffer| ring.pool().bytes(buffer) == b"own words"));
    filled.into_iter().for_each(|buffer| ring.pool_mut().release(buffer));
    let again = ring.pool_mut().fill(b"again").unwrap();
    ring.pool_mut().release(again);
}

#[test]
fn a_receive_on_a_nonblocking_socket_waits_and_owns_no_buffer_until_bytes_come() {
    let (socket, mut peer) = pair();
    let mut ring = ring();
    ring.receive(&socket, BUFFER_BYTES, Expect::Bytes, TOKEN);
    nothing_within(&mut ring, Duration::from_millis(20));
    peer.write_all(b"hello").unwrap();
    let Completion::Received { result: Ok(Some(buffer)), .. } = next(&mut ring) else { panic!() };
    assert_eq!(ring.pool().bytes(&buffer), b"hello");
    ring.pool_mut().release(buffer);
}

/// A receive that waits, and behind it a lazy send of `bytes`, which are in the buffer.
fn send_lazily(ring: &mut Uring, socket: &Socket) -> Buffer {
    let mut source = pair();
    source.1.write_all(b"bytes").unwrap();
    let buffer = receive(ring, &source.0).unwrap().unwrap();
    ring.receive(socket, BUFFER_BYTES, Expect::Nothing, TOKEN);
    ring.send(socket, &buffer, 0..buffer.length(), Notice::Skip, TOKEN);
    buffer
}

#[test]
fn a_lazy_send_ends_no_wait_and_is_told_before_what_ends_it() {
    let ((socket, mut peer), mut ring) = (pair(), ring());
    let buffer = send_lazily(&mut ring, &socket);
    let mut read = [0; 5];
    ring.submit().unwrap();
    peer.read_exact(&mut read).unwrap();
    assert_eq!(&read, b"bytes");
    peer.write_all(b"answer").unwrap();
    assert!(matches!(next(&mut ring), Completion::Sent { result: Ok(5), .. }));
    let Completion::Received { result: Ok(Some(answer)), .. } = next(&mut ring) else { panic!() };
    ring.pool_mut().release(answer);
    ring.pool_mut().release(buffer);
}

#[test]
fn a_lazy_send_is_told_without_a_sleep_when_somebody_waits_for_it() {
    let ((socket, mut peer), mut ring) = (pair(), ring());
    let buffer = send_lazily(&mut ring, &socket);
    ring.hurry();
    let began = Instant::now();
    ring.wait(within(SOON)).unwrap();
    assert!(matches!(ring.next_completion(), Some(Completion::Sent { result: Ok(5), .. })));
    assert!(began.elapsed() < SOON, "nothing else has completed");
    // Once only: the next wait sleeps again.
    nothing_within(&mut ring, Duration::from_millis(20));
    peer.read_exact(&mut [0; 5]).unwrap();
    ring.pool_mut().release(buffer);
}

#[test]
fn a_lazy_send_that_falls_short_is_told_at_once() {
    let ((socket, peer), mut source, mut ring) = (pair(), pair(), ring());
    source.1.write_all(&[9; 30_000]).unwrap();
    let buffer = receive(&mut ring, &source.0).unwrap().unwrap();
    let length = buffer.length();
    // Nothing else completes, so a wait ends at its deadline unless a send is told.
    let mut taken = 0_u64;
    let told = loop {
        ring.send(&socket, &buffer, 0..length, Notice::Skip, TOKEN);
        ring.wait(within(Duration::from_millis(20))).unwrap();
        match ring.next_completion() {
            Some(Completion::Sent { result: Ok(bytes), .. }) if bytes == length as usize => {
                taken += bytes as u64;
            }
            Some(Completion::Sent { result, .. }) => break result,
            other => panic!("{other:?}"),
        }
        assert!(ring.next_completion().is_none(), "a send completes once");
    };
    taken += told.unwrap_or(0) as u64;
    // What was told is what the peer gets.
    drop(socket);
    let got = std::io::copy(&mut &peer, &mut std::io::sink()).unwrap();
    assert_eq!(got, taken);
    ring.pool_mut().release(buffer);
}

#[test]
fn a_multishot_receive_goes_on_until_its_credit_is_used_up() {
    let ((socket, mut peer), mut ring) = (pair(), ring());
    ring.receive_multishot(&socket, Expect::Nothing, TOKEN);
    let (mut pieces, mut bytes) = (0, 0);
    loop {
        // The next piece when the last one has come, so that each is one of its own.
        peer.write_all(&[7; 8192]).unwrap();
        let Completion::Received { result, rearm, .. } = next(&mut ring) else { panic!() };
        let buffer = result.unwrap().unwrap();
        (pieces, bytes) = (pieces + 1, bytes + buffer.length());
        ring.pool_mut().release(buffer);
        if rearm {
            break;
        }
    }
    assert!(pieces > 1, "it went on after the first piece");
    assert!((RECEIVE_CREDIT_BYTES..RECEIVE_CREDIT_BYTES + BUFFER_BYTES).contains(&bytes));
    peer.write_all(b"more").unwrap();
    nothing_within(&mut ring, Duration::from_millis(20));
}

#[test]
fn a_cancelled_multishot_receive_completes_as_cancelled_and_keeps_nothing() {
    let ((socket, mut peer), mut ring) = (pair(), ring());
    ring.receive_multishot(&socket, Expect::Nothing, TOKEN);
    peer.write_all(b"one").unwrap();
    let Completion::Received { result, rearm: false, .. } = next(&mut ring) else { panic!() };
    ring.pool_mut().release(result.unwrap().unwrap());
    ring.cancel(Operation::Receive, TOKEN);
    let Completion::Received { result: Err(Errno::ECANCELED), rearm: true, .. } = next(&mut ring)
    else {
        panic!()
    };
    peer.write_all(b"two").unwrap();
    let buffer = receive(&mut ring, &socket).unwrap().unwrap();
    assert_eq!(ring.pool().bytes(&buffer), b"two");
    ring.pool_mut().release(buffer);
}

#[test]
fn a_send_to_a_reader_that_does_not_read_is_refused_and_a_wait_ends_when_it_reads() {
    let (socket, mut peer) = pair();
    let (mut source, mut ring) = (pair(), ring());
    source.1.write_all(&[9; 30_000]).unwrap();
    let buffer = receive(&mut ring, &source.0).unwrap().unwrap();
    for half_closed in [false, true] {
        if half_closed {
            peer.shutdown(std::net::Shutdown::Write).unwrap();
        }
        fill_up(&mut ring, &socket, &buffer);
        let mut chunk = vec![0; 1 << 20];
        let writable = loop {
            assert_ne!(peer.read(&mut chunk).unwrap(), 0);
            ring.wait(within(Duration::ZERO)).unwrap();
            if let Some(completion) = ring.next_completion() {
                break completion;
            }
        };
        let Completion::Ready { operation, result, .. } = writable else { panic!() };
        assert_eq!((operation, result), (Operation::Writable, Ok(())));
    }
    assert_eq!(kernel_workers(), 0);
    ring.poll(&socket, Operation::Writable, TOKEN);
    let Completion::Ready { result: Ok(()), .. } = next(&mut ring) else { panic!() };
    ring.pool_mut().release(buffer);
}

#[test]
fn a_wait_for_room_on_a_half_closed_socket_can_be_cancelled() {
    let ((socket, peer), mut source, mut ring) = (pair(), pair(), ring());
    source.1.write_all(&[9; 30_000]).unwrap();
    let buffer = receive(&mut ring, &source.0).unwrap().unwrap();
    peer.shutdown(std::net::Shutdown::Write).unwrap();
    fill_up(&mut ring, &socket, &buffer);
    ring.cancel(Operation::Writable, TOKEN);
    let Completion::Ready { result, .. } = next(&mut ring) else { panic!() };
    assert_eq!(result, Err(Errno::ECANCELED));
    nothing_within(&mut ring, Duration::from_millis(10));
    ring.pool_mut().release(buffer);
}

#[test]
fn accepted_sockets_inherit_nodelay_and_keepalive_and_do_not_block() {
    let (socket, _peer) = pair();
    let stream = TcpStream::from(std::os::fd::OwnedFd::from(socket));
    assert!(stream.nodelay().unwrap());
    use nix::sys::socket::{getsockopt, sockopt};
    assert!(getsockopt(&stream, sockopt::KeepAlive).unwrap());
    assert_eq!(getsockopt(&stream, sockopt::TcpKeepIdle).unwrap(), KEEPALIVE.idle_seconds);
    let error = (&stream).read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn a_connection_that_was_not_redirected_has_no_original_destination() {
    let (socket, peer) = pair();
    let error = socket.original_destination(&peer.local_addr().unwrap()).unwrap_err();
    assert!(matches!(error, Errno::ENOENT | Errno::ENOPROTOOPT), "{error}");
}

#[test]
fn a_cancelled_receive_completes_as_cancelled() {
    let (socket, _peer) = pair();
    let mut ring = ring();
    ring.receive(&socket, BUFFER_BYTES, Expect::Nothing, TOKEN);
    ring.submit().unwrap();
    ring.cancel(Operation::Receive, TOKEN);
    let Completion::Received { result, .. } = next(&mut ring) else { panic!() };
    assert_eq!(result.unwrap_err(), Errno::ECANCELED);
}

#[test]
fn closing_does_not_end_an_operation_in_flight() {
    let (socket, mut peer) = pair();
    let mut ring = ring();
    ring.receive(&socket, BUFFER_BYTES, Expect::Nothing, TOKEN);
    ring.submit().unwrap();
    ring.close(socket);
    nothing_within(&mut ring, Duration::from_millis(20));
    peer.write_all(b"late").unwrap();
    let Completion::Received { result: Ok(Some(buffer)), .. } = next(&mut ring) else { panic!() };
    assert_eq!(ring.pool().bytes(&buffer), b"late");
    ring.pool_mut().release(buffer);
}

#[test]
fn a_reset_is_reported_once_and_then_looks_like_fin() {
    let (socket, peer) = pair();
    let mut ring = ring();
    let (feeder, mut other) = pair();
    other.write_all(b"x").unwrap();
    let buffer = receive(&mut ring, &feeder).unwrap().unwrap();
    nix::sys::socket::setsockopt(
        &peer,
        nix::sys::socket::sockopt::Linger,
        &nix::libc::linger { l_onoff: 1, l_linger: 0 },
    )
    .unwrap();
    drop(peer);
    ring.send(&socket, &buffer, 0..buffer.length(), Notice::Prompt, TOKEN);
    let Completion::Sent { result, .. } = next(&mut ring) else { panic!() };
    assert!(matches!(result, Err(Errno::ECONNRESET | Errno::EPIPE)), "{result:?}");
    // The error is spent: this is why the worker remembers that a side is lost.
    assert!(receive(&mut ring, &socket).unwrap().is_none());
    assert!(!socket.is_connected());
    let (half_closed, peer) = pair();
    peer.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(receive(&mut ring, &half_closed).unwrap().is_none());
    assert!(half_closed.is_connected());
    ring.pool_mut().release(buffer);
}

#[test]
fn an_empty_pool_ends_a_receive_and_a_released_buffer_heals_it() {
    let mut ring = Uring::new(2).unwrap();
    let mut held = Vec::new();
    let mut pairs: Vec<_> = (0..3).map(|_| pair()).collect();
    for (_, peer) in &mut pairs {
        peer.write_all(b"x").unwrap();
    }
    for (socket, _) in &pairs[..2] {
        held.push(receive(&mut ring, socket).unwrap().unwrap());
    }
    assert_eq!(ring.pool().free(), 0);
    assert_eq!(receive(&mut ring, &pairs[2].0).unwrap_err(), Errno::ENOBUFS);
    ring.pool_mut().release(held.pop().unwrap());
    assert_eq!(ring.pool().free(), 1);
    let buffer = receive(&mut ring, &pairs[2].0).unwrap().unwrap();
    assert_eq!(ring.pool().bytes(&buffer), b"x");
    held.push(buffer);
    held.into_iter().for_each(|buffer| ring.pool_mut().release(buffer));
}

#[test]
fn trimmed_buffers_are_used_again() {
    let mut ring = ring();
    let (socket, mut peer) = pair();
    for round in 0..4_u8 {
        peer.write_all(&[round; 100]).unwrap();
        let buffer = receive(&mut ring, &socket).unwrap().unwrap();
        assert_eq!(ring.pool().bytes(&buffer), [round; 100]);
        ring.pool_mut().release(buffer);
        ring.trim();
        ring.trim();
    }
}

#[test]
fn bytes_that_arrive_while_offered_buffers_are_trimmed_are_not_lost() {
    let mut ring = ring();
    // No more than are offered at a time.
    let pairs: Vec<_> = (0..30).map(|_| pair()).collect();
    for round in 0..6_u8 {
        for (socket, _) in &pairs {
            ring.receive(socket, BUFFER_BYTES, Expect::Nothing, TOKEN);
        }
        ring.submit().unwrap();
        for (_, peer) in &pairs {
            (&*peer).write_all(&[round; 5_000]).unwrap();
            ring.trim();
        }
        for _ in &pairs {
            let Completion::Received { result: Ok(Some(buffer)), .. } = next(&mut ring) else {
                panic!()
            };
            // Between completions that were taken together.
            ring.trim();
            assert_eq!(ring.pool().bytes(&buffer), [round; 5_000]);
            ring.pool_mut().release(buffer);
        }
        // Idle for a while: the offered ones give their pages back.
        while ring.trim() == crate::sys::kernel::Trimmed::Partly {}
    }
}

#[test]
fn splice_never_blocks_and_a_pipe_with_bytes_is_not_lent_again() {
    let ((source, mut writer), (target, mut reader)) = (pair(), pair());
    let mut pool = PipePool::new(1);
    let mut pipe = pool.take(Pipe::new).unwrap();
    assert!(pool.take(Pipe::new).is_none(), "the pool lends one pipe");
    assert_eq!(pipe.fill(&source, u64::MAX).unwrap(), Spliced::NotReady);
    writer.write_all(&[5; 1000]).unwrap();
    let filled = loop {
        match pipe.fill(&source, u64::MAX).unwrap() {
            Spliced::NotReady => {}
            Spliced::Bytes(bytes) => break bytes,
            Spliced::End => panic!("no end was sent"),
        }
    };
    assert_eq!(pipe.flush(&target).unwrap(), Spliced::Bytes(filled));
    let mut got = vec![0; filled];
    reader.read_exact(&mut got).unwrap();
    assert!(got.iter().all(|&byte| byte == 5));
    drop(writer);
    let rest = 1000 - filled;
    if rest == 0 {
        assert_eq!(pipe.fill(&source, u64::MAX).unwrap(), Spliced::End);
    }
    pool.give_back(pipe);
    assert_eq!((pool.lent(), pool.open()), (0, 1));

    let mut pipe = pool.take(Pipe::new).unwrap();
    let (other, mut sender) = pair();
    sender.write_all(b"secret").unwrap();
    while pipe.fill(&other, u64::MAX).unwrap() == Spliced::NotReady {}
    pool.give_back(pipe);
    assert_eq!(pool.open(), 0, "a pipe that holds bytes is destroyed");
}

#[test]
fn a_splice_reports_the_reset_behind_the_bytes_also_where_fin_was_sent() {
    for sends_fin in [false, true] {
        let (source, mut peer) = pair();
        nix::sys::socket::send(source.as_raw_fd(), b"unread", MsgFlags::empty()).unwrap();
        if sends_fin {
            source.shutdown_write().unwrap();
        }
        peer.write_all(&[5; 1000]).unwrap();
        // What it has not read makes its close a reset.
        drop(peer);
        let mut pipe = Pipe::new().unwrap();
        let mut moved = 0;
        let end = loop {
            match pipe.fill(&source, u64::MAX) {
                Ok(Spliced::NotReady) => {}
                Ok(Spliced::Bytes(bytes)) => {
                    moved += bytes;
                    pipe = Pipe::new().unwrap();
                }
                end => break end,
            }
        };
        assert_eq!((end, moved), (Err(Errno::ECONNRESET), 1000), "FIN: {sends_fin}");
    }
}

#[test]
fn a_listener_that_refuses_handshakes_keeps_the_queued_ones() {
    let (listener, address) = listener();
    let queued = TcpStream::connect(address).unwrap();
    listener.refuse_new_handshakes().unwrap();
    let late = TcpStream::connect_timeout(&address, Duration::from_millis(200));
    assert_eq!(late.unwrap_err().kind(), std::io::ErrorKind::TimedOut);
    let socket = listener.accept_now().unwrap();
    assert_eq!(socket.peer_address().unwrap(), queued.local_addr().unwrap());
    assert_eq!(listener.accept_now().unwrap_err(), Errno::EAGAIN);
}

#[test]
fn death_is_noticed_without_reading_and_fin_is_not_death() {
    let (socket, peer) = pair();
    let mut ring = ring();
    let dead = |ring: &mut Uring| {
        ring.poll(&socket, Operation::Dead, TOKEN);
        match next(ring) {
            Completion::Ready { operation: Operation::Dead, result, .. } => result,
            other => panic!("{other:?}"),
        }
    };
    // A FIN wakes the wait, on this kernel without an event (6.18).
    ring.poll(&socket, Operation::Dead, TOKEN);
    peer.shutdown(std::net::Shutdown::Write).unwrap();
    ring.wait(within(Duration::from_millis(20))).unwrap();
    if let Some(Completion::Ready { result, .. }) = ring.next_completion() {
        assert_eq!(result, Err(Errno::EAGAIN));
    }
    ring.cancel(Operation::Dead, TOKEN);
    ring.wait(within(Duration::from_millis(20))).unwrap();
    while ring.next_completion().is_some() {}
    nix::sys::socket::setsockopt(
        &peer,
        nix::sys::socket::sockopt::Linger,
        &nix::libc::linger { l_onoff: 1, l_linger: 0 },
    )
    .unwrap();
    drop(peer);
    assert_eq!(dead(&mut ring), Ok(()));
}

/// A socket whose handshake is ended but for its last segment, by the socket's own account.
fn connected_with_held_ack(ring: &mut Uring, address: &SocketAddr) -> Socket {
    let socket = Socket::for_connecting_to(address).unwrap();
    socket.quickack_off().unwrap();
    ring.connect(&socket, address, TOKEN);
    let completion = next(ring);
    assert!(matches!(completion, Completion::Connected { result: Ok(()), .. }), "{completion:?}");
    assert!(socket.is_connected());
    socket
}

#[test]
fn a_handshake_that_is_held_back_ends_when_it_is_let_go_or_with_the_first_bytes() {
    let mut ring = ring();
    let (listener, address) = listener();

    // The kernel's own timer ends it after 200 ms, which a busy machine may sleep through, but not
    // each time.
    let mut held_back = [0, 0];
    for _ in 0..10 {
        let silent = connected_with_held_ack(&mut ring, &address);
        let early = listener.accept_now();
        held_back[0] += u32::from(early.is_err());
        silent.quickack_on();
        let _silent = early.unwrap_or_else(|_| accepted(&listener));

        let speaking = connected_with_held_ack(&mut ring, &address);
        let early = listener.accept_now();
        held_back[1] += u32::from(early.is_err());
        nix::unistd::write(&speaking, b"hello").unwrap();
        let served = early.unwrap_or_else(|_| accepted(&listener));
        let mut told = [0; 5];
        TcpStream::from(std::os::fd::OwnedFd::from(served)).read_exact(&mut told).unwrap();
        assert_eq!(&told, b"hello");
    }
    assert!(held_back.iter().all(|&times| times > 0), "{held_back:?}");
}

#[test]
fn a_connect_and_an_accept_meet_and_no_kernel_worker_is_needed() {
    let (listener, address) = listener();
    let mut ring = ring();
    ring.accept(&listener, Token(1));
    let socket = Socket::for_connecting_to(&address).unwrap();
    ring.connect(&socket, &address, Token(2));
    let mut accepted = None;
    let mut connected = false;
    while accepted.is_none() || !connected {
        match next(&mut ring) {
            Completion::Accepted { token: Token(1), result, rearm: false } => {
                accepted = Some(result.unwrap());
            }
            Completion::Connected { token: Token(2), result } => {
                result.unwrap();
                connected = true;
            }
            other => panic!("{other:?}"),
        }
    }
    let accepted = accepted.unwrap();
    assert_eq!(accepted.peer_address().unwrap(), socket.local_address().unwrap());
    ring.close(accepted);
    ring.close(socket);
    ring.cancel(Operation::Accept, Token(1));
    let Completion::Accepted { result, rearm: true, .. } = next(&mut ring) else { panic!() };
    assert_eq!(result.unwrap_err(), Errno::ECANCELED);
    assert_eq!(kernel_workers(), 0);
}

#[test]
fn a_connect_to_a_closed_port_is_refused() {
    // Everybody else is at 127.0.0.1: a port of that which was given back may be given away again.
    let address = SocketAddr::from(([127, 0, 0, 2], 1));
    let mut ring = ring();
    let socket = Socket::for_connecting_to(&address).unwrap();
    ring.connect(&socket, &address, TOKEN);
    let Completion::Connected { result, .. } = next(&mut ring) else { panic!() };
    assert_eq!(result, Err(Errno::ECONNREFUSED));
}

#[test]
fn a_wait_for_room_that_is_cancelled_in_its_own_batch_completes() {
    let ((socket, peer), mut source, mut ring) = (pair(), pair(), ring());
    source.1.write_all(&[9; 30_000]).unwrap();
    let buffer = receive(&mut ring, &source.0).unwrap().unwrap();
    peer.shutdown(std::net::Shutdown::Write).unwrap();
    fill_up(&mut ring, &socket, &buffer);
    ring.cancel(Operation::Writable, TOKEN);
    let Completion::Ready { result: Err(Errno::ECANCELED), .. } = next(&mut ring) else { panic!() };
    ring.poll(&socket, Operation::Writable, TOKEN);
    ring.cancel(Operation::Writable, TOKEN);
    let Completion::Ready { operation: Operation::Writable, .. } = next(&mut ring) else {
        panic!()
    };
    ring.pool_mut().release(buffer);
}

/// How a thread is scheduled is its own setting, and other tests keep theirs.
fn on_a_thread_of_its_own<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    std::thread::spawn(work).join().unwrap()
}

#[test]
fn a_longer_slice_changes_nothing_else() {
    let (before, longer, after) = on_a_thread_of_its_own(|| {
        let before = scheduling().unwrap();
        let longer = lengthen_slice().unwrap();
        (before, longer, scheduling().unwrap())
    });
    assert_eq!(after.sched_policy, before.sched_policy);
    assert_eq!(after.sched_nice, before.sched_nice);
    let half_more = before.sched_runtime + before.sched_runtime / 2;
    assert_eq!(after.sched_runtime, half_more, "0 before Linux 6.12");
    assert_eq!(longer.is_some(), before.sched_runtime > 0);
}

#[test]
fn who_gives_way_is_nicer_and_nothing_else() {
    let (before, after, nicest) = on_a_thread_of_its_own(|| {
        let before = scheduling().unwrap();
        give_way().unwrap();
        let after = scheduling().unwrap();
        give_way().unwrap();
        give_way().unwrap();
        (before, after, scheduling().unwrap())
    });
    assert_eq!(after.sched_nice, (before.sched_nice + 10).min(19));
    assert_eq!(after.sched_policy, before.sched_policy);
    assert_eq!(after.sched_runtime, before.sched_runtime);
    assert_eq!(nicest.sched_nice, 19, "there is no nicer one");
}

#[test]
fn a_thread_of_another_policy_keeps_its_slice_and_weight() {
    let (longer, policy, nicer) = on_a_thread_of_its_own(|| {
        let parameters = libc::sched_param { sched_priority: 0 };
        // SAFETY: the kernel reads `parameters`, which lives until the call returns.
        let done = unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const parameters) };
        assert_eq!(done, 0);
        let longer = lengthen_slice().unwrap();
        give_way().unwrap();
        let after = scheduling().unwrap();
        (longer, after.sched_policy, after.sched_nice)
    });
    let nice = scheduling().unwrap().sched_nice;
    assert_eq!((longer, policy, nicer), (None, libc::SCHED_BATCH.cast_unsigned(), nice));
}

#[test]
fn bytes_that_are_copied_find_a_buffer_however_often_the_window_was_empty() {
    let mut pool = BufferPool::new(8).unwrap();
    for _ in 0..10 {
        pool.starved();
        pool.refill();
    }
    let copies: Vec<_> = (0..4).map(|_| pool.fill(b"x").expect("half of them stay")).collect();
    assert!(pool.fill(b"x").is_none(), "the others are offered");
    copies.into_iter().for_each(|buffer| pool.release(buffer));
    assert_eq!(pool.free(), 8);
}
