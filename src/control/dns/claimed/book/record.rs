//! What is known of one name that workloads claim, and who waits for it.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::sources::Sources;
use crate::control::dns::book::{Family, News, Reply, Schedule, Timing};
use crate::metrics::DnsResult;
use crate::questions::Found;
use crate::sniff::Name;

/// Addresses of one family that are kept of a name: as many as one answer without TCP has.
pub(super) const ADDRESSES_MAX: usize = 64;

/// What is known of a name.
#[derive(Debug)]
pub(super) struct Record {
    /// Whose share of the names it is in: who has claimed it first.
    pub(super) source: IpAddr,
    /// When a connection has needed it last, to the second.
    pub(super) used: Instant,
    pub(super) families: [Known; 2],
    pub(super) stage: Stage,
    pub(super) waiting: Vec<Waiting>,
    /// The time in [`super::ClaimedBook::settling`].
    pub(super) answer_at: Option<Instant>,
}

/// What is known of the addresses of one family.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) schedule: Schedule,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) is_asked: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stage {
    Idle,
    /// It is to be asked for, when it is the turn of one of these.
    Queued(Vec<IpAddr>),
    /// It is being asked for, out of this source's share.
    Asked(IpAddr),
}

/// A connection that waits.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) source: IpAddr,
    pub(super) worker: usize,
    pub(super) connection: u64,
    pub(super) until: Instant,
}

impl Record {
    /// A name that `source` has claimed.
    pub(super) fn new(source: IpAddr, now: Instant) -> Self {
        Self {
            source,
            used: now,
            families: Default::default(),
            stage: Stage::Idle,
            waiting: Vec::new(),
            answer_at: None,
        }
    }

    /// A connection needs it.
    pub(super) fn use_it(&mut self, name: &Name, sources: &mut Sources, now: Instant) {
        if now.saturating_duration_since(self.used) < Duration::from_secs(1) {
            return;
        }
        if self.stage == Stage::Idle {
            let idle = &mut sources.of(self.source).idle;
            idle.remove(&(self.used, name.clone()));
            idle.insert((now, name.clone()));
        }
        self.used = now;
    }

    /// It is not asked for any more, or will not be.
    pub(super) fn rest(&mut self, name: &Name, sources: &mut Sources) {
        self.stage = Stage::Idle;
        sources.of(self.source).idle.insert((self.used, name.clone()));
    }

    /// What a connection is told at once; `None`: it waits.
    pub(super) fn answer(&self, now: Instant) -> Option<Found> {
        let is_settling = self.answer_at.is_some_and(|at| at > now);
        let is_fresh = self.families.iter().any(|known| known.is_fresh(now));
        let is_settled = self.stage == Stage::Idle && !self.is_due(now);
        (is_fresh && !is_settling || is_settled).then(|| self.found())
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.families.iter().any(|known| known.is_due(now))
    }

    pub(super) fn has_addresses(&self) -> bool {
        self.families.iter().any(|known| !known.addresses.is_empty())
    }

    pub(super) fn addresses(&self) -> Vec<IpAddr> {
        self.families.iter().flat_map(|known| known.addresses.iter().copied()).collect()
    }

    pub(super) fn found(&self) -> Found {
        match self.has_addresses() {
            true => Found::Addresses(self.addresses().into()),
            false => Found::Nothing,
        }
    }
}

impl Known {
    pub(super) fn take_in(
        &mut self,
        family: Family,
        reply: Reply,
        now: Instant,
        timing: &Timing,
    ) -> DnsResult {
        self.is_asked = false;
        let (news, wait) = self.schedule.take_in(reply.of_family(family), now, timing);
        self.schedule.next = Some(now + wait);
        match news {
            News::Addresses(mut addresses, _) => {
                addresses.truncate(ADDRESSES_MAX);
                self.addresses = addresses;
                DnsResult::Success
            }
            News::Gone => {
                self.addresses.clear();
                DnsResult::Empty
            }
            News::PerhapsGone => DnsResult::Empty,
            News::Failed => DnsResult::Failure,
        }
    }

    /// The last answer with addresses holds.
    pub(super) fn is_fresh(&self, now: Instant) -> bool {
        let holds = self.schedule.answered.is_some_and(|(_, until)| until > now);
        holds && !self.addresses.is_empty()
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        !self.is_asked && self.schedule.next.is_none_or(|next| next <= now)
    }

    /// Another server is to be asked.
    pub(super) fn forget_question(&mut self, now: Instant) {
        self.is_asked = false;
        self.schedule.next = Some(now);
    }
}
