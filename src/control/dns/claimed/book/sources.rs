//! What each source has of the names that workloads claim, and whose turn it is.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Instant;

use super::record::Waiting;
use crate::sniff::Name;

/// All sources that have something.
#[derive(Debug, Default)]
pub(super) struct Sources {
    all: HashMap<IpAddr, Source>,
    /// All with names in their queues, the next one first.
    turns: VecDeque<IpAddr>,
}

/// What one source has.
#[derive(Debug, Default)]
pub(super) struct Source {
    /// Names that are kept.
    pub(super) names: usize,
    /// Of them, those of which nothing is wanted, the one first that was used longest ago.
    pub(super) idle: BTreeSet<(Instant, Name)>,
    /// Names that are being asked for.
    pub(super) asked: usize,
    /// Names that are to be asked for.
    pub(super) queue: VecDeque<Name>,
    /// Connections that wait.
    pub(super) waiting: usize,
    has_turn: bool,
}

impl Sources {
    pub(super) fn of(&mut self, source: IpAddr) -> &mut Source {
        self.all.entry(source).or_default()
    }

    pub(super) fn names(&self, source: IpAddr) -> usize {
        self.all.get(&source).map_or(0, |own| own.names)
    }

    /// Forgets a source that has nothing.
    pub(super) fn drop_unused(&mut self, source: IpAddr) {
        let is_unused = |own: &Source| {
            own.names + own.asked + own.queue.len() + own.waiting == 0 && !own.has_turn
        };
        if self.all.get(&source).is_some_and(is_unused) {
            self.all.remove(&source);
        }
    }

    /// These connections wait no longer.
    pub(super) fn stop_waiting(&mut self, connections: &[Waiting]) {
        for one in connections {
            self.of(one.source).waiting -= 1;
            self.drop_unused(one.source);
        }
    }

    /// The source gets turns, if it has names in its queue.
    pub(super) fn put_in_turn(&mut self, source: IpAddr) {
        let own = self.of(source);
        if !own.queue.is_empty() && !std::mem::replace(&mut own.has_turn, true) {
            self.turns.push_back(source);
        }
    }

    /// The next name, of a source with fewer than `asked_max` that are being asked for. The others
    /// are passed over.
    pub(super) fn next_in_turn(&mut self, asked_max: usize) -> Option<(IpAddr, Name)> {
        for _ in 0..self.turns.len() {
            let source = self.turns.pop_front()?;
            let own = self.of(source);
            own.has_turn = false;
            let name = if own.asked < asked_max { own.queue.pop_front() } else { None };
            self.put_in_turn(source);
            if let Some(name) = name {
                return Some((source, name));
            }
        }
        None
    }

    /// The name of `source` that it has not used for longest.
    pub(super) fn oldest_idle(&self, source: IpAddr) -> Option<Name> {
        self.all.get(&source)?.idle.first().map(|(_, name)| name.clone())
    }

    /// The same of the source that has most names.
    pub(super) fn oldest_idle_of_greediest(&self) -> Option<Name> {
        let evictable = self.all.values().filter(|own| !own.idle.is_empty());
        let greediest = evictable.max_by_key(|own| own.names)?;
        greediest.idle.first().map(|(_, name)| name.clone())
    }

    /// All names of which nothing is wanted and that were last used at `time` or before.
    pub(super) fn unused_since(&self, time: Option<Instant>) -> Vec<Name> {
        let is_unused = |used: &Instant| time.is_some_and(|time| *used <= time);
        let names = |own: &Source| -> Vec<Name> {
            let unused = own.idle.iter().take_while(|(used, _)| is_unused(used));
            unused.map(|(_, name)| name.clone()).collect()
        };
        self.all.values().flat_map(names).collect()
    }

    /// No source has anything.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty() && self.turns.is_empty()
    }
}
