//! The operations and calls of [`Kernel`], by io_uring and by direct system calls.

use std::hash::BuildHasher;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant, SystemTime};

use io_uring::types::Fd;
use io_uring::{opcode, squeue};
use nix::errno::Errno;
use nix::sys::socket::MsgFlags;

use super::multishot::{self, MultishotReceives};
use super::skip::{self, Batch};
use super::{COMPLETIONS_PER_TURN, GROUP, IGNORED, POLL_FIRST, Uring, user_data};
use crate::sys::buffers::{BUFFER_BYTES, Buffer, BufferPool};
use crate::sys::kernel::{
    Completion, Expect, Kernel, Notice, Operation, Recorded, StreamSocket, Token, Trimmed,
};
use crate::sys::pipe::Pipe;
use crate::sys::socket::{Listener, Socket, to_kernel};
use crate::sys::waker::Waker;

impl Kernel for Uring {
    type Socket = Socket;
    type Listener = Listener;
    type Pipe = Pipe;

    fn accept(&mut self, listener: &Listener, token: Token) {
        let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        let entry = opcode::AcceptMulti::new(Fd(listener.as_raw_fd())).flags(flags).build();
        self.push(Operation::Accept, token, entry);
    }

    fn connect(&mut self, socket: &Socket, address: &SocketAddr, token: Token) {
        if self.addresses.len() == self.addresses.capacity() {
            // As many connects as the queue has entries: hand them over, which empties the list.
            let _ = self.enter(0, None);
            if self.addresses.len() == self.addresses.capacity() {
                self.take_completions();
                let _ = self.enter(0, None);
            }
        }
        let (storage, length) = to_kernel(address);
        let room = self.addresses.len() < self.addresses.capacity();
        assert!(room, "queued connects point into the list: it must not move");
        self.addresses.push(storage);
        let pointer = self.addresses.last().map_or(std::ptr::null(), std::ptr::from_ref).cast();
        let entry = opcode::Connect::new(Fd(socket.as_raw_fd()), pointer, length).build();
        self.push(Operation::Connect, token, entry);
    }

    fn receive(&mut self, socket: &Socket, most: u32, expect: Expect, token: Token) {
        let priority = if expect == Expect::Bytes { 0 } else { POLL_FIRST };
        // The kernel chooses the address. Length 0 would mean the whole buffer only from 6.0 on.
        let most = most.clamp(1, BUFFER_BYTES);
        let entry = opcode::Recv::new(Fd(socket.as_raw_fd()), std::ptr::null_mut(), most)
            .buf_group(GROUP)
            .ioprio(priority)
            .build()
            .flags(squeue::Flags::BUFFER_SELECT);
        self.push(Operation::Receive, token, entry);
    }

    fn receive_multishot(&mut self, socket: &Socket, expect: Expect, token: Token) {
        match self.multishot {
            MultishotReceives::Supported => {
                let entry = multishot::entry(socket.as_raw_fd(), expect);
                self.push(Operation::Receive, token, entry);
            }
            MultishotReceives::Unsupported => self.receive(socket, BUFFER_BYTES, expect, token),
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
        let length = bytes.end - bytes.start;
        let bytes = self.buffers.range(buffer, bytes);
        if self.batch == Batch::One {
            let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
            let result = nix::sys::socket::send(socket.as_raw_fd(), bytes, flags);
            return self.aside.push_back(Completion::Sent { token, result });
        }
        let start = bytes.as_ptr();
        let notice = self.skip_sends.possible(notice);
        let entry = skip::send_entry(socket.as_raw_fd(), start, length, notice);
        self.push(Operation::Send, token, entry);
        if notice == Notice::Skip {
            self.skip_sends.queued(user_data(Operation::Send, token), length);
        }
    }

    fn poll(&mut self, socket: &Socket, operation: Operation, token: Token) {
        let events = match operation {
            Operation::Readable => libc::POLLIN,
            Operation::Writable => libc::POLLOUT,
            // POLLERR and POLLHUP are always reported.
            _ => 0,
        };
        let events = u32::from(events.cast_unsigned());
        let entry = opcode::PollAdd::new(Fd(socket.as_raw_fd()), events).build();
        if operation == Operation::Writable {
            self.writable.begin(user_data(operation, token), socket.as_raw_fd());
        }
        self.push(operation, token, entry);
    }

    fn poll_waker(&mut self, waker: &Waker, token: Token) {
        let events = u32::from(libc::POLLIN.cast_unsigned());
        let entry = opcode::PollAdd::new(Fd(waker.as_raw_fd()), events).build();
        self.push(Operation::Readable, token, entry);
    }

    fn cancel(&mut self, operation: Operation, token: Token) {
        let target = user_data(operation, token);
        if operation == Operation::Writable && self.writable.cancel(target) {
            let result = Err(Errno::ECANCELED);
            return self.aside.push_back(Completion::Ready { token, operation, result });
        }
        let entry = opcode::AsyncCancel::new(target)
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS)
            .user_data(IGNORED);
        self.push_raw(entry);
    }

