//! What one worker counts beside the series, and what the control plane counts about itself.
//!
//! Each structure has one writing thread; every other thread only reads. They hold numbers, and
//! know neither names nor formats (see `catalogue`).

use super::{Cell, CloseReason};
use crate::http1::{Lost, Refusal};
use crate::http2::FrameError;
use crate::sniff::{NameError, OpaqueReason};

/// One worker's counters. Aligned to two cache lines, because the processor fetches lines in pairs:
/// two workers never write to the same pair.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct WorkerCounters {
    /// Accepts that became a connection.
    pub accepted: Cell,
    /// Accepts that were reset at once because `limits.connections` was reached.
    pub refused_limit: Cell,
    /// Accepts that were not redirected, or came from Egret itself.
    pub self_call: Cell,
    /// Accepts that failed (no descriptor, no memory, aborted before the accept).
    pub accept_error: Cell,
    /// Connections that this worker holds now (gauge).
    pub connections_active: Cell,
    /// Connections that ended, by `CloseReason as usize`; see [`WorkerCounters::closed`].
    closed: [Cell; CloseReason::ALL.len()],
    /// Bytes relayed through a buffer, both directions together.
    pub bytes_copied: Cell,
    /// Bytes relayed through a pipe, both directions together.
    pub bytes_spliced: Cell,
    /// Pipes that hold a connection's bytes now (gauge).
    pub pipes_in_use: Cell,
    /// Times a half wanted a pipe, got none, and went on copying.
    pub pipe_fallbacks: Cell,
    /// Receives that found the buffer ring empty (ENOBUFS).
    pub buffers_starved: Cell,
    /// Times the completion queue overflowed.
    pub cq_overflow: Cell,
    /// Loop turns.
    pub turns: Cell,
    /// Completions handled.
    pub completions: Cell,
    /// Microseconds of processor time, user and kernel; brought up to date once per second.
    pub busy_us: Cell,
    /// Times a label set was refused a series of its own by this worker's tables.
    pub series_refused: Cell,
    /// Connections by what recognition found; see [`WorkerCounters::recognised`].
    recognised: [Cell; Recognised::ALL.len()],
    /// Connections whose first bytes are held or awaited now (gauge).
    pub recognising: Cell,
    /// Bytes that are held for recognition now (gauge).
    pub recognising_bytes: Cell,
    /// Names that decided and are verified by nothing.
    pub unverified_names: Cell,
    /// Requests that name two hosts.
    pub name_conflicts: Cell,
    junk_names: [Cell; NameError::ALL.len()],
    refused_requests: [Cell; Refusal::ALL.len()],
    unframed_answers: [Cell; Lost::ALL.len()],
    refused_frames: [Cell; FrameError::ALL.len()],
    /// Upstream connections that gave way to another one.
    pub upstream_switches: Cell,
    /// HTTP/2 requests that were blocked behind an allowed one.
    pub blocked_streams: Cell,
    /// Lines of the access log that found the queue full.
    pub access_log_dropped: Cell,
}

impl WorkerCounters {
    /// The counter of connections that ended for `reason`.
    #[must_use]
    pub fn closed(&self, reason: CloseReason) -> &Cell {
        // `reason as usize` is below the length: the array has one cell per variant.
        &self.closed[reason as usize]
    }

    /// The counter of connections of which recognition found `what`.
    #[must_use]
    pub fn recognised(&self, what: Recognised) -> &Cell {
        &self.recognised[place(&Recognised::ALL, |one| *one == what)]
    }

    /// The counter of server names that are none, for `reason`.
    #[must_use]
    pub fn junk_names(&self, reason: NameError) -> &Cell {
        &self.junk_names[place(&NameError::ALL, |one| *one == reason)]
    }

    /// The counter of requests refused for `reason`.
    #[must_use]
    pub fn refused_requests(&self, reason: Refusal) -> &Cell {
        &self.refused_requests[place(&Refusal::ALL, |one| one.label() == reason.label())]
    }

    /// The counter of HTTP/2 connections that were refused for `reason`.
    #[must_use]
    pub fn refused_frames(&self, reason: FrameError) -> &Cell {
        &self.refused_frames[place(&FrameError::ALL, |one| one.label() == reason.label())]
    }

    /// The counter of answers whose framing was lost for `reason`.
    #[must_use]
    pub fn unframed_answers(&self, reason: Lost) -> &Cell {
        &self.unframed_answers[place(&Lost::ALL, |one| *one == reason)]
    }
}

