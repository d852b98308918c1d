//! What is known of the names that workloads claim: their addresses, who waits for them, and whose
//! turn it is to have one asked for.
//!
//! Pure: the time is an argument, the replies are values.
//!
//! A name is asked for when a connection needs it, and again when that happens after its TTL has
//! run out; nothing is asked for in advance. What a reply means is the same as for the names of the
//! registry ([`Schedule`]): a failure leaves the addresses as they were.
//!
//! Workloads choose the names, and the owner of a domain chooses how long its server is silent. So
//! each source has a share of everything: of the names that are kept, of those that are asked for
//! at a time, and of the connections that wait. Sources that have names to be asked for take turns.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::control::dns::book::{Family, Reply, Timing, View};
use crate::metrics::DnsResult;
use crate::questions::{Found, Question};
use crate::sniff::Name;

mod record;
mod sources;

use record::{Record, Stage, Waiting};
use sources::Sources;

/// Names that are kept. With [`record::ADDRESSES_MAX`] they take 10 MB at most.
const NAMES_MAX: usize = 4_096;
/// Of them, those of one source.
const NAMES_PER_SOURCE_MAX: usize = NAMES_MAX / 4;
/// Names that are asked for at a time; each by two questions.
const ASKED_MAX: usize = 64;
/// Of them, those of one source.
const ASKED_PER_SOURCE_MAX: usize = ASKED_MAX / 4;
/// Beside them, of sources that have none asked for, one each. Else a few sources whose names
/// nobody answers would hold up all others, for longer than a connection waits.
const ASKED_BESIDE_MAX: usize = 64;
/// Connections of one source that wait.
const WAITING_PER_SOURCE_MAX: usize = 4_096;
/// A name that no connection has needed for so long is forgotten (Envoy's default `host_ttl`).
const UNUSED_MAX: Duration = Duration::from_secs(300);
/// How often those are looked for.
const EXPIRY_PERIOD: Duration = Duration::from_secs(10);
/// How long the first addresses wait for those of the other family (RFC 8305 section 3).
const RESOLUTION_DELAY: Duration = Duration::from_millis(50);

/// See the module.
#[derive(Debug)]
pub(in crate::control::dns) struct ClaimedBook {
    timing: Timing,
    records: HashMap<Name, Record>,
    sources: Sources,
    /// Names that are being asked for.
    asked: usize,
    /// Names that have their first addresses, and when their connections are told.
    settling: BTreeSet<(Instant, Name)>,
    next_expiry: Option<Instant>,
}

/// What a connection is told.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::control::dns) struct Answer {
    pub(in crate::control::dns) name: Name,
    pub(in crate::control::dns) worker: usize,
    pub(in crate::control::dns) connection: u64,
    pub(in crate::control::dns) found: Found,
}

impl ClaimedBook {
    pub(in crate::control::dns) fn new(timing: Timing) -> Self {
        Self {
            timing,
            records: HashMap::new(),
            sources: Sources::default(),
            asked: 0,
            settling: BTreeSet::new(),
            next_expiry: None,
        }
    }

    /// A connection needs a name, and waits until `until`; the answer, if there is one now.
    pub(in crate::control::dns) fn ask(
        &mut self,
        question: Question,
        until: Instant,
        now: Instant,
    ) -> Option<Answer> {
        let Question { name, source, worker, connection } = question;
        let answer = |name, found| Some(Answer { name, worker, connection, found });
        if !self.records.contains_key(&name) && !self.insert(&name, source, now) {
            return answer(name, Found::NoRoom);
        }
        let record = self.records.get_mut(&name)?;
        record.use_it(&name, &mut self.sources, now);
        let known = record.answer(now);
        if (known.is_none() || record.is_due(now)) && !self.enqueue(&name, source) {
            return answer(name, known.unwrap_or(Found::NoRoom));
        }
        if known.is_some() {
            return answer(name, known?);
        }
        let own = self.sources.of(source);
        if own.waiting == WAITING_PER_SOURCE_MAX {
            return answer(name, Found::NoRoom);
        }
        own.waiting += 1;
        let record = self.records.get_mut(&name)?;
        record.waiting.push(Waiting { source, worker, connection, until });
        None
    }

