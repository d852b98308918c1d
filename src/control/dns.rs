//! Keeps the addresses of the names in the registry: asks DNS, and again when the TTL runs out.
//!
//! One task on the control plane's runtime. The reload thread tells it which names and servers are
//! wanted now; it offers that thread the answers whenever one has changed, and the thread publishes
//! the next generation with them. So one thread publishes, and neither waits for the other: a
//! server that never answers delays no reload, and a large registry that is being built delays no
//! question. No worker ever waits for a name.
//!
//! What is known of each name, and when it is asked for again, is [`book`]'s; how to ask is
//! [`question`]'s.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

use super::lock;
use crate::metrics::{ControlCounters, DnsResult};
use crate::registry::Answers;
use crate::sniff::Name;

mod book;
mod claimed;
mod question;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub(super) use book::View;
use book::{Book, Family, Reply, Timing};
pub(super) use claimed::Inputs as Claimed;
use claimed::{ClaimedBook, Claims};
use question::Asker;

/// Questions of each family that are under way at a time. A resolver on the same node answers
/// thousands per second at that, and one far away is not flooded. Each family has its own: where
/// nobody answers one of them, its questions wait for each other only.
const QUESTIONS_MAX: usize = 16;
/// Changes that come so close together make one generation.
const GATHER: Duration = Duration::from_millis(100);
/// From one publication to the next at least: names that rotate change all the time.
const PERIOD: Duration = Duration::from_millis(500);
/// After a publication the next one waits so many times as long as that took: a large registry with
/// restless names costs at most a tenth of a processor.
const REST: u32 = 9;
/// Between two log lines about names that do not resolve.
const COMPLAINTS: Duration = Duration::from_secs(10);

/// What is to be resolved.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// The names.
    pub(super) names: BTreeSet<Name>,
    /// Asked for them; empty: those of the system.
    pub(super) servers: Vec<SocketAddr>,
    /// How long an answer vouches for its name at least.
    pub(super) grace: Duration,
    /// How long a connection waits for the addresses of a name that it claims.
    pub(super) deadline: Duration,
}

/// Takes the answers of all names; its receiver ends when they are published, or need not be.
pub(super) type Offer = Box<dyn Fn(Answers) -> oneshot::Receiver<()> + Send>;

/// What the task works with.
pub(super) struct Inputs {
    /// Ends the task when its sender is gone.
    pub(super) wanted: watch::Receiver<Wanted>,
    /// Where the answers go.
    pub(super) offer: Offer,
    /// Written by the task alone.
    pub(super) counters: Arc<ControlCounters>,
    /// Told once, when every first name has been asked for and the answers are published.
    pub(super) first_answers: SyncSender<()>,
    /// How workers ask for the names that workloads claim.
    pub(super) claims: claimed::Inputs,
}

/// What is known of the names, for the admin server.
#[derive(Debug, Clone)]
pub(super) struct Names {
    book: Arc<Mutex<Book>>,
    claimed: Arc<Mutex<ClaimedBook>>,
}

impl Names {
    /// Every name with its addresses and their state.
    pub(super) fn view(&self) -> Vec<View> {
        let now = Instant::now();
        let mut all = lock(&self.book).view(now);
        all.extend(lock(&self.claimed).view(now));
        all
    }
}

/// Starts the task on `runtime`.
pub(super) fn spawn(inputs: Inputs, runtime: &Runtime) -> Names {
    spawn_with(inputs, runtime, Timing::default())
}

fn spawn_with(inputs: Inputs, runtime: &Runtime, timing: Timing) -> Names {
    let book = Arc::new(Mutex::new(Book::new(timing)));
    let Inputs { wanted, offer, counters, first_answers, claims } = inputs;
    let (claims, claimed) = Claims::new(wanted.clone(), claims, Arc::clone(&counters), timing);
    runtime.spawn(claims.run());
    let resolver = Resolver::new(wanted, offer, counters, first_answers, Arc::clone(&book));
    runtime.spawn(resolver.run());
    Names { book, claimed }
}

/// The task's state.
struct Resolver {
    wanted: watch::Receiver<Wanted>,
    asker: Asker,
    book: Arc<Mutex<Book>>,
    /// The questions under way.
    questions: JoinSet<Answered>,
    /// How many of them there are, by family.
    under_way: [usize; 2],
    publication: Publication,
    counters: Arc<ControlCounters>,
    /// `None` once it was told.
    first_answers: Option<SyncSender<()>>,
    complained: Option<Instant>,
}

/// The way of changed answers to the next generation.
struct Publication {
    offer: Offer,
    /// Since when there are changes that were not offered.
    changed: Option<Instant>,
    /// An offer that has not been published yet, and since when.
    under_way: Option<(oneshot::Receiver<()>, Instant)>,
    /// No offer before.
    rest_until: Instant,
}

/// A question, and what came of it.
type Answered = (Name, Family, Reply);

enum Event {
    WantedChanged,
    NobodyWants,
    Replied(Answered),
    Published,
    TimeToOffer,
    TimeToAsk,
    TimeToExpire,
}

impl Resolver {
    fn new(
        wanted: watch::Receiver<Wanted>,
        offer: Offer,
        counters: Arc<ControlCounters>,
        first_answers: SyncSender<()>,
        book: Arc<Mutex<Book>>,
    ) -> Self {
        let rest_until = Instant::now();
        let publication = Publication { offer, changed: None, under_way: None, rest_until };
        Self {
            wanted,
            asker: Asker::new(&[]),
            book,
            questions: JoinSet::new(),
            under_way: [0; 2],
            publication,
            counters,
            first_answers: Some(first_answers),
            complained: None,
        }
    }

