//! What is known of each name: its addresses, how long they hold, and when it is asked for next.
//!
//! Pure: the time is an argument, the replies are values. Nothing here is random, so the schedule
//! of a run can be told from its replies.
//!
//! **What a reply changes.** Addresses replace those that were known. A failure (SERVFAIL, nobody
//! answers) changes nothing, however long it lasts: DNS being down is no reason to cut off what
//! works. "There are none" (NXDOMAIN, or no address) is a statement, and a name that is gone must
//! not vouch for addresses that somebody else may own by now (Envoy's STRICT_DNS drops them at
//! once); but resolvers that are starting make it falsely, so it has to hold for a while first, as
//! in HAProxy's `hold nx`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::control::LoopbackAnswers;
use crate::metrics::DnsResult;
use crate::registry::Answers;
use crate::sniff::Name;

/// Addresses of one name that are used; DNS over TCP can carry thousands.
const ADDRESSES_MAX: usize = 256;

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

/// The reply to the question for the addresses of one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reply {
    /// Addresses, and how long they hold.
    Addresses(Vec<IpAddr>, Duration),
    /// There are none; why.
    Absent(&'static str),
    /// Nobody answered, or nobody with an answer.
    Failed(String),
}

/// The replies to the two questions about one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Replies {
    /// To the question for A records.
    pub(super) v4: Reply,
    /// To the question for AAAA records.
    pub(super) v6: Reply,
}

/// What became of a name's replies.
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
    loopback: LoopbackAnswers,
    records: BTreeMap<Name, Record>,
    /// When each name is asked for; one that is being asked for is not in it.
    due: BTreeSet<(Instant, Name)>,
}

#[derive(Debug, Default)]
struct Record {
    /// Sorted; servers rotate them, which is no change.
    addresses: Vec<IpAddr>,
    /// When the last reply with addresses came, and until when it holds.
    answered: Option<(Instant, Instant)>,
    /// What went wrong last, and when; `None` once all is well.
    error: Option<(String, Instant)>,
    /// Replies in a row that were not what was hoped for.
    failures: u32,
    /// Since when the reply is "there are none".
    absent_since: Option<Instant>,
    /// The time in `due`.
    next: Option<Instant>,
    was_asked: bool,
}

/// One name for the admin server; times in whole seconds.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::control) struct View {
    name: String,
    addresses: Vec<IpAddr>,
    /// Until the answer runs out; 0 when it is kept for want of a newer one.
    ttl_left_s: Option<u64>,
    answer_age_s: Option<u64>,
    /// `null` while the question is under way.
    next_question_in_s: Option<u64>,
    error: Option<String>,
    error_age_s: Option<u64>,
}

impl Book {
    pub(super) fn new(timing: Timing, loopback: LoopbackAnswers) -> Self {
        Self { timing, loopback, records: BTreeMap::new(), due: BTreeSet::new() }
    }

    /// Replaces the list of names. Those that stay keep what is known of them; the new ones are
    /// due at once.
    pub(super) fn want(&mut self, names: &BTreeSet<Name>, now: Instant) {
        self.records.retain(|name, _| names.contains(name));
        self.due.retain(|(_, name)| names.contains(name));
        for name in names {
            if !self.records.contains_key(name) {
                self.schedule(name, Record::default(), now);
            }
        }
    }

    /// Makes every name due, those included that are being asked for.
    pub(super) fn ask_all(&mut self, now: Instant) {
        self.due.clear();
        for (name, record) in &mut self.records {
            record.next = Some(now);
            self.due.insert((now, name.clone()));
        }
    }

    /// When the next name is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(time, _)| *time)
    }

    /// A name to ask for now, the one first that has waited longest.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Name> {
        self.due.first().filter(|(time, _)| *time <= now)?;
        let (_, name) = self.due.pop_first()?;
        if let Some(record) = self.records.get_mut(&name) {
            record.next = None;
        }
        Some(name)
    }

    /// Takes in the replies about `name`; `None` if it is not wanted any more.
    pub(super) fn settle(
        &mut self,
        name: &Name,
        replies: Replies,
        now: Instant,
    ) -> Option<Settled> {
        let mut record = self.records.remove(name)?;
        if let Some(next) = record.next {
            // It was dropped and wanted again while the question was under way.
            self.due.remove(&(next, name.clone()));
        }
        let replies = replies.usable(self.loopback);
        let before = record.addresses.clone();
        let (result, wait) = record.take_in(replies, now, &self.timing);
        let is_changed = record.addresses != before;
        self.schedule(name, record, now + wait);
        Some(Settled { result, is_changed })
    }

    fn schedule(&mut self, name: &Name, mut record: Record, next: Instant) {
        record.next = Some(next);
        self.due.insert((next, name.clone()));
        self.records.insert(name.clone(), record);
    }

    /// The addresses of all names that have any.
    pub(super) fn answers(&self) -> Answers {
        let mut answers = Answers::default();
        for (name, record) in self.records.iter().filter(|(_, r)| !r.addresses.is_empty()) {
            answers.insert(name.clone(), record.addresses.iter().copied());
        }
        answers
    }

    /// Whether every name was asked for at least once, with whatever outcome.
    pub(super) fn is_tried(&self) -> bool {
        self.records.values().all(|record| record.was_asked)
    }

    /// How many names there are.
    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    /// How many names' last question went wrong.
    pub(super) fn failing(&self) -> usize {
        self.records.values().filter(|record| record.error.is_some()).count()
    }

    /// What went wrong last with `name`, and how many addresses it has nevertheless.
    pub(super) fn error(&self, name: &Name) -> Option<(&str, usize)> {
        let record = self.records.get(name)?;
        record.error.as_ref().map(|(error, _)| (error.as_str(), record.addresses.len()))
    }

    /// Everything, for the admin server.
    pub(super) fn view(&self, now: Instant) -> Vec<View> {
        self.records.iter().map(|(name, record)| record.view(name, now)).collect()
    }
}

