//! What one worker counts beside the series, and what the control plane counts about itself.
//!
//! Each structure has one writing thread; every other thread only reads. They hold numbers, and
//! know neither names nor formats (see `catalogue`).

use std::collections::BTreeMap;
use std::ops::Deref;
use std::path::Path;
use std::sync::{Mutex, MutexGuard};

use strum::{EnumCount, IntoStaticStr, VariantArray};

use super::timing::lock;
use super::{Cell, CloseReason};
use crate::http1::FramingError;
use crate::http2::{FrameError, FrameErrorKind};
use crate::judge::{RequestError, RequestErrorKind};
use crate::sniff::{NameError, OpaqueReason};
use crate::upstream_guard::Refused;

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
    pub(super) closed: [Cell; CloseReason::COUNT],
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
    pub(super) detected: [Cell; Detected::COUNT],
    /// Connections whose first bytes are held or awaited now (gauge).
    pub detecting: Cell,
    /// Bytes that are held for detection now (gauge).
    pub detecting_bytes: Cell,
    /// Names that decided and are verified by nothing.
    pub unverified_names: Cell,
    pub(super) resolved_claims: [Cell; ResolvedClaim::COUNT],
    /// Requests that name two hosts.
    pub name_conflicts: Cell,
    pub(super) junk_names: [Cell; NameError::COUNT],
    pub(super) refused_requests: Cells<{ RequestErrorKind::COUNT }>,
    pub(super) unjudged_requests: Cells<{ RequestErrorKind::COUNT }>,
    pub(super) unasked_answers: [Cell; UnaskedStatus::COUNT],
    pub(super) unframed_answers: [Cell; FramingError::COUNT],
    pub(super) refused_frames: [Cell; FrameErrorKind::COUNT],
    pub(super) refused_upstreams: [Cell; Refused::COUNT],
    /// Connects to private addresses that DNS gave.
    pub private_upstreams: Cell,
    /// Upstream connections that gave way to another one.
    pub upstream_switches: Cell,
    /// HTTP/2 requests that were blocked behind an allowed one.
    pub blocked_streams: Cell,
    /// Lines of the access log that found the queue full.
    pub access_log_dropped: Cell,
    /// Bytes that wait for a decision now (gauge).
    pub held_bytes: Cell,
    pub(super) shed: [Cell; Shed::COUNT],
}

/// One cell for each variant of an enum that has more of them than an array with a default.
#[derive(Debug)]
pub(super) struct Cells<const N: usize>([Cell; N]);

impl<const N: usize> Default for Cells<N> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Cell::default()))
    }
}

impl<const N: usize> Deref for Cells<N> {
    type Target = [Cell];

    fn deref(&self) -> &[Cell] {
        &self.0
    }
}

// An enum's value is the index of its cell: each array has one cell per variant, in the order of
// declaration.
impl WorkerCounters {
    /// The counter of connections that ended for `reason`.
    #[must_use]
    pub fn closed(&self, reason: CloseReason) -> &Cell {
        &self.closed[reason as usize]
    }

    /// The counter of `what` was shed so that others have their share.
    #[must_use]
    pub fn shed(&self, what: Shed) -> &Cell {
        &self.shed[what as usize]
    }

    /// The counter of connections of which detection found `what`.
    #[must_use]
    pub fn detected(&self, what: Detected) -> &Cell {
        &self.detected[what as usize]
    }

    /// The counter of names that were claimed, and resolved with this result.
    #[must_use]
    pub fn resolved_claims(&self, result: ResolvedClaim) -> &Cell {
        &self.resolved_claims[result as usize]
    }

    /// The counter of server names that are none, for `reason`.
    #[must_use]
    pub fn junk_names(&self, reason: NameError) -> &Cell {
        &self.junk_names[reason as usize]
    }

    /// The counter of requests refused for `reason`.
    #[must_use]
    pub fn refused_requests(&self, reason: RequestError) -> &Cell {
        &self.refused_requests[RequestErrorKind::from(reason) as usize]
    }

    /// The counter of requests that passed without judgement, for `reason`.
    #[must_use]
    pub fn unjudged_requests(&self, reason: RequestError) -> &Cell {
        &self.unjudged_requests[RequestErrorKind::from(reason) as usize]
    }

    /// The counter of answers that nothing asked for, by their status.
    #[must_use]
    pub fn unasked_answers(&self, status: UnaskedStatus) -> &Cell {
        &self.unasked_answers[status as usize]
    }

    /// The counter of HTTP/2 connections that were refused for `reason`.
    #[must_use]
    pub fn refused_frames(&self, reason: FrameError) -> &Cell {
        &self.refused_frames[FrameErrorKind::from(reason) as usize]
    }

