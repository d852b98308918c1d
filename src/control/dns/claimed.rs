//! Resolves the names that workloads claim, when a connection is to go where they lead.
//!
//! A task of its own beside the one for the registry's names: it asks the same servers, and neither
//! waits for the other. The workers ask through [`crate::questions`]; each answer goes back through
//! the command channel of the worker that has asked. What is known, and who has which share of it,
//! is [`book`]'s.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::Wanted;
use super::book::{Family, Reply, Timing};
use super::question::Asker;
use crate::commands::{Command, CommandSender};
use crate::control::lock;
use crate::metrics::ControlCounters;
use crate::questions::{Question, Receiver};
use crate::sniff::Name;

mod book;

use book::Answer;
pub(super) use book::ClaimedBook;

/// What the task works with.
pub(in crate::control) struct Inputs {
    /// What the workers ask.
    pub(in crate::control) questions: Receiver,
    /// The workers, in the order of their ids.
    pub(in crate::control) workers: Vec<CommandSender>,
}

/// The task's state.
pub(super) struct Claims {
    wanted: watch::Receiver<Wanted>,
    deadline: Duration,
    asker: Asker,
    book: Arc<Mutex<ClaimedBook>>,
    inputs: Inputs,
    under_way: JoinSet<(Name, Family, Reply)>,
    counters: Arc<ControlCounters>,
}

enum Event {
    WantedChanged,
    NobodyWants,
    Asked(Question),
    Replied((Name, Family, Reply)),
    Time,
}

impl Claims {
    pub(super) fn new(
        wanted: watch::Receiver<Wanted>,
        inputs: Inputs,
        counters: Arc<ControlCounters>,
        timing: Timing,
    ) -> (Self, Arc<Mutex<ClaimedBook>>) {
        let book = Arc::new(Mutex::new(ClaimedBook::new(timing)));
        let claims = Self {
            wanted,
            deadline: Duration::ZERO,
            asker: Asker::new(&[]),
            book: Arc::clone(&book),
            inputs,
            under_way: JoinSet::new(),
            counters,
        };
        (claims, book)
    }

    pub(super) async fn run(mut self) {
        self.follow_wanted();
        loop {
            self.ask_due();
            match self.next_event().await {
                Event::WantedChanged => self.follow_wanted(),
                Event::NobodyWants => return,
                Event::Asked(question) => self.take_in(question),
                Event::Replied((name, family, reply)) => {
                    let settled = lock(&self.book).settle(&name, family, reply, Instant::now());
                    let (result, answers) = settled;
                    self.counters.dns_resolutions(result).add(1);
                    self.tell(answers);
                }
                Event::Time => {
                    let answers = lock(&self.book).on_time(Instant::now());
                    self.tell(answers);
                }
            }
            self.counters.dns_claimed_names.set(lock(&self.book).len() as u64);
        }
    }

    /// All that can happen; every future here can be dropped without a loss.
    async fn next_event(&mut self) -> Event {
        let next_time = lock(&self.book).next_time();
        tokio::select! {
            changed = self.wanted.changed() => match changed {
                Ok(()) => Event::WantedChanged,
                Err(_) => Event::NobodyWants,
            },
            // Without a sender there is no worker any more.
            Some(question) = self.inputs.questions.recv() => Event::Asked(question),
            // No question is aborted, and one that panics ends the process.
            Some(Ok(reply)) = self.under_way.join_next() => Event::Replied(reply),
            () = super::at(next_time) => Event::Time,
        }
    }

    fn follow_wanted(&mut self) {
        let Wanted { servers, deadline, .. } = self.wanted.borrow_and_update().clone();
        self.deadline = deadline;
        if servers != self.asker.servers() {
            self.asker = Asker::new(&servers);
            self.under_way = JoinSet::new();
            lock(&self.book).ask_all(Instant::now());
        }
    }

    fn take_in(&mut self, question: Question) {
        let now = Instant::now();
        let answer = lock(&self.book).ask(question, now + self.deadline, now);
        self.tell(answer);
    }

    fn ask_due(&mut self) {
        let now = Instant::now();
        let mut is_first = true;
        while let Some((name, families)) = lock(&self.book).next_to_ask(now) {
            if std::mem::take(&mut is_first) {
                self.asker.refresh();
            }
            for family in families {
                let reply = self.asker.ask(&name, family);
                let name = name.clone();
                self.under_way.spawn(async move { (name, family, reply.await) });
            }
        }
    }

    fn tell(&self, answers: impl IntoIterator<Item = Answer>) {
        for Answer { name, worker, connection, found } in answers {
            if let Some(worker) = self.inputs.workers.get(worker) {
                // A worker that has ended asks for nothing.
                worker.send(Command::Resolved { name, connection, found });
            }
        }
    }
}
