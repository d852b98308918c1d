//! The label sets of all workers, equal ones together, and what becomes of those that are given up.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hashbrown::HashTable;

use super::flags::Shown;
use crate::metrics::ResponseFlags;
use crate::metrics::labels::Labels;
use crate::metrics::series::{AddCells, Overflow, Series};

/// The label sets of all workers, equal ones together.
#[derive(Debug)]
pub(super) struct Fold<C> {
    series_max: usize,
    pub(super) groups: Vec<Group<C>>,
    /// Where a group stands, by the hash of its label set.
    places: HashTable<usize>,
    /// What found no room, here or at a worker, by source.
    others: Vec<Group<C>>,
    /// The label sets that found no room here, by hash: to count each once.
    pub(super) refused: HashTable<u64>,
}

/// One label set with the workers' parts of it.
#[derive(Debug)]
pub(in crate::metrics) struct Group<C> {
    pub(in crate::metrics) labels: Arc<Labels>,
    hash: u64,
    /// Of the label set without its flags.
    pub(super) base_hash: u64,
    /// Of connections.
    pub(super) shown: Shown,
    parts: Vec<Arc<Series<C>>>,
    /// What the workers have given up of it; never changed, because a scrape may be reading it.
    past: Option<Arc<C>>,
}

impl<C> Clone for Group<C> {
    fn clone(&self) -> Self {
        Self {
            labels: Arc::clone(&self.labels),
            parts: self.parts.clone(),
            past: self.past.clone(),
            ..*self
        }
    }
}

impl<C: AddCells> Group<C> {
    fn new(labels: Labels, series: Arc<Series<C>>) -> Self {
        let (hash, base_hash) = (series.hash, series.base_hash);
        let shown = Shown::default();
        Self { labels: Arc::new(labels), hash, base_hash, shown, parts: vec![series], past: None }
    }

    /// Keeps of what workers have given up only the numbers.
    fn clear_retired(&mut self) {
        let is_retired = |part: &Arc<Series<C>>| part.retired.load(Ordering::Acquire);
        if !self.parts.iter().any(is_retired) {
            return;
        }
        let past = C::default();
        if let Some(before) = &self.past {
            past.add_all(before);
        }
        self.parts
            .iter()
            .filter(|part| is_retired(part))
            .for_each(|part| past.add_all(&part.cells));
        self.parts.retain(|part| !is_retired(part));
        self.past = Some(Arc::new(past));
    }
}

impl<C> Group<C> {
    /// All numbers of it, part by part.
    pub(super) fn cells(&self) -> impl Iterator<Item = &C> {
        self.parts.iter().map(|part| &part.cells).chain(self.past.as_deref())
    }
}

impl<C: AddCells> Fold<C> {
    pub(super) fn new(series_max: usize) -> Self {
        let (groups, places, others, refused) = Default::default();
        Self { series_max, groups, places, others, refused }
    }

    pub(super) fn is_nearly_full(&self) -> bool {
        self.groups.len() * 8 >= self.series_max * 7
    }

    /// Removes the label sets that every worker has given up, with all their flags.
    pub(super) fn clear_retired(&mut self) {
        self.groups.iter_mut().chain(&mut self.others).for_each(Group::clear_retired);
        let alive = self.groups.iter().filter(|group| !group.parts.is_empty());
        let alive: HashSet<u64> = alive.map(|group| group.base_hash).collect();
        self.groups.retain(|group| alive.contains(&group.base_hash));
        self.places.clear();
        let groups = &self.groups;
        for (at, group) in groups.iter().enumerate() {
            self.places.insert_unique(group.hash, at, |at| groups[*at].hash);
        }
    }

    /// What finds no room is accounted to its source.
    fn take_other(&mut self, series: Arc<Series<C>>) {
        let is_its = |group: &&mut Group<C>| group.labels.source == series.labels.source;
        match self.others.iter_mut().find(is_its) {
            Some(other) => other.parts.push(series),
            None => self.others.push(Group::new(series.labels.to_other(), series)),
        }
    }

    /// Gives a worker's series its place.
    pub(super) fn take(&mut self, series: Arc<Series<C>>) {
        if series.overflow == Overflow::Yes {
            return self.take_other(series);
        }
        let hash = series.hash;
        // A place is the index of a group.
        let place = self.places.find(hash, |at| *self.groups[*at].labels == series.labels);
        if let Some(at) = place {
            self.groups[*at].parts.push(series);
        } else if self.groups.len() < self.series_max {
            let groups = &self.groups;
            self.places.insert_unique(hash, groups.len(), |at| groups[*at].hash);
            self.groups.push(Group::new(series.labels.clone(), series));
        } else {
            self.refused.entry(hash, |known| *known == hash, |known| *known).or_insert(hash);
            match self.without_flags(&series) {
                // Connections are counted as closed where they were counted as opened.
                Some(base) => base.parts.push(series),
                None => self.take_other(series),
            }
        }
    }

    /// The label set under which connections are counted as opened that end with the flags of
    /// `series`. A request is counted once, with its flags.
    fn without_flags(&mut self, series: &Series<C>) -> Option<&mut Group<C>> {
        let is_request = series.labels.response_code.is_some();
        let labels = Labels { flags: ResponseFlags::None, ..series.labels.clone() };
        let is_it =
            |group: &&mut Group<C>| group.base_hash == series.base_hash && *group.labels == labels;
        if is_request { None } else { self.groups.iter_mut().find(is_it) }
    }

    pub(super) fn groups(&self) -> impl Iterator<Item = &Group<C>> {
        self.groups.iter().chain(&self.others)
    }
}
