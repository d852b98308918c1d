//! What is known of each name: its addresses, how long they hold, and when it is asked for next.
//!
//! Pure: the time is an argument, the replies are values. Nothing here is random, so the schedule
//! of a run can be told from its replies.
//!
//! **Two questions.** The A and the AAAA records of a name are asked for, answered, retried and
//! dropped apart: who is silent about one family, server or firewall, does not hold up the other.
//!
//! **What a reply changes.** Addresses replace those of their family as the current ones; which
//! addresses vouch for the name, and for how long, is [`leases`]'s. A failure (SERVFAIL, nobody
//! answers) changes nothing, however long it lasts: DNS being down is no reason to cut off what
//! works. "There are none" (NXDOMAIN, or no address) is a statement, and nobody is to be sent to
//! addresses that somebody else may own by now (Envoy's STRICT_DNS drops them at once); but
//! resolvers that are starting make it falsely, so it has to hold for a while first, as in
//! HAProxy's `hold nx`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::metrics::DnsResult;
use crate::registry::Answers;
use crate::sniff::Name;

mod leases;
mod reply;
mod schedule;
mod view;

use leases::{Change, Leases};
pub(super) use reply::{Family, Reply};
pub(super) use schedule::{News, Schedule};
pub(in crate::control) use view::View;

/// Longer TTLs are not kept to by caches either (unbound's cache-max-ttl).
const LEASE_MAX: Duration = Duration::from_secs(24 * 3600);

/// The times that the schedule is made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timing {
    /// A shorter TTL counts as this.
    pub(super) ttl_min: Duration,
    /// A longer TTL counts as this.
    pub(super) ttl_max: Duration,
    /// From the first reply without addresses to the next question; doubles with each further one.
    pub(super) retry_min: Duration,
    /// What the doubling ends at.
    pub(super) retry_max: Duration,
    /// How long "there are none" must have been the reply until it is believed.
    pub(super) absence_hold: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            // The shortest that a TTL can say but 0, which would be asked for without a pause.
            ttl_min: Duration::from_secs(1),
            // Records with longer ones move, too, and nobody can tell Egret when they do.
            ttl_max: Duration::from_secs(3600),
            retry_min: Duration::from_secs(5),
            // Istio's dnsRefreshRate, which is its period after failures.
            retry_max: Duration::from_secs(60),
            // HAProxy's default for `hold nx`.
            absence_hold: Duration::from_secs(30),
        }
    }
}

/// What became of a reply.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Settled {
    /// For the counter.
    pub(super) result: DnsResult,
    /// Whether the name has other addresses than before.
    pub(super) is_changed: bool,
}

/// All names.
#[derive(Debug)]
pub(super) struct Book {
    timing: Timing,
    /// How long an answer vouches at least.
    grace: Duration,
    records: BTreeMap<Name, Record>,
    leases: Leases,
    /// When each name is asked for, by family; one that is being asked for is not in it.
    due: [BTreeSet<(Instant, Name)>; 2],
}

/// What is known of a name, by family.
type Record = [Schedule; 2];

impl Book {
    pub(super) fn new(timing: Timing) -> Self {
        Self {
            timing,
            grace: Duration::ZERO,
            records: BTreeMap::new(),
            leases: Leases::default(),
            due: Default::default(),
        }
    }

    /// Sets how long an answer vouches at least; leases that have begun stay as they are.
    pub(super) fn set_grace(&mut self, grace: Duration) {
        self.grace = grace;
    }

    /// Replaces the list of names. Those that stay keep what is known of them; the new ones are
    /// due at once.
    pub(super) fn want(&mut self, names: &BTreeSet<Name>, now: Instant) {
        self.records.retain(|name, _| names.contains(name));
        self.leases.retain(names);
        for due in &mut self.due {
            due.retain(|(_, name)| names.contains(name));
        }
        for name in names {
            if !self.records.contains_key(name) {
                self.records.insert(name.clone(), Record::default());
                Family::BOTH.into_iter().for_each(|family| self.schedule(name, family, now));
            }
        }
    }

    /// Makes every name due, those included that are being asked for.
    pub(super) fn ask_all(&mut self, now: Instant) {
        for family in Family::BOTH {
            self.due[family as usize].clear();
            for (name, record) in &mut self.records {
                record[family as usize].next = Some(now);
                self.due[family as usize].insert((now, name.clone()));
            }
        }
    }

