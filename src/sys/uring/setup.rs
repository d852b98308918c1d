//! Making a ring: what is asked of the kernel, and what is said when it refuses.

use std::io;

use io_uring::{IoUring, Probe, opcode};

use super::{COMPLETIONS, SUBMISSIONS};
use crate::sys::thread;

/// Why there is no ring, in words that name the fix.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The system call does not exist, or a seccomp filter says so.
    #[error(
        "io_uring_setup: function not implemented; this kernel has no io_uring (Linux 5.19 is \
         needed, 6.1 is recommended), or a seccomp profile hides it: Docker's and containerd's \
         default profiles do, run with a profile that allows io_uring_setup, io_uring_enter and \
         io_uring_register"
    )]
    Missing,
    /// The system call is refused.
    #[error("io_uring_setup: operation not permitted; {0}")]
    Denied(&'static str),
    /// The kernel knows io_uring but not what is needed of it.
    #[error("this kernel is too old: {0} is missing (Linux 5.19 is needed, 6.1 is recommended)")]
    TooOld(&'static str),
    /// ENOMEM: more often a limit than the host's memory.
    #[error(
        "setting up io_uring failed: cannot allocate memory; RLIMIT_MEMLOCK is {limit}, and \
         without CAP_IPC_LOCK each worker's ring needs about 340 KiB of it, which all processes \
         of this user share: raise it (LimitMEMLOCK=, ulimit -l, --ulimit memlock=), or lower \
         `workers`. \
         RLIMIT_AS and the cgroup's memory limit can be the cause, too"
    )]
    Memory {
        /// RLIMIT_MEMLOCK.
        limit: String,
    },
    /// Descriptors or something else ran out.
    #[error("setting up io_uring failed: {0}; check RLIMIT_NOFILE and RLIMIT_AS")]
    Resources(#[source] io::Error),
}

impl SetupError {
    fn from_setup(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOSYS) => Self::Missing,
            Some(libc::EPERM | libc::EACCES) => Self::Denied(denied_by()),
            Some(libc::EINVAL) => Self::TooOld("a set-up flag (IORING_SETUP_SUBMIT_ALL)"),
            Some(libc::ENOMEM) => Self::Memory { limit: lock_limit() },
            _ => Self::Resources(error),
        }
    }
}

/// RLIMIT_MEMLOCK, after the soft limit was raised to the hard one.
fn lock_limit() -> String {
    match thread::raise_lock_limit() {
        Ok(nix::libc::RLIM_INFINITY) => "unlimited".into(),
        Ok(bytes) => format!("{} KiB", bytes >> 10),
        Err(error) => error.to_string(),
    }
}

/// What most likely refuses io_uring here: the sysctl says so, else it is a seccomp profile.
fn denied_by() -> &'static str {
    let setting = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
    match setting.as_deref().map(str::trim) {
        Ok("2") => {
            "the sysctl kernel.io_uring_disabled is 2, set it to 0 (sysctl -w \
             kernel.io_uring_disabled=0)"
        }
        Ok("1") => {
            "the sysctl kernel.io_uring_disabled is 1, set it to 0, or run with CAP_SYS_ADMIN or \
             in the group kernel.io_uring_group"
        }
        _ => {
            "a seccomp profile denies it: Docker's and containerd's default profiles do, run with \
             a profile that allows io_uring_setup, io_uring_enter and io_uring_register"
        }
    }
}

/// A ring with the best flags that the kernel takes, and their names.
pub(super) fn set_up() -> Result<(IoUring, &'static str), SetupError> {
    let mut last = None;
    for (features, choose) in ATTEMPTS {
        let mut builder = IoUring::builder();
        builder.setup_cqsize(COMPLETIONS).setup_clamp().setup_submit_all();
        choose(&mut builder);
        match builder.build(SUBMISSIONS) {
            Ok(ring) => return Ok((ring, features)),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => last = Some(error),
            Err(error) => return Err(SetupError::from_setup(error)),
        }
    }
    Err(SetupError::from_setup(last.unwrap_or_else(|| io::ErrorKind::Unsupported.into())))
}

type SetFlags = fn(&mut io_uring::Builder);

/// What is asked for, the best first: names for the log, and the flags.
const ATTEMPTS: [(&str, SetFlags); 4] = [
    ("single_issuer,defer_taskrun,no_sqarray", |b| {
        b.setup_single_issuer().setup_defer_taskrun().setup_no_sqarray();
    }),
    ("single_issuer,defer_taskrun", |b| {
        b.setup_single_issuer().setup_defer_taskrun();
    }),
    ("coop_taskrun", |b| {
        b.setup_coop_taskrun();
    }),
    ("plain", |_| {}),
];

/// Multishot accept came with 5.19, as buffer rings did; the rest is older.
pub(super) fn check_operations(ring: &IoUring) -> Result<(), SetupError> {
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(SetupError::Resources)?;
    let needed = [
        (opcode::AcceptMulti::CODE, "IORING_OP_ACCEPT"),
        (opcode::Connect::CODE, "IORING_OP_CONNECT"),
        (opcode::Recv::CODE, "IORING_OP_RECV"),
        (opcode::Send::CODE, "IORING_OP_SEND"),
        (opcode::PollAdd::CODE, "IORING_OP_POLL_ADD"),
        (opcode::Timeout::CODE, "IORING_OP_TIMEOUT"),
        (opcode::AsyncCancel::CODE, "IORING_OP_ASYNC_CANCEL"),
        (opcode::Close::CODE, "IORING_OP_CLOSE"),
    ];
    if let Some((_, name)) = needed.iter().find(|(code, _)| !probe.is_supported(*code)) {
        return Err(SetupError::TooOld(name));
    }
    let parameters = ring.params();
    if !parameters.is_feature_ext_arg() {
        return Err(SetupError::TooOld("IORING_FEAT_EXT_ARG"));
    }
    if !parameters.is_feature_submit_stable() || !parameters.is_feature_nodrop() {
        return Err(SetupError::TooOld("IORING_FEAT_SUBMIT_STABLE or IORING_FEAT_NODROP"));
    }
    if !parameters.is_feature_skip_cqe_on_success() {
        return Err(SetupError::TooOld("IORING_FEAT_CQE_SKIP"));
    }
    Ok(())
}