    /// The next name to ask for, and about which families.
    pub(in crate::control::dns) fn next_to_ask(
        &mut self,
        now: Instant,
    ) -> Option<(Name, Vec<Family>)> {
        while self.asked < ASKED_MAX + ASKED_BESIDE_MAX {
            let of_one = if self.asked < ASKED_MAX { ASKED_PER_SOURCE_MAX } else { 1 };
            let (source, name) = self.sources.next_in_turn(of_one)?;
            let families = self.begin(&name, source, now);
            if !families.is_empty() {
                return Some((name, families));
            }
            self.sources.drop_unused(source);
        }
        None
    }

    /// Takes in a reply: what came of the question, and who is told what.
    pub(in crate::control::dns) fn settle(
        &mut self,
        name: &Name,
        family: Family,
        reply: Reply,
        now: Instant,
    ) -> (DnsResult, Vec<Answer>) {
        let Some(record) = self.records.get_mut(name) else { return (DnsResult::Empty, vec![]) };
        let result = record.families[family as usize].take_in(family, reply, now, &self.timing);
        let has_addresses = record.has_addresses();
        if record.families.iter().any(|known| known.is_asked) {
            if has_addresses && record.answer_at.is_none() && !record.waiting.is_empty() {
                record.answer_at = Some(now + RESOLUTION_DELAY);
                self.settling.insert((now + RESOLUTION_DELAY, name.clone()));
            }
            return (result, Vec::new());
        }
        if let Stage::Asked(by) = record.stage {
            self.asked -= 1;
            self.sources.of(by).asked -= 1;
            record.rest(name, &mut self.sources);
            self.sources.drop_unused(by);
        }
        (result, self.tell(name, now))
    }

    /// What is due by `now`: connections that are told what is known, names that are forgotten.
    pub(in crate::control::dns) fn on_time(&mut self, now: Instant) -> Vec<Answer> {
        let mut answers = Vec::new();
        while let Some((_, name)) = self.settling.first().filter(|(at, _)| *at <= now).cloned() {
            answers.extend(self.tell(&name, now));
        }
        if self.next_expiry.is_some_and(|at| at <= now) {
            let unused = self.sources.unused_since(now.checked_sub(UNUSED_MAX));
            unused.iter().for_each(|name| self.remove(name));
            self.next_expiry = (!self.records.is_empty()).then_some(now + EXPIRY_PERIOD);
        }
        answers
    }

    /// When [`Self::on_time`] may have something to do.
    pub(in crate::control::dns) fn next_time(&self) -> Option<Instant> {
        let settled = self.settling.first().map(|(at, _)| *at);
        settled.into_iter().chain(self.next_expiry).min()
    }

    /// The questions under way are lost, and are the next ones of those that asked them.
    pub(in crate::control::dns) fn ask_all(&mut self, now: Instant) {
        for (name, record) in &mut self.records {
            record.families.iter_mut().for_each(|known| known.forget_question(now));
            if let Stage::Asked(by) = record.stage {
                record.stage = Stage::Queued(vec![by]);
                let own = self.sources.of(by);
                own.asked -= 1;
                own.queue.push_front(name.clone());
                self.sources.put_in_turn(by);
            }
        }
        self.asked = 0;
    }

    /// How many names are kept.
    pub(in crate::control::dns) fn len(&self) -> usize {
        self.records.len()
    }

    /// Everything, for the admin server.
    pub(in crate::control::dns) fn view(&self, now: Instant) -> Vec<View> {
        let view = |(name, record): (&Name, &Record)| {
            let schedules = record.families.each_ref().map(|known| &known.schedule);
            View::claimed(name, record.addresses(), schedules, now)
        };
        let mut all: Vec<View> = self.records.iter().map(view).collect();
        all.sort_by(|one, other| one.name.cmp(&other.name));
        all
    }