/// The place of a value in the list of all values: a search of a few comparisons, off the path of
/// bytes.
fn place<T>(all: &[T], is_it: impl Fn(&T) -> bool) -> usize {
    all.iter().position(is_it).expect("the list holds every value")
}

/// What recognition found out about a connection, or why it did not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Recognised {
    /// A whole ClientHello.
    Tls,
    /// A request line of HTTP/1.
    Http1,
    /// The preface of HTTP/2.
    Http2,
    /// Nothing that is known here.
    Opaque(OpaqueReason),
    /// Not enough came in `names.deadline`.
    Deadline,
    /// The connection, or the downstream's half of it, ended before.
    Ended,
    /// The server spoke first.
    ServerFirst,
}

impl Recognised {
    /// Every value.
    pub const ALL: [Self; 9] = [
        Self::Tls,
        Self::Http1,
        Self::Http2,
        Self::Opaque(OpaqueReason::NotRecognised),
        Self::Opaque(OpaqueReason::TooLarge),
        Self::Opaque(OpaqueReason::BadTls),
        Self::Deadline,
        Self::Ended,
        Self::ServerFirst,
    ];

    /// The value of the `result` label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Opaque(reason) => reason.label(),
            Self::Deadline => "deadline",
            Self::Ended => "ended",
            Self::ServerFirst => "server_first",
        }
    }
}

/// What came of a reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReloadResult {
    /// A new generation was published.
    Success,
    /// The files were refused; the last good generation serves on.
    Failure,
    /// The files say what they said before.
    Unchanged,
}

impl ReloadResult {
    /// Every result.
    pub const ALL: [Self; 3] = [Self::Success, Self::Failure, Self::Unchanged];

    /// The value of the `result` label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Unchanged => "unchanged",
        }
    }
}

/// What came of asking DNS for the addresses of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DnsResult {
    /// Addresses.
    Success,
    /// No answer, or an error; the addresses that were known are kept.
    Failure,
    /// The name does not exist, or has no address.
    Empty,
}

impl DnsResult {
    /// Every result.
    pub const ALL: [Self; 3] = [Self::Success, Self::Failure, Self::Empty];

    /// The value of the `result` label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Empty => "empty",
        }
    }
}

/// What the control plane counts. One thread writes each cell: the access log's writer its own two,
/// the control thread those about DNS, the reload thread the others.
#[derive(Debug, Default)]
pub struct ControlCounters {
    /// The generation that is published (gauge).
    pub config_generation: Cell,
    /// When the files were last read without an error, in seconds since 1970 (gauge).
    pub config_last_success_s: Cell,
    reloads: [Cell; ReloadResult::ALL.len()],
    /// Names whose addresses are kept (gauge).
    pub dns_names: Cell,
    dns_resolutions: [Cell; DnsResult::ALL.len()],
    /// Lines of the access log that are written.
    pub access_log_lines: Cell,
    /// Lines of the access log that could not be written.
    pub access_log_lost: Cell,
}

impl ControlCounters {
    /// The counter of reloads that ended with `result`.
    #[must_use]
    pub fn reloads(&self, result: ReloadResult) -> &Cell {
        // One cell per variant, in the order of declaration.
        &self.reloads[result as usize]
    }

    /// The counter of names that were asked for with `result`.
    #[must_use]
    pub fn dns_resolutions(&self, result: DnsResult) -> &Cell {
        // One cell per variant, in the order of declaration.
        &self.dns_resolutions[result as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_never_share_a_pair_of_cache_lines() {
        assert_eq!(align_of::<WorkerCounters>(), 128);
        assert_eq!(size_of::<WorkerCounters>() % 128, 0);
    }

    #[test]
    fn each_close_reason_has_its_own_counter() {
        let counters = WorkerCounters::default();
        for (n, reason) in CloseReason::ALL.into_iter().enumerate() {
            counters.closed(reason).add(n as u64 + 1);
        }
        for (n, reason) in CloseReason::ALL.into_iter().enumerate() {
            assert_eq!(counters.closed(reason).get(), n as u64 + 1);
        }
    }

    #[test]
    fn each_reload_result_has_its_own_counter() {
        let counters = ControlCounters::default();
        counters.reloads(ReloadResult::Failure).add(1);
        assert_eq!(counters.reloads(ReloadResult::Success).get(), 0);
        assert_eq!(counters.reloads(ReloadResult::Failure).get(), 1);
        assert_eq!(counters.reloads(ReloadResult::Unchanged).get(), 0);
    }
}