impl Record {
    /// Takes in the replies; returns what they came to, and the time until the next question.
    fn take_in(
        &mut self,
        replies: Replies,
        now: Instant,
        timing: &Timing,
    ) -> (DnsResult, Duration) {
        self.was_asked = true;
        let (mut found, mut ttl, mut kept) = (Vec::new(), None, Vec::new());
        let (mut absence, mut failure) = (None, None);
        for (reply, is_v6) in [(replies.v4, false), (replies.v6, true)] {
            match reply {
                Reply::Addresses(addresses, holds) => {
                    found.extend(addresses);
                    ttl = Some(ttl.map_or(holds, |other: Duration| other.min(holds)));
                }
                Reply::Absent(why) => absence = Some(why),
                Reply::Failed(why) => {
                    kept.extend(self.addresses.iter().filter(|ip| ip.is_ipv6() == is_v6));
                    failure = Some(why);
                }
            }
        }
        if !found.is_empty() {
            let ttl = ttl.unwrap_or_default().clamp(timing.ttl_min, timing.ttl_max);
            self.answered = Some((now, now + ttl));
            self.absent_since = None;
            self.addresses = sorted(found.into_iter().chain(kept));
            self.error = failure.map(|why| (why, now));
            self.failures = if self.error.is_some() { self.failures.saturating_add(1) } else { 0 };
            let wait = if self.failures > 0 { ttl.min(self.back_off(timing)) } else { ttl };
            return (DnsResult::Success, wait);
        }
        self.failures = self.failures.saturating_add(1);
        let result = if let Some(why) = failure {
            self.error = Some((why, now));
            DnsResult::Failure
        } else {
            self.error = Some((absence.unwrap_or_default().into(), now));
            let since = *self.absent_since.get_or_insert(now);
            if now.saturating_duration_since(since) >= timing.absence_hold {
                self.addresses.clear();
            }
            DnsResult::Empty
        };
        (result, self.back_off(timing))
    }

    fn back_off(&self, timing: &Timing) -> Duration {
        let doublings = self.failures.saturating_sub(1).min(16);
        timing.retry_min.saturating_mul(1 << doublings).min(timing.retry_max)
    }

    fn view(&self, name: &Name, now: Instant) -> View {
        let until = |time: Instant| time.saturating_duration_since(now).as_secs();
        let since = |time: Instant| now.saturating_duration_since(time).as_secs();
        View {
            name: name.as_str().into(),
            addresses: self.addresses.clone(),
            ttl_left_s: self.answered.map(|(_, expires)| until(expires)),
            answer_age_s: self.answered.map(|(at, _)| since(at)),
            next_question_in_s: self.next.map(until),
            error: self.error.as_ref().map(|(error, _)| error.clone()),
            error_age_s: self.error.as_ref().map(|(_, at)| since(*at)),
        }
    }
}

impl Replies {
    /// Without the addresses that Egret must not connect to.
    fn usable(self, loopback: LoopbackAnswers) -> Self {
        let [v4, v6] = [self.v4, self.v6].map(|reply| match reply {
            Reply::Addresses(mut addresses, ttl) => {
                addresses.retain(|ip| is_usable(*ip, loopback));
                match addresses.is_empty() {
                    true => Reply::Absent("no address that a workload may be led to"),
                    false => Reply::Addresses(addresses, ttl),
                }
            }
            other => other,
        });
        Self { v4, v6 }
    }
}

/// Whether connections on behalf of workloads may go to what a name's owner says. Not where only
/// this node's own processes can go: to its loopback servers (Linux takes the unspecified address
/// for loopback, too, and filtering resolvers answer with it) and to link-local ones, the clouds'
/// metadata service among them. The redirect rules leave both alone for the same reason.
fn is_usable(ip: IpAddr, loopback: LoopbackAnswers) -> bool {
    match ip.to_canonical() {
        ip if ip.is_loopback() => loopback == LoopbackAnswers::Accepted,
        ip if ip.is_unspecified() || ip.is_multicast() => false,
        IpAddr::V4(v4) => !(v4.is_link_local() || v4.is_broadcast()),
        IpAddr::V6(v6) => !v6.is_unicast_link_local(),
    }
}

/// In order, each once, and not too many.
fn sorted(addresses: impl IntoIterator<Item = IpAddr>) -> Vec<IpAddr> {
    let sorted: BTreeSet<IpAddr> = addresses.into_iter().map(|ip| ip.to_canonical()).collect();
    sorted.into_iter().take(ADDRESSES_MAX).collect()
}

#[cfg(test)]
mod tests;