    async fn run(mut self) {
        self.follow_wanted();
        loop {
            self.ask_due();
            self.tell_first_answers();
            match self.next_event().await {
                Event::WantedChanged => self.follow_wanted(),
                Event::NobodyWants => return,
                Event::Replied(answered) => self.settle(answered),
                Event::Published => self.publication.end(),
                Event::TimeToOffer => self.publication.begin(lock(&self.book).answers()),
                Event::TimeToAsk => {}
                Event::TimeToExpire => self.expire(),
            }
        }
    }

    /// All that can happen; every future here can be dropped without a loss.
    async fn next_event(&mut self) -> Event {
        let with_room = Family::BOTH.into_iter().filter(|family| self.has_room(*family));
        let (ask_at, expire_at) = {
            let book = lock(&self.book);
            (with_room.filter_map(|family| book.next_due(family)).min(), book.next_end())
        };
        let offer_at = self.publication.offer_at(self.questions.is_empty());
        tokio::select! {
            changed = self.wanted.changed() => match changed {
                Ok(()) => Event::WantedChanged,
                Err(_) => Event::NobodyWants,
            },
            // No question is aborted, and one that panics ends the process.
            Some(Ok(reply)) = self.questions.join_next() => Event::Replied(reply),
            () = self.publication.published() => Event::Published,
            () = at(offer_at) => Event::TimeToOffer,
            () = at(ask_at) => Event::TimeToAsk,
            () = at(expire_at) => Event::TimeToExpire,
        }
    }

    fn follow_wanted(&mut self) {
        let Wanted { names, servers, grace, .. } = self.wanted.borrow_and_update().clone();
        let now = Instant::now();
        let mut book = lock(&self.book);
        if servers != self.asker.servers() {
            self.asker = Asker::new(&servers);
            self.questions = JoinSet::new();
            self.under_way = [0; 2];
            book.ask_all(now);
        }
        book.set_grace(grace);
        book.want(&names, now);
        self.counters.dns_names.set(book.len() as u64);
        drop(book);
        // The reload has dropped the answers of names that it did not want, which the book may
        // never have seen to be gone: what is known is offered once more.
        self.publication.note_change(now);
    }

    fn has_room(&self, family: Family) -> bool {
        self.under_way[family as usize] < QUESTIONS_MAX
    }

    fn ask_due(&mut self) {
        let now = Instant::now();
        let mut book = lock(&self.book);
        if Family::BOTH.iter().any(|family| book.next_due(*family).is_some_and(|due| due <= now)) {
            self.asker.refresh();
        }
        for family in Family::BOTH {
            while self.under_way[family as usize] < QUESTIONS_MAX
                && let Some(name) = book.take_due(family, now)
            {
                let reply = self.asker.ask(&name, family);
                self.questions.spawn(async move { (name, family, reply.await) });
                self.under_way[family as usize] += 1;
            }
        }
    }

    fn settle(&mut self, (name, family, reply): Answered) {
        self.under_way[family as usize] -= 1;
        let now = Instant::now();
        let mut book = lock(&self.book);
        let Some(settled) = book.settle(&name, family, reply, now) else { return };
        self.counters.dns_resolutions(settled.result).add(1);
        self.counters.dns_addresses.set(book.addresses() as u64);
        self.counters.dns_evicted.set(book.evicted());
        if settled.is_changed {
            tracing::debug!(name = name.as_str(), "addresses changed");
            self.publication.note_change(now);
        }
        let may_complain = self.complained.is_none_or(|before| now - before >= COMPLAINTS);
        if settled.result == DnsResult::Success || !may_complain {
            return;
        }
        if let Some((error, _, addresses)) = book.error(&name) {
            self.complained = Some(now);
            let failing = book.failing();
            let name = name.as_str();
            tracing::warn!(name, error, addresses.kept = addresses, failing, "name not resolved");
        }
    }

    /// Lets go of the addresses that vouch no more.
    fn expire(&mut self) {
        let now = Instant::now();
        let mut book = lock(&self.book);
        if book.expire(now) {
            self.counters.dns_addresses.set(book.addresses() as u64);
            self.publication.note_change(now);
        }
    }

    fn tell_first_answers(&mut self) {
        let is_settled = self.publication.is_settled() && lock(&self.book).is_tried();
        if let Some(first) = self.first_answers.take_if(|_| is_settled) {
            // Nobody may be waiting any more.
            let _ = first.try_send(());
        }
    }
}

impl Publication {
    fn note_change(&mut self, now: Instant) {
        self.changed.get_or_insert(now);
    }

    /// When the changes are offered: once no question is under way, or enough have gathered.
    fn offer_at(&self, is_idle: bool) -> Option<Instant> {
        if self.under_way.is_some() {
            return None;
        }
        let changed = self.changed?;
        let gathered = if is_idle { changed } else { changed + GATHER };
        Some(gathered.max(self.rest_until))
    }

    fn begin(&mut self, answers: Answers) {
        self.changed = None;
        self.under_way = Some(((self.offer)(answers), Instant::now()));
    }

    fn end(&mut self) {
        if let Some((_, begun)) = self.under_way.take() {
            let now = Instant::now();
            self.rest_until = (now + (now - begun) * REST).max(begun + PERIOD);
        }
    }

    /// Ends when the offer under way is published, or nobody is left to publish it.
    async fn published(&mut self) {
        match &mut self.under_way {
            Some((published, _)) => {
                let _ = published.await;
            }
            None => std::future::pending().await,
        }
    }

    fn is_settled(&self) -> bool {
        self.changed.is_none() && self.under_way.is_none()
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}
