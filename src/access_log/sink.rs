//! Where the lines go: standard output, or a file.
//!
//! What cannot be written is lost and counted: a proxy that stopped for its log would be worse than
//! a log with a gap. A sink that has failed is left alone for [`RETRY`], then opened again. It is
//! logged once when it fails and once when it is well again.
//!
//! A pipe that nobody reads must not hold the thread for good, or the control plane could neither
//! point it elsewhere nor end it: so the sink waits for room in short steps, and writes to anything
//! but a regular file no more than what poll(2) promised.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::config::{self, AccessLogFormat};

/// How long a sink that has failed is left alone: a full disk is not tried for every line.
pub(super) const RETRY: Duration = Duration::from_secs(1);

/// How often a wait for room looks whether it should give up.
const STEP_MS: u16 = 50;

/// What a pipe that poll(2) calls writable takes without blocking, and in one piece (PIPE_BUF,
/// pipe(7)): so lines are not mixed with what others write to the same pipe.
const PIPE_BUF: usize = 4096;

/// The owner writes, the group reads: lines tell who talks to whom.
const MODE: u32 = 0o640;

/// See the module.
#[derive(Debug)]
pub(super) struct Sink {
    target: Target,
    state: State,
    /// Since the sink has failed last: what is lost.
    lost_lines: u64,
    /// The last write ended within a line.
    torn: bool,
}

/// What to open.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    /// Nothing: the log is off.
    Nothing,
    Stdout,
    File(PathBuf),
}

#[derive(Debug)]
enum State {
    Closed,
    Open {
        file: File,
        /// The longest write.
        bytes_max: usize,
    },
    Failed {
        retry_at: Instant,
    },
}

/// What became of the lines of one [`Sink::write`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Written {
    /// Lines that are written.
    pub(super) lines: u64,
    /// Lines that are lost.
    pub(super) lost: u64,
}

impl Sink {
    /// A sink for these settings, open if that is possible.
    pub(super) fn new(settings: &config::AccessLog) -> Self {
        Self::to(target_of(settings))
    }

    fn to(target: Target) -> Self {
        let mut sink = Self { target, state: State::Closed, lost_lines: 0, torn: false };
        sink.open();
        sink
    }

    /// Opens it again, or another one if the settings say so.
    pub(super) fn reopen(&mut self, settings: &config::AccessLog) {
        let target = target_of(settings);
        if target != self.target {
            *self = Self::to(target);
        } else {
            self.open();
        }
    }

    /// Writes `lines`, each with its line end. Waits for room until `give_up` says so; what is left
    /// then is lost.
    pub(super) fn write(&mut self, lines: &str, give_up: impl Fn() -> bool) -> Written {
        self.retry();
        let written_bytes = match &mut self.state {
            State::Closed | State::Failed { .. } => 0,
            State::Open { file, bytes_max } => {
                let (written_bytes, result) =
                    write_some(file, *bytes_max, &mut self.torn, lines.as_bytes(), give_up);
                if let Err(error) = result {
                    self.fail("written", &error);
                }
                written_bytes
            }
        };
        let (done, left) = lines.as_bytes().split_at(written_bytes);
        let written = Written { lines: count_lines(done), lost: count_lines(left) };
        self.lost_lines += written.lost;
        if written.lost == 0 && written.lines > 0 && self.lost_lines > 0 {
            tracing::info!(lost.lines = self.lost_lines, "the access log is written again");
            self.lost_lines = 0;
        }
        written
    }

    fn retry(&mut self) {
        if matches!(self.state, State::Failed { retry_at } if retry_at <= Instant::now()) {
            self.open();
        }
    }

    fn open(&mut self) {
        let opened = match &self.target {
            Target::Nothing => {
                self.state = State::Closed;
                return;
            }
            Target::Stdout => duplicate(io::stdout().as_fd()),
            Target::File(path) => OpenOptions::new()
                .append(true)
                .create(true)
                .mode(MODE)
                // A named pipe without a reader must not hold the thread, a terminal not own it.
                .custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits())
                .open(path),
        };
        match opened.and_then(|file| Ok((file.metadata()?, file))) {
            Ok((metadata, file)) => {
                // After a rotation the torn line is in the other file.
                self.torn &= metadata.len() > 0;
                let bytes_max = if metadata.is_file() { usize::MAX } else { PIPE_BUF };
                self.state = State::Open { file, bytes_max };
            }
            Err(error) => self.fail("opened", &error),
        }
    }

    fn fail(&mut self, what: &str, error: &io::Error) {
        if self.lost_lines == 0 && !matches!(self.state, State::Failed { .. }) {
            let path = match &self.target {
                Target::File(path) => path.display().to_string(),
                _ => "stdout".to_owned(),
            };
            tracing::error!(path, %error, "the access log cannot be {what}; lines are lost");
        }
        self.state = State::Failed { retry_at: Instant::now() + RETRY };
    }
}

fn target_of(settings: &config::AccessLog) -> Target {
    match (settings.format, &settings.path) {
        (AccessLogFormat::Off, _) => Target::Nothing,
        (_, Some(path)) => Target::File(path.clone()),
        (_, None) => Target::Stdout,
    }
}

fn duplicate(descriptor: BorrowedFd<'_>) -> io::Result<File> {
    Ok(descriptor.try_clone_to_owned()?.into())
}

/// Writes until everything is written, an error comes or `give_up` says so. Returns how many bytes
/// of `lines` are written, and the error.
fn write_some(
    file: &mut File,
    bytes_max: usize,
    torn: &mut bool,
    lines: &[u8],
    give_up: impl Fn() -> bool,
) -> (usize, io::Result<()>) {
    let mut written_bytes = 0;
    while written_bytes < lines.len() {
        match wait_for_room(file) {
            Ok(true) => {}
            Ok(false) if give_up() => break,
            Ok(false) => continue,
            Err(error) => return (written_bytes, Err(error)),
        }
        // What was torn off before stays a line of its own.
        let rest = if *torn && written_bytes == 0 { b"\n" } else { &lines[written_bytes..] };
        match file.write(piece(rest, bytes_max)) {
            Ok(0) => return (written_bytes, Err(io::ErrorKind::WriteZero.into())),
            Ok(_) if *torn && written_bytes == 0 => *torn = false,
            Ok(bytes) => {
                written_bytes += bytes;
                *torn = lines[written_bytes - 1] != b'\n';
            }
            Err(error) => match error.kind() {
                io::ErrorKind::Interrupted => {}
                // It was given away between poll and write, or there is room for less than a piece.
                io::ErrorKind::WouldBlock if give_up() => break,
                io::ErrorKind::WouldBlock => {
                    std::thread::sleep(Duration::from_millis(STEP_MS.into()));
                }
                _ => return (written_bytes, Err(error)),
            },
        }
    }
    (written_bytes, Ok(()))
}

/// As many whole lines as one write may have; a part of a line only if it is longer than that.
fn piece(lines: &[u8], bytes_max: usize) -> &[u8] {
    let Some(piece) = lines.get(..bytes_max) else { return lines };
    let end = memchr::memrchr(b'\n', piece).map_or(bytes_max, |line_end| line_end + 1);
    &piece[..end]
}

/// Whether a write would not block, or would fail, which tells more; waits for it one step long.
fn wait_for_room(file: &File) -> io::Result<bool> {
    let mut polled = [PollFd::new(file.as_fd(), PollFlags::POLLOUT)];
    match poll(&mut polled, PollTimeout::from(STEP_MS)) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::EINTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn count_lines(bytes: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', bytes).count() as u64
}

#[cfg(test)]
mod tests;
