//! Exact hosts and wildcards of one port: the longest that matches a name.
//!
//! A name is walked from its first label to its last. At each label boundary one probe finds the
//! wildcard for what follows (`*.example.com`), and one more those that begin within the label
//! (`*-eu.example.com`), so that longer suffixes are met before shorter ones.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use foldhash::fast::RandomState;

use super::Match;
use crate::registry::service_entry::HostPattern;
use crate::sniff::Name;

type Map<V> = HashMap<Box<str>, V, RandomState>;

/// Positions by host.
#[derive(Debug, Default)]
pub(super) struct HostIndex {
    exact: Map<usize>,
    /// `*.example.com` under `example.com`.
    domains: Map<usize>,
    /// `*-eu.example.com` under `example.com`, with `-eu`; the longest first. Partial wildcards are
    /// rare, and warned about, so the few in one place are searched one by one.
    partial: Map<Vec<(Box<str>, usize)>>,
}

impl HostIndex {
    /// Nothing was added.
    pub(super) fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.domains.is_empty() && self.partial.is_empty()
    }

    /// The service of the longest host that matches `name`; an exact one goes before wildcards.
    pub(super) fn find(&self, name: &Name) -> Option<(usize, Match)> {
        if let Some(position) = self.exact.get(name.as_str()) {
            return Some((*position, Match::Host));
        }
        if self.domains.is_empty() && self.partial.is_empty() {
            return None;
        }
        // The wildcard stands for something: the first label may not be the end's whole label.
        let mut rest = name.as_str();
        let mut is_first = true;
        loop {
            if let Some(position) = self.domains.get(rest).filter(|_| !is_first) {
                return Some((*position, Match::Wildcard));
            }
            let (label, below) = rest.split_once('.').unwrap_or((rest, ""));
            let ends_with = |end: &str| label.ends_with(end) && !(is_first && label == end);
            if let Some(ends) = self.partial.get(below)
                && let Some((_, position)) = ends.iter().find(|(end, _)| ends_with(end))
            {
                return Some((*position, Match::Wildcard));
            }
            if below.is_empty() {
                return None;
            }
            (rest, is_first) = (below, false);
        }
    }

    /// Adds `host`, unless one with a lower position has it; returns the position that has it.
    pub(super) fn add(&mut self, host: &HostPattern, position: usize) -> usize {
        match host {
            HostPattern::Exact(name) => lowest(self.exact.entry(name.as_str().into()), position),
            HostPattern::Suffix(suffix) => match suffix.strip_prefix('.') {
                Some(domain) => lowest(self.domains.entry(domain.into()), position),
                None => self.add_partial(suffix, position),
            },
        }
    }

    fn add_partial(&mut self, suffix: &str, position: usize) -> usize {
        let (end, below) = suffix.split_once('.').unwrap_or((suffix, ""));
        let ends = self.partial.entry(below.into()).or_default();
        if let Some((_, holder)) = ends.iter_mut().find(|(other, _)| &**other == end) {
            *holder = (*holder).min(position);
            return *holder;
        }
        let place = ends.partition_point(|(other, _)| other.len() >= end.len());
        ends.insert(place, (end.into(), position));
        position
    }
}

fn lowest(entry: Entry<'_, Box<str>, usize>, position: usize) -> usize {
    let holder = entry.or_insert(position);
    *holder = (*holder).min(position);
    *holder
}
