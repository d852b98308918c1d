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
    by_name: BTreeMap<Name, Arc<[IpAddr]>>,
}

impl Answers {
    /// Sets the addresses of `name`, in the order in which they are tried. IPv4 addresses written
    /// as IPv6 become IPv4, as everywhere in the registry.
    pub fn insert(&mut self, name: Name, addresses: impl IntoIterator<Item = IpAddr>) {
        let addresses = addresses.into_iter().map(|address| address.to_canonical()).collect();
        self.by_name.insert(name, addresses);
    }

    /// The addresses of `name`, if it was resolved.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<[IpAddr]>> {
        self.by_name.get(name)
    }

    /// Forgets `name`.
    pub fn remove(&mut self, name: &str) {
        self.by_name.remove(name);
    }

    /// Every name with its addresses, in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&Name, &Arc<[IpAddr]>)> {
        self.by_name.iter()
    }
}