    fn close(&mut self, socket: Socket) {
        let entry = opcode::Close::new(Fd(socket.into_raw()))
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS)
            .user_data(IGNORED);
        self.push_raw(entry);
    }

    fn pool(&self) -> &BufferPool {
        &self.buffers
    }

    fn pool_mut(&mut self) -> &mut BufferPool {
        &mut self.buffers
    }

    fn trim(&mut self) -> Trimmed {
        let free = self.buffers.trim();
        // With DEFER_TASKRUN the kernel receives into offered buffers only within an enter of this
        // thread; and if no completion is left to be read, none of them holds bytes.
        let (overflowed, completions) = {
            let (_, mut submission, completion) = self.ring.split();
            submission.sync();
            (submission.cq_overflow(), completion.len())
        };
        let told = self.turn.is_empty() && self.aside.is_empty() && completions == 0;
        if !self.defers || overflowed || !told {
            return free;
        }
        match self.buffers.trim_offered() {
            Trimmed::Fully => free,
            Trimmed::Partly => Trimmed::Partly,
        }
    }

    fn submit(&mut self) -> io::Result<()> {
        self.enter(0, None)
    }

    fn hurry(&mut self) {
        self.hurried = true;
    }

    fn wait(&mut self, deadline: Option<Instant>) -> io::Result<()> {
        let may_sleep = !std::mem::take(&mut self.hurried);
        let want = u32::from(may_sleep && self.turn.is_empty() && self.aside.is_empty());
        self.enter_until(want, deadline)?;
        self.take_completions();
        self.left_in_turn = COMPLETIONS_PER_TURN;
        self.batch = if self.turn.len() > 1 { Batch::Many } else { Batch::One };
        let all_ran = self.ring.submission().is_empty();
        if all_ran && !self.ring.submission().cq_overflow() {
            self.skip_sends.settle(&self.turn);
        }
        Ok(())
    }

    fn next_completion(&mut self) -> Option<Completion<Socket>> {
        if let Some(sent) = self.skip_sends.next_sent() {
            return Some(sent);
        }
        while self.left_in_turn > 0
            && let Some(entry) = self.turn.pop_front()
        {
            self.left_in_turn -= 1;
            if let Some(completion) = self.decode(&entry) {
                return Some(completion);
            }
        }
        self.aside.pop_front()
    }

    fn overflows(&self) -> u64 {
        self.overflows
    }

    fn open_socket(&mut self, address: &SocketAddr, mark: Option<u32>) -> Result<Socket, Errno> {
        let socket = Socket::for_connecting_to(address)?;
        if let Some(mark) = mark {
            socket.set_mark(mark)?;
        }
        socket.quickack_off()?;
        Ok(socket)
    }

    fn peer_address(&self, socket: &Socket) -> Result<SocketAddr, Errno> {
        socket.peer_address()
    }

    fn original_destination(
        &self,
        socket: &Socket,
        peer: &SocketAddr,
        by: Recorded,
    ) -> Result<SocketAddr, Errno> {
        match by {
            Recorded::ByConntrack => socket.original_destination(peer),
            Recorded::AsLocalAddress => socket.local_address(),
        }
    }

    fn open_pipe(&mut self) -> Result<Pipe, Errno> {
        Pipe::new()
    }

    fn clear_waker(&mut self, waker: &Waker) {
        waker.clear();
    }

    fn now(&self) -> Instant {
        Instant::now()
    }

    fn wall_time(&self) -> SystemTime {
        SystemTime::now()
    }

    fn processor_time(&self) -> Duration {
        crate::sys::thread::processor_time()
    }

    fn seed(&self) -> u64 {
        foldhash::fast::RandomState::default().hash_one(0)
    }
}