    /// The counter of upstream addresses that were not connected to for `why`.
    #[must_use]
    pub fn refused_upstreams(&self, why: Refused) -> &Cell {
        &self.refused_upstreams[why as usize]
    }

    /// The counter of answers whose framing was lost for `reason`.
    #[must_use]
    pub fn unframed_answers(&self, reason: FramingError) -> &Cell {
        &self.unframed_answers[reason as usize]
    }
}

/// What detection found out about a connection, or why it did not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EnumCount, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum Detected {
    /// A whole ClientHello.
    Tls,
    /// A request line of HTTP/1.
    Http1,
    /// The preface of HTTP/2.
    Http2,
    /// Nothing that is known here ([`OpaqueReason::UnknownProtocol`]).
    #[strum(serialize = "not_recognised")]
    Unknown,
    /// More than detection looks at ([`OpaqueReason::TooLarge`]).
    TooLarge,
    /// Almost TLS ([`OpaqueReason::BadTls`]).
    BadTls,
    /// Not enough came in `names.deadline`.
    Deadline,
    /// The connection, or the downstream's half of it, ended before.
    Ended,
    /// The server spoke first.
    ServerFirst,
}

impl From<OpaqueReason> for Detected {
    fn from(reason: OpaqueReason) -> Self {
        match reason {
            OpaqueReason::UnknownProtocol => Self::Unknown,
            OpaqueReason::TooLarge => Self::TooLarge,
            OpaqueReason::BadTls => Self::BadTls,
        }
    }
}

/// What came of a name that a workload has claimed, and Egret has resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EnumCount, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum ResolvedClaim {
    /// The workload meant to go to one of the name's addresses.
    Same,
    /// It meant to go elsewhere.
    Other,
    /// No address came in `names.deadline`.
    None,
}

/// The status of an answer that nothing asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EnumCount, IntoStaticStr, VariantArray)]
pub enum UnaskedStatus {
    /// 408: a server gives up an idle connection.
    #[strum(serialize = "408")]
    RequestTimeout,
    /// An interim answer.
    #[strum(serialize = "1xx")]
    Interim,
    /// A success.
    #[strum(serialize = "2xx")]
    Success,
    /// A redirection.
    #[strum(serialize = "3xx")]
    Redirection,
    /// The client's fault.
    #[strum(serialize = "4xx")]
    ClientError,
    /// The server's fault.
    #[strum(serialize = "5xx")]
    ServerError,
    /// No status line, or not all of it.
    #[strum(serialize = "none")]
    None,
}

impl UnaskedStatus {
    /// The status of the answer that `bytes` begin with.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let begin = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).unwrap_or(0);
        let line = bytes[begin..].strip_prefix(b"HTTP/1.").and_then(|rest| rest.get(2..5));
        match line {
            Some(b"408") => Self::RequestTimeout,
            Some([b'1', ..]) => Self::Interim,
            Some([b'2', ..]) => Self::Success,
            Some([b'3', ..]) => Self::Redirection,
            Some([b'4', ..]) => Self::ClientError,
            Some([b'5', ..]) => Self::ServerError,
            Some(_) | None => Self::None,
        }
    }
}

/// What a source is refused, or has to give back, so that the others have their share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EnumCount, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum Shed {
    /// A connection of a source that has its share.
    Connections,
    /// A connection that had sent nothing yet.
    Waiting,
    /// A connection that held most.
    HeldBytes,
    /// A label set of a source that has its share.
    Series,
    /// A line of the access log of a source that has its share.
    LogLines,
    /// A question for the addresses of a name that a workload has claimed.
    Names,
}

/// What came of a reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EnumCount, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum ReloadResult {
    /// A new generation was published.
    Success,
    /// The files were refused, or documents in them; what was good before serves in their place.
    Failure,
    /// The files say what they said before.
    Unchanged,
}

/// What came of asking DNS for the addresses of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EnumCount, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum DnsResult {
    /// Addresses.
    Success,
    /// No answer, or an error; the addresses that were known are kept.
    Failure,
    /// The name does not exist, or has no address.
    Empty,
}

/// What the control plane counts. One thread writes each cell: the access log's writer its own two,
/// the control thread those about DNS, the reload thread the others.
#[derive(Debug, Default)]
pub struct ControlCounters {
    /// The generation that is published (gauge).
    pub config_generation: Cell,
    /// When the files were last read without an error, in seconds since 1970 (gauge).
    pub config_last_success_s: Cell,
    pub(super) reloads: [Cell; ReloadResult::COUNT],
    /// Documents that are not taken from the file that has them, by file (gauge).
    refused_documents: Mutex<BTreeMap<Box<str>, u64>>,
    /// Names whose addresses are kept (gauge).
    pub dns_names: Cell,
    pub(super) dns_resolutions: [Cell; DnsResult::COUNT],
    /// Addresses that vouch for a name (gauge).
    pub dns_addresses: Cell,
    /// Addresses that have left before their time.
    pub dns_evicted: Cell,
    /// Names that workloads have claimed and Egret has resolved (gauge).
    pub dns_claimed_names: Cell,
    /// Lines of the access log that are written.
    pub access_log_lines: Cell,
    /// Lines of the access log that could not be written.
    pub access_log_lost: Cell,
}