    /// Makes a record, if there is room for one.
    fn insert(&mut self, name: &Name, source: IpAddr, now: Instant) -> bool {
        if self.sources.names(source) >= NAMES_PER_SOURCE_MAX {
            let Some(oldest) = self.sources.oldest_idle(source) else { return false };
            self.remove(&oldest);
        }
        if self.records.len() >= NAMES_MAX {
            let Some(oldest) = self.sources.oldest_idle_of_greediest() else { return false };
            self.remove(&oldest);
        }
        let own = self.sources.of(source);
        own.names += 1;
        own.idle.insert((now, name.clone()));
        let record = Record::new(source, now);
        self.records.insert(name.clone(), record);
        self.next_expiry.get_or_insert(now + EXPIRY_PERIOD);
        true
    }

    fn remove(&mut self, name: &Name) {
        let Some(record) = self.records.remove(name) else { return };
        let own = self.sources.of(record.source);
        own.names -= 1;
        own.idle.remove(&(record.used, name.clone()));
        self.sources.drop_unused(record.source);
    }

    /// `source` wants the name to be asked for; whether there is room for that.
    fn enqueue(&mut self, name: &Name, source: IpAddr) -> bool {
        let Some(record) = self.records.get_mut(name) else { return false };
        let own = self.sources.of(source);
        let has_room = own.queue.len() < NAMES_PER_SOURCE_MAX;
        match &mut record.stage {
            Stage::Asked(_) => return true,
            Stage::Queued(by) if by.contains(&source) => return true,
            _ if !has_room => return false,
            Stage::Queued(by) => by.push(source),
            Stage::Idle => {
                self.sources.of(record.source).idle.remove(&(record.used, name.clone()));
                record.stage = Stage::Queued(vec![source]);
            }
        }
        self.sources.of(source).queue.push_back(name.clone());
        self.sources.put_in_turn(source);
        true
    }

    /// It is the turn of `source`, and of this name in its queue: the families to ask about.
    fn begin(&mut self, name: &Name, source: IpAddr, now: Instant) -> Vec<Family> {
        let Some(record) = self.records.get_mut(name) else { return Vec::new() };
        match &record.stage {
            Stage::Queued(by) if by.contains(&source) => {}
            // Another source's turn came first.
            Stage::Queued(_) | Stage::Asked(_) | Stage::Idle => return Vec::new(),
        }
        let is_late = !record.waiting.is_empty() && record.waiting.iter().all(|w| w.until <= now);
        let due = |family: &Family| record.families[*family as usize].is_due(now) && !is_late;
        let families: Vec<Family> = Family::BOTH.into_iter().filter(due).collect();
        if families.is_empty() {
            // Nobody waits any more, or nothing is to be asked.
            record.rest(name, &mut self.sources);
            self.sources.stop_waiting(&std::mem::take(&mut record.waiting));
            return families;
        }
        families.iter().for_each(|family| record.families[*family as usize].is_asked = true);
        record.stage = Stage::Asked(source);
        self.asked += 1;
        self.sources.of(source).asked += 1;
        families
    }

    /// Tells those that wait for `name` what is known.
    fn tell(&mut self, name: &Name, now: Instant) -> Vec<Answer> {
        let Some(record) = self.records.get_mut(name) else { return Vec::new() };
        if let Some(at) = record.answer_at.take() {
            self.settling.remove(&(at, name.clone()));
        }
        let found = record.found();
        let waiting = std::mem::take(&mut record.waiting);
        self.sources.stop_waiting(&waiting);
        let in_time = waiting.into_iter().filter(|one| one.until > now);
        let answer = |Waiting { worker, connection, .. }| {
            let (name, found) = (name.clone(), found.clone());
            Answer { name, worker, connection, found }
        };
        in_time.map(answer).collect()
    }
}

#[cfg(test)]
mod tests;
