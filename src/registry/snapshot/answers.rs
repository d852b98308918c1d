//! What names resolved to: the control plane's answers, as a snapshot is built with them.
//!
//! How they were found, how long they hold and what is kept when a server fails is the resolver's;
//! here they are values.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::sniff::Name;

/// The addresses of each name that has any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answers {
    by_name: BTreeMap<Name, Addresses>,
}

/// The addresses of one name.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Addresses {
    /// Where connections to the name go: those of the last answer, in the order in which they are
    /// tried.
    current: Arc<[IpAddr]>,
    /// What vouches for the name: those and others that recent answers had. A connection to one of
    /// them is a connection to the name.
    recent: Arc<[IpAddr]>,
}

impl Answers {
    /// Sets the addresses of `name` to those of one answer. IPv4 addresses written as IPv6 become
    /// IPv4, as everywhere in the registry.
    pub fn insert(&mut self, name: Name, addresses: impl IntoIterator<Item = IpAddr>) {
        let current: Arc<[IpAddr]> = canonical(addresses);
        let recent = Arc::clone(&current);
        self.by_name.insert(name, Addresses { current, recent });
    }

    /// Sets the addresses of `name`; `recent` has those of `current`, too.
    pub fn insert_recent(
        &mut self,
        name: Name,
        current: impl IntoIterator<Item = IpAddr>,
        recent: impl IntoIterator<Item = IpAddr>,
    ) {
        let (current, recent) = (canonical(current), canonical(recent));
        self.by_name.insert(name, Addresses { current, recent });
    }

    /// Where connections to `name` go.
    #[must_use]
    pub fn current(&self, name: &str) -> &[IpAddr] {
        self.by_name.get(name).map_or(&[], |addresses| &addresses.current)
    }

    /// What vouches for `name`.
    #[must_use]
    pub fn recent(&self, name: &str) -> &[IpAddr] {
        self.by_name.get(name).map_or(&[], |addresses| &addresses.recent)
    }

    /// Forgets `name`.
    pub fn remove(&mut self, name: &str) {
        self.by_name.remove(name);
    }

    /// Those of the names that `keeps` wants.
    #[must_use]
    pub fn filtered(&self, keeps: impl Fn(&Name) -> bool) -> Self {
        let kept = self.by_name.iter().filter(|(name, _)| keeps(name));
        Self { by_name: kept.map(|(name, of)| (name.clone(), of.clone())).collect() }
    }
}

fn canonical(addresses: impl IntoIterator<Item = IpAddr>) -> Arc<[IpAddr]> {
    addresses.into_iter().map(|address| address.to_canonical()).collect()
}