// The index of a cell is the enum's value, as above.
impl ControlCounters {
    /// The counter of reloads that ended with `result`.
    #[must_use]
    pub fn reloads(&self, result: ReloadResult) -> &Cell {
        &self.reloads[result as usize]
    }

    /// Of each of these files one more document is refused; of all others, none.
    pub fn set_refused_documents<'a>(&self, files: impl Iterator<Item = &'a Path>) {
        let mut by_file = BTreeMap::new();
        for file in files {
            *by_file.entry(file.to_string_lossy().into()).or_default() += 1;
        }
        *self.by_file() = by_file;
    }

    /// How many documents are refused, by file.
    #[must_use]
    pub fn refused_documents(&self) -> BTreeMap<Box<str>, u64> {
        self.by_file().clone()
    }

    fn by_file(&self) -> MutexGuard<'_, BTreeMap<Box<str>, u64>> {
        lock(&self.refused_documents)
    }

    /// The counter of questions about names that ended with `result`.
    #[must_use]
    pub fn dns_resolutions(&self, result: DnsResult) -> &Cell {
        &self.dns_resolutions[result as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http2::hpack::HpackError;
    use crate::metrics::MetricsHub;

    #[test]
    fn workers_never_share_a_pair_of_cache_lines() {
        let hub = MetricsHub::new(1, 1);
        let mut pairs: Vec<usize> = (0..16)
            .flat_map(|id| {
                let counters = hub.worker(id).counters;
                let first = std::ptr::from_ref(&*counters).addr();
                first / 128..=(first + size_of::<WorkerCounters>() - 1) / 128
            })
            .collect();
        let all = pairs.len();
        pairs.sort_unstable();
        pairs.dedup();
        assert_eq!(pairs.len(), all);
    }

    fn have_cells_of_their_own<E: Copy>(values: &[E], cell: impl Fn(E) -> *const Cell) {
        let mut cells: Vec<_> = values.iter().map(|value| cell(*value)).collect();
        cells.sort_unstable();
        cells.dedup();
        assert_eq!(cells.len(), values.len());
    }

    #[test]
    fn every_value_has_a_counter_of_its_own() {
        let (w, c) = (WorkerCounters::default(), ControlCounters::default());
        have_cells_of_their_own(CloseReason::VARIANTS, |one| w.closed(one));
        have_cells_of_their_own(Shed::VARIANTS, |one| w.shed(one));
        have_cells_of_their_own(Detected::VARIANTS, |one| w.detected(one));
        have_cells_of_their_own(ResolvedClaim::VARIANTS, |one| w.resolved_claims(one));
        have_cells_of_their_own(NameError::VARIANTS, |one| w.junk_names(one));
        have_cells_of_their_own(UnaskedStatus::VARIANTS, |one| w.unasked_answers(one));
        have_cells_of_their_own(FramingError::VARIANTS, |one| w.unframed_answers(one));
        have_cells_of_their_own(Refused::VARIANTS, |one| w.refused_upstreams(one));
        have_cells_of_their_own(ReloadResult::VARIANTS, |one| c.reloads(one));
        have_cells_of_their_own(DnsResult::VARIANTS, |one| c.dns_resolutions(one));
    }

    #[test]
    fn a_reason_with_details_counts_as_one_whatever_they_are() {
        let counters = WorkerCounters::default();
        for details in NameError::VARIANTS {
            counters.refused_requests(RequestError::BadHost(*details)).add(1);
        }
        counters.refused_frames(FrameError::Hpack(HpackError::Truncated)).add(1);
        counters.refused_frames(FrameError::Hpack(HpackError::ListTooLarge)).add(1);
        let all = NameError::COUNT as u64;
        assert_eq!(counters.refused_requests(RequestError::BadHost(NameError::Empty)).get(), all);
        assert_eq!(counters.refused_frames(FrameError::Hpack(HpackError::Truncated)).get(), 2);
        // The last of each list.
        assert_eq!(counters.refused_requests(RequestError::PseudoInTrailers).get(), 0);
        assert_eq!(counters.refused_frames(FrameError::BadPadding).get(), 0);
    }
}