    /// When the next name is due.
    pub(super) fn next_due(&self, family: Family) -> Option<Instant> {
        self.due[family as usize].first().map(|(time, _)| *time)
    }

    /// A name to ask for now, the one first that has waited longest.
    pub(super) fn take_due(&mut self, family: Family, now: Instant) -> Option<Name> {
        let due = &mut self.due[family as usize];
        due.first().filter(|(time, _)| *time <= now)?;
        let (_, name) = due.pop_first()?;
        if let Some(record) = self.records.get_mut(&name) {
            record[family as usize].next = None;
        }
        Some(name)
    }

    /// Takes in the reply about `name`; `None` if it is not wanted any more.
    pub(super) fn settle(
        &mut self,
        name: &Name,
        family: Family,
        reply: Reply,
        now: Instant,
    ) -> Option<Settled> {
        let question = &mut self.records.get_mut(name)?[family as usize];
        if let Some(next) = question.next {
            // It was dropped and wanted again while the question was under way.
            self.due[family as usize].remove(&(next, name.clone()));
        }
        let (news, wait) = question.take_in(reply.of_family(family), now, &self.timing);
        let (result, change) = match news {
            News::Addresses(addresses, told_ttl) => {
                // Workloads may use what they were told for as long as they were told.
                let times = (now, now + told_ttl.min(LEASE_MAX).max(self.grace));
                let addresses = addresses.into_iter().collect();
                (DnsResult::Success, self.leases.tell(name, family, &addresses, times))
            }
            News::Gone => {
                let change = self.leases.end_current(name, family, now);
                (self.result_of_absence(name), change)
            }
            News::PerhapsGone => (self.result_of_absence(name), Change::None),
            News::Failed => (DnsResult::Failure, Change::None),
        };
        self.schedule(name, family, now + wait);
        Some(Settled { result, is_changed: change == Change::Some })
    }

    /// A name that has addresses of the other family is as it should be.
    fn result_of_absence(&self, name: &Name) -> DnsResult {
        match self.leases.current(name).next() {
            Some(_) => DnsResult::Success,
            None => DnsResult::Empty,
        }
    }

    fn schedule(&mut self, name: &Name, family: Family, next: Instant) {
        if let Some(record) = self.records.get_mut(name) {
            record[family as usize].next = Some(next);
            self.due[family as usize].insert((next, name.clone()));
        }
    }

    /// When [`Self::expire`] may change something.
    pub(super) fn next_end(&self) -> Option<Instant> {
        self.leases.next_end()
    }

    /// Lets go of the addresses that vouch no more; returns whether there were any.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        self.leases.expire(now) == Change::Some
    }

    /// The addresses of all names that have any.
    pub(super) fn answers(&self) -> Answers {
        self.leases.answers()
    }

    /// Whether every name has an address, or was asked for in vain.
    pub(super) fn is_tried(&self) -> bool {
        self.records.iter().all(|(name, record)| {
            record.iter().all(|question| question.was_asked)
                || self.leases.current(name).next().is_some()
        })
    }

    /// How many names there are.
    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    /// How many addresses vouch for all names together.
    pub(super) fn addresses(&self) -> usize {
        self.leases.len()
    }

    /// How many addresses have left for want of room.
    pub(super) fn evicted(&self) -> u64 {
        self.leases.evicted()
    }

    /// How many names' last question went wrong.
    pub(super) fn failing(&self) -> usize {
        self.records.keys().filter(|name| self.error(name).is_some()).count()
    }

    /// What went wrong last with `name`, when, and how many current addresses it has nevertheless.
    pub(super) fn error(&self, name: &Name) -> Option<(String, Instant, usize)> {
        let current = self.leases.current(name).count();
        let (why, at) = view::error(self.records.get(name)?.each_ref(), current)?;
        Some((why, at, current))
    }

    /// Everything, for the admin server.
    pub(super) fn view(&self, now: Instant) -> Vec<View> {
        self.records.iter().map(|(name, record)| self.view_of(name, record, now)).collect()
    }

    fn view_of(&self, name: &Name, record: &Record, now: Instant) -> View {
        let current = self.leases.current(name).collect();
        View::new(name, current, self.leases.count(name), record.each_ref(), now)
    }
}

#[cfg(test)]
mod tests;
