//! io_uring_enter(2): how a ring's thread hands over what is queued, and waits.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use io_uring::types::Timespec;
use io_uring::{EnterFlags, IoUring, opcode};
use nix::errno::Errno;

use super::{ALARM, Uring};

/// The way into a ring, for its own thread. To be dropped before the ring.
#[derive(Debug)]
pub(super) struct EntryPoint {
    descriptor: RawFd,
    /// What the call is made with: the registered index, or the descriptor.
    index: u32,
    flags: EnterFlags,
}

/// `struct io_uring_getevents_arg` (linux/io_uring.h), for EXT_ARG.
#[repr(C)]
struct WaitArgument {
    sigmask: u64,
    sigmask_size: u32,
    min_wait_us: u32,
    deadline: *const Timespec,
}

impl EntryPoint {
    pub(super) fn of(ring: &IoUring) -> Self {
        let mut flags = EnterFlags::GETEVENTS | EnterFlags::EXT_ARG;
        if ring.params().is_feature_no_iowait() {
            // Else an idle thread counts as waiting for a disk (6.15).
            flags |= EnterFlags::NO_IOWAIT;
        }
        let descriptor = ring.as_raw_fd();
        let index = match register_descriptor(descriptor) {
            Some(index) => {
                flags |= EnterFlags::REGISTERED_RING;
                index
            }
            None => u32::try_from(descriptor).unwrap_or(u32::MAX),
        };
        Self { descriptor, index, flags }
    }

    /// Hands over `queued` submissions and waits for `want` completions, at most for `timeout`.
    pub(super) fn enter(
        &self,
        queued: u32,
        want: u32,
        timeout: Option<Duration>,
    ) -> io::Result<()> {
        let deadline = timeout.map(Timespec::from);
        let argument = WaitArgument {
            sigmask: 0,
            sigmask_size: 0,
            min_wait_us: 0,
            deadline: deadline.as_ref().map_or(std::ptr::null(), std::ptr::from_ref),
        };
        // SAFETY: with EXT_ARG the kernel reads a `struct io_uring_getevents_arg` of the given
        // size, which `argument` is, and the timespec that it points to; both live until the call
        // returns.
        let entered = unsafe {
            libc::syscall(
                libc::SYS_io_uring_enter,
                self.index,
                queued,
                want,
                self.flags.bits(),
                &raw const argument,
                size_of::<WaitArgument>(),
            )
        };
        match Errno::result(entered) {
            Ok(_) => Ok(()),
            // The timeout, a signal, or a completion queue to be emptied first: all are turns.
            Err(Errno::ETIME | Errno::EINTR | Errno::EBUSY | Errno::EAGAIN) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for EntryPoint {
    fn drop(&mut self) {
        if self.flags.contains(EnterFlags::REGISTERED_RING) {
            unregister_descriptor(self.descriptor, self.index);
        }
    }
}

impl Uring {
    /// Hands over what is queued and waits for `want` completions, at most until `deadline`.
    pub(super) fn enter_until(&mut self, want: u32, deadline: Option<Instant>) -> io::Result<()> {
        let left = |until: Instant| until.saturating_duration_since(Instant::now());
        match (deadline, self.alarm) {
            (Some(deadline), None) => {
                self.alarm = Some(deadline);
                // A timer of its own per wait would cost a hundredth of a small message.
                *self.alarm_time = Timespec::from(left(deadline));
                let timeout = opcode::Timeout::new(&raw const *self.alarm_time).build();
                self.push_raw(timeout.user_data(ALARM));
                self.enter(want, None)
            }
            (Some(deadline), Some(alarm)) if deadline < alarm => {
                self.enter(want, Some(left(deadline)))
            }
            _ => self.enter(want, None),
        }
    }
}

/// `struct io_uring_rsrc_update` (linux/io_uring.h), for io_uring_register(2).
#[repr(C)]
struct RingUpdate {
    offset: u32,
    reserved: u32,
    descriptor: u64,
}

/// Registers the ring's own descriptor with the calling thread, which spares a lookup per enter
/// (Linux 5.18). The crate can do this too, but forgets it with the handle that did it.
fn register_descriptor(descriptor: RawFd) -> Option<u32> {
    const REGISTER_RING_FDS: libc::c_uint = 20;
    let any = u32::MAX;
    let mut update =
        RingUpdate { offset: any, reserved: 0, descriptor: u64::try_from(descriptor).ok()? };
    // SAFETY: IORING_REGISTER_RING_FDS reads and writes as many `struct io_uring_rsrc_update` as it
    // is told, one here, which lives until the call returns.
    let registered = unsafe {
        libc::syscall(
            libc::SYS_io_uring_register,
            descriptor,
            REGISTER_RING_FDS,
            &raw mut update,
            1_u32,
        )
    };
    (registered == 1).then_some(update.offset)
}

/// Takes [`register_descriptor`] back. The registration holds the ring: without this, closing its
/// descriptor would not end it before its thread ends.
fn unregister_descriptor(descriptor: RawFd, index: u32) {
    const UNREGISTER_RING_FDS: libc::c_uint = 21;
    let mut update = RingUpdate { offset: index, reserved: 0, descriptor: 0 };
    // SAFETY: IORING_UNREGISTER_RING_FDS reads as many `struct io_uring_rsrc_update` as it is told,
    // one here, which lives until the call returns.
    let _ = unsafe {
        libc::syscall(
            libc::SYS_io_uring_register,
            descriptor,
            UNREGISTER_RING_FDS,
            &raw mut update,
            1_u32,
        )
    };
}
