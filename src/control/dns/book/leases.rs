//! Which addresses vouch for a name: those of all recent answers, not of the last one only.
//!
//! Answers come and go. A name with thousands of addresses is told a few of them at a time, and a
//! workload uses what *it* was told, for as long as that may be cached. So an address vouches for
//! its name from the answer that brings it until its *lease* ends, and longer if a later answer has
//! it too. Of these, the addresses of the last answer are the *current* ones: connections go to
//! them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::Family;
use crate::registry::Answers;
use crate::sniff::Name;

/// Leases of one name. S3 rotates through about as many addresses in one region.
const PER_NAME_MAX: usize = 4_096;
/// Leases of all names: their rows in a snapshot take about 10 MB.
const TOTAL_MAX: usize = 100_000;
/// Leases that have ended are looked for so often at most.
const PERIOD: Duration = Duration::from_secs(1);

/// All leases.
#[derive(Debug, Default)]
pub(super) struct Leases {
    by_name: BTreeMap<Name, BTreeMap<IpAddr, Lease>>,
    /// All of them, the one that was told longest ago first.
    by_age: BTreeSet<(Instant, Name, IpAddr)>,
    /// When the next one ends, or an earlier time.
    next_end: Option<Instant>,
    /// Those that left before their time.
    evicted: u64,
}

#[derive(Debug, Clone, Copy)]
struct Lease {
    told: Instant,
    until: Instant,
    /// The last answer has it; then it does not end.
    is_current: bool,
}

/// Whether the addresses of a name, or which of them are current, have changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    None,
    Some,
}

impl Leases {
    /// An answer has come for `name`: exactly these addresses of `family` are current from now on,
    /// and vouch for it at least `until` then. In order, so that a cut answer is cut the same way
    /// each time.
    pub(super) fn tell(
        &mut self,
        name: &Name,
        family: Family,
        addresses: &BTreeSet<IpAddr>,
        (now, until): (Instant, Instant),
    ) -> Change {
        let before = self.marks(name);
        self.end_current(name, family, now);
        let lost = addresses.len().saturating_sub(PER_NAME_MAX);
        self.evicted += u64::try_from(lost).unwrap_or(u64::MAX);
        for address in addresses.iter().take(PER_NAME_MAX) {
            self.renew(name, *address, now, until);
        }
        let evicted = self.evicted;
        self.make_room(name);
        match before == self.marks(name) && evicted == self.evicted {
            true => Change::None,
            false => Change::Some,
        }
    }

    /// `name` has no current address of `family` any more.
    pub(super) fn end_current(&mut self, name: &Name, family: Family, now: Instant) -> Change {
        let Some(leases) = self.by_name.get_mut(name) else { return Change::None };
        let mut change = Change::None;
        for (_, lease) in leases.iter_mut().filter(|(ip, _)| Family::of(**ip) == family) {
            if std::mem::take(&mut lease.is_current) {
                change = Change::Some;
                let end = lease.until.max(now);
                self.next_end = Some(self.next_end.map_or(end, |next| next.min(end)));
            }
        }
        change
    }

    /// Forgets all names but these.
    pub(super) fn retain(&mut self, names: &BTreeSet<Name>) {
        self.by_name.retain(|name, _| names.contains(name));
        self.by_age.retain(|(_, name, _)| names.contains(name));
    }

    /// When [`Self::expire`] may find something.
    pub(super) fn next_end(&self) -> Option<Instant> {
        self.next_end
    }

    /// Lets go of the leases that have ended by `now`.
    pub(super) fn expire(&mut self, now: Instant) -> Change {
        if self.next_end.is_none_or(|next| next > now) {
            return Change::None;
        }
        let (mut change, mut next_end) = (Change::None, None::<Instant>);
        let by_age = &mut self.by_age;
        for (name, leases) in &mut self.by_name {
            leases.retain(|address, lease| {
                let stays = lease.is_current || lease.until > now;
                if !stays {
                    by_age.remove(&(lease.told, name.clone(), *address));
                    change = Change::Some;
                } else if !lease.is_current {
                    let end = lease.until.max(now + PERIOD);
                    next_end = Some(next_end.map_or(end, |next| next.min(end)));
                }
                stays
            });
        }
        self.by_name.retain(|_, leases| !leases.is_empty());
        self.next_end = next_end;
        change
    }

    /// What a snapshot is built with.
    pub(super) fn answers(&self) -> Answers {
        let mut answers = Answers::default();
        for (name, leases) in &self.by_name {
            let current = leases.iter().filter(|(_, lease)| lease.is_current);
            answers.insert_recent(
                name.clone(),
                current.map(|(address, _)| *address),
                leases.keys().copied(),
            );
        }
        answers
    }

    /// The current addresses of `name`, in order.
    pub(super) fn current(&self, name: &Name) -> impl Iterator<Item = IpAddr> + '_ {
        let leases = self.by_name.get(name).into_iter().flatten();
        leases.filter(|(_, lease)| lease.is_current).map(|(address, _)| *address)
    }

    /// How many addresses vouch for `name`.
    pub(super) fn count(&self, name: &Name) -> usize {
        self.by_name.get(name).map_or(0, BTreeMap::len)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.by_age.len()
    }

    /// How many have left before their time, ever.
    pub(super) fn evicted(&self) -> u64 {
        self.evicted
    }

    fn marks(&self, name: &Name) -> Vec<(IpAddr, bool)> {
        let leases = self.by_name.get(name).into_iter().flatten();
        leases.map(|(address, lease)| (*address, lease.is_current)).collect()
    }

    fn renew(&mut self, name: &Name, address: IpAddr, told: Instant, until: Instant) {
        if !self.by_name.contains_key(name) {
            self.by_name.insert(name.clone(), BTreeMap::new());
        }
        let Some(leases) = self.by_name.get_mut(name) else { return };
        let old = leases.get(&address).copied();
        // A shorter TTL does not take back what was said before.
        let until = old.map_or(until, |old| old.until.max(until));
        leases.insert(address, Lease { told, until, is_current: true });
        if let Some(old) = old {
            self.by_age.remove(&(old.told, name.clone(), address));
        }
        self.by_age.insert((told, name.clone(), address));
    }

    /// Keeps to the limits: the oldest leave first.
    fn make_room(&mut self, name: &Name) {
        if let Some(leases) = self.by_name.get(name).filter(|all| all.len() > PER_NAME_MAX) {
            let mut by_age: Vec<_> = leases.iter().map(|(ip, lease)| (lease.told, *ip)).collect();
            by_age.sort_unstable();
            let surplus = by_age.len() - PER_NAME_MAX;
            for (told, address) in by_age.into_iter().take(surplus) {
                self.evict(told, name.clone(), address);
            }
        }
        while self.by_age.len() > TOTAL_MAX
            && let Some((told, name, address)) = self.by_age.first().cloned()
        {
            self.evict(told, name, address);
        }
    }

    fn evict(&mut self, told: Instant, name: Name, address: IpAddr) {
        if let Some(leases) = self.by_name.get_mut(&name) {
            leases.remove(&address);
        }
        self.by_age.remove(&(told, name, address));
        self.evicted += 1;
    }
}

#[cfg(test)]
mod tests;
