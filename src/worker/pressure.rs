//! When something runs short: the source that has most of it gives way.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use crate::gate::Micros;
use crate::metrics::{CloseReason, Shed};
use crate::sys::kernel::Kernel;
use crate::worker::Worker;
use crate::worker::connection::{Connection, Event};
use crate::worker::shares::Share;
use crate::worker::token::Key;

/// Connections that are looked at when one is to give way: a few microseconds for each accept.
const LOOKED_AT: usize = 64;

/// A reader that has taken nothing for so long is stuck.
const STUCK_US: Micros = 1_000_000;

/// A connection that holds something of what runs short.
#[derive(Debug, Clone, Copy)]
struct Holder {
    /// KiB, or buffers.
    amount: u16,
    key: Key,
}

impl<K: Kernel> Worker<K> {
    /// Nearly all connections are taken, and `newcomer` takes one more: one that has asked for
    /// nothing yet, of a source with more, gives way, if there is one among the next in turn.
    pub(super) fn make_room(&mut self, newcomer: Share) {
        if !self.cx.admission.is_nearly_full() {
            return;
        }
        self.cx.giving_way = 1;
        let from = self.sweep.next_looked_at(LOOKED_AT, self.connections.capacity());
        self.visit(from..from + LOOKED_AT, || Event::GiveWay { newcomer });
        self.cx.giving_way = 0;
    }

    /// Resets connections while too much is held back: of the source that holds most the one that
    /// holds most, until an eighth of the budget is free.
    pub(super) fn shed_held(&mut self) {
        let held_max = self.cx.held_kib_max();
        if self.cx.held_kib <= held_max {
            return;
        }
        let excess = self.cx.held_kib - (held_max - held_max / 8);
        self.shed(to_shed(self.holders(Connection::held_kib), excess));
    }

    /// Resets connections whose readers have taken nothing for a while, when all buffers are kept
    /// and others wait for one: of the source that keeps most, as long as that is a quarter of all.
    pub(super) fn shed_stuck(&mut self) {
        let (pool, still_since) = (self.cx.kernel.pool(), self.cx.now.saturating_sub(STUCK_US));
        if self.cx.starved.is_empty() || pool.free() > 0 {
            return;
        }
        let quarter = pool.count() as u64 / 4;
        let holders = self.holders(|connection| connection.stuck_buffers(still_since));
        let Some((greediest, kept)) = greediest(&holders) else { return };
        let waiting: HashSet<Key> = self.cx.starved.iter().map(|(key, _)| *key).collect();
        let is_other =
            |one: &Connection<K>| waiting.contains(&one.key) && one.source.ip() != greediest;
        let others = self.connections.iter().filter(|(_, one)| is_other(one)).count() as u64;
        self.shed(to_shed(holders, others.min(kept.saturating_sub(quarter))));
    }

    fn shed(&mut self, keys: Vec<Key>) {
        for key in keys {
            self.cx.metrics.counters.shed(Shed::HeldBytes).add(1);
            self.with(key, Event::End(CloseReason::HeldBytes));
        }
    }

    /// Who holds how much, by source.
    fn holders(&self, amount: impl Fn(&Connection<K>) -> u16) -> HashMap<IpAddr, Vec<Holder>> {
        let mut holders = HashMap::<_, Vec<_>>::new();
        for (_, connection) in &self.connections {
            let holder = Holder { amount: amount(connection), key: connection.key };
            if holder.amount > 0 {
                holders.entry(connection.source.ip()).or_default().push(holder);
            }
        }
        holders
    }
}

/// The source that holds most, and how much.
fn greediest(holders: &HashMap<IpAddr, Vec<Holder>>) -> Option<(IpAddr, u64)> {
    holders.iter().map(|(source, own)| (*source, sum(own))).max_by_key(|(_, all)| *all)
}

fn sum(own: &[Holder]) -> u64 {
    own.iter().map(|one| u64::from(one.amount)).sum()
}

/// The connections that have to go so that `excess` is free.
fn to_shed(mut holders: HashMap<IpAddr, Vec<Holder>>, excess: u64) -> Vec<Key> {
    holders.values_mut().for_each(|own| own.sort_unstable_by_key(|one| one.amount));
    let mut sources: Vec<_> = holders.into_values().map(|own| (sum(&own), own)).collect();
    let (mut freed, mut shed) = (0, Vec::new());
    while freed < excess {
        let Some((all, own)) = sources.iter_mut().max_by_key(|(all, _)| *all) else { break };
        let Some(largest) = own.pop() else { break };
        *all -= u64::from(largest.amount);
        freed += u64::from(largest.amount);
        shed.push(largest.key);
    }
    shed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(slot: u32, amount: u16) -> Holder {
        Holder { amount, key: Key { slot, generation: 1 } }
    }

    #[test]
    fn the_largest_holder_of_the_greediest_source_goes_first() {
        let source = |n: u32| IpAddr::V4(n.into());
        let holders = || {
            HashMap::from([
                // The largest of all, of a modest source.
                (source(1), vec![holder(1, 900)]),
                (source(2), vec![holder(2, 300), holder(3, 500), holder(4, 400)]),
            ])
        };
        let table: [(u64, &[u32]); 5] = [
            (0, &[]),
            (1, &[3]),
            (500, &[3]),
            // From here on the first source holds most.
            (501, &[3, 1]),
            (10_000, &[3, 1, 4, 2]),
        ];
        for (excess, slots) in table {
            let shed: Vec<_> = to_shed(holders(), excess).iter().map(|key| key.slot).collect();
            assert_eq!(shed, slots, "{excess}");
        }
    }
}
