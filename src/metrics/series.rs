//! The label sets of one worker, found by the identities of source and cluster: one table for the
//! connections (`istio_tcp_*`), one for the requests (`istio_request*`).
//!
//! A worker looks a connection's series up after the verdict and again at its end, when the flags
//! are known; in between it only adds to cells. A hit hashes nothing and allocates nothing: the
//! identities carry their hashes. A new series is told to the control plane through a channel that
//! never blocks the worker; the worker keeps what it needs, so neither waits for the other.
//!
//! The table is bounded. When it is full, a label set without an open connection that has had no
//! traffic for long gives its place to a new one. A source that made its share of label sets makes
//! no more when few are left. What finds no room is accounted to one series of its source.

mod age;
mod key;

use std::cell::Cell as Mutable;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::Sender;

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use slab::Slab;

use super::labels::Labels;
use super::room::{Room, Since};
use super::{Cell, ResponseFlags, Shed, WorkerCounters};
use key::Hashes;
pub use key::SeriesKey;

/// The place of a series in the table of the worker that found it; good until the next series is
/// looked for, or as long as it is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeriesIndex(u32);

/// The place of a series that may be another one's by now.
#[derive(Debug, Clone, Copy)]
pub struct KnownSeries {
    index: SeriesIndex,
    made: u32,
}

/// The counters of connections with one label set, written by one worker.
#[derive(Debug, Default)]
pub struct SeriesCells {
    /// Upstream connections established; connections that ended without one.
    pub opened: Cell,
    /// Connections that ended.
    pub closed: Cell,
    /// Bytes written to the downstream.
    pub sent_bytes: Cell,
    /// Bytes read from the downstream.
    pub received_bytes: Cell,
}

impl SeriesCells {
    /// A connection has ended that was counted as opened.
    pub fn count_closed(&self) {
        self.closed.add(1);
    }

    /// A connection has ended that never had an upstream connection: it was opened and closed with
    /// the same flags.
    pub fn count_failed(&self) {
        self.opened.add(1);
        self.closed.add(1);
    }
}

/// Cells whose numbers can be added to others.
pub(super) trait AddCells: Default {
    /// Adds the numbers of `other`; only the owner of `self` may call this.
    fn add_all(&self, other: &Self);
}

impl AddCells for SeriesCells {
    fn add_all(&self, other: &Self) {
        self.opened.add(other.opened.get());
        self.closed.add(other.closed.get());
        self.sent_bytes.add(other.sent_bytes.get());
        self.received_bytes.add(other.received_bytes.get());
    }
}

/// One label set of one worker: written by the worker, read at a scrape. Aligned so that no two
/// workers write to the same cache line.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Series<C> {
    pub(super) cells: C,
    pub(super) hash: u64,
    /// The hash of the label set without its flags.
    pub(super) base_hash: u64,
    /// The hash of its source's labels.
    pub(super) source_hash: u64,
    pub(super) labels: Labels,
    /// Whether it is an overflow series.
    pub(super) overflow: Overflow,
    /// The worker has given it up: its numbers stay what they are.
    pub(super) retired: AtomicBool,
}

/// Whether a series stands for one label set, or for all of its source that found no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Overflow {
    /// One label set.
    No,
    /// All label sets of a source that the worker's table refused.
    Yes,
}

/// One worker's series, with cells of one kind.
#[derive(Debug)]
pub struct SeriesTable<C> {
    entries: Slab<Entry<C>>,
    /// Where an entry stands, by the hash of its label set. Overflow series are not in it.
    places: HashTable<u32>,
    hashes: RandomState,
    /// The overflow series, by the hash of their source.
    others: HashTable<u32>,
    /// Entries at most, the overflow series not counted.
    series_max: usize,
    /// How many entries each source has made.
    makers: HashMap<IpAddr, usize, RandomState>,
    announce: Sender<Arc<Series<C>>>,
    counters: Arc<WorkerCounters>,
    room: Arc<Room>,
    now: Since,
    idle: Since,
    /// Counts the entries that were made.
    made: u32,
    looked_at: usize,
}

#[derive(Debug)]
struct Entry<C> {
    /// The labels by the newest pointers seen, so that after a reload a hit is a hit by pointer
    /// again.
    labels: Labels,
    maker: IpAddr,
    series: Arc<Series<C>>,
    /// Which of the table's entries it is, of all that were ever made.
    made: u32,
    /// Open connections that are accounted to it.
    held: u32,
    /// When it was last looked for.
    used: Mutable<Since>,
}

impl<C: Default> SeriesTable<C> {
    /// `hashes` is the same for all workers, so that equal label sets meet at a scrape, and has a
    /// seed that nobody outside knows: names are chosen by peers, who could make them collide.
    pub(super) fn new(
        series_max: usize,
        hashes: RandomState,
        announce: Sender<Arc<Series<C>>>,
        counters: Arc<WorkerCounters>,
        room: Arc<Room>,
    ) -> Self {
        // The index is a u32, and overflow series take places, too.
        let series_max = series_max.min(u32::MAX as usize / 2);
        let (entries, places, others, makers) = Default::default();
        let (now, idle, made, looked_at) = (0, Since::MAX, 0, 0);
        Self {
            entries,
            places,
            hashes,
            others,
            series_max,
            makers,
            announce,
            counters,
            room,
            now,
            idle,
            made,
            looked_at,
        }
    }

    /// The time is now this.
    pub(super) fn set_now(&mut self, now: Since) {
        self.now = now;
    }

    /// A label set that has had no traffic for so long may give its place away.
    pub(super) fn set_idle(&mut self, idle: Since) {
        self.idle = idle;
    }

    /// The series of `key`; a new one if there is room, else the overflow series of its source.
    pub fn find(&mut self, key: SeriesKey<'_>) -> SeriesIndex {
        let base_hash = key.base_hash(&self.hashes);
        let hash = self.with_flags_hash(base_hash, key.flags);
        if let Some(index) = self.search(hash, |entry| entry.is(&key)) {
            return index;
        }
        let hashes = Hashes { source: key.source.hash, base: base_hash, whole: hash };
        self.insert(key.to_labels(), key.maker, hashes)
    }

    /// An open connection is accounted to this series from here on: it keeps its place.
    pub fn hold(&mut self, index: SeriesIndex) {
        self.entries[index.0 as usize].held += 1;
    }

    /// The connection is not accounted to it any longer.
    pub fn release(&mut self, index: SeriesIndex) {
        let entry = &mut self.entries[index.0 as usize];
        entry.held -= 1;
        entry.used.set(self.now);
    }

    /// A series, for [`Self::recall`].
    #[must_use]
    pub fn remember(&self, index: SeriesIndex) -> KnownSeries {
        KnownSeries { index, made: self.entries[index.0 as usize].made }
    }

    /// The series that was remembered, unless it has given its place away.
    #[must_use]
    pub fn recall(&self, known: KnownSeries) -> Option<SeriesIndex> {
        let entry = self.entries.get(known.index.0 as usize)?;
        entry.used.set(self.now);
        (entry.made == known.made).then_some(known.index)
    }

    /// The series that differs from `index`, which is held, in its flags alone: how a connection
    /// ends is known only then. An overflow series stands for all flags. So does one beside which
    /// there is no room: a connection is counted as closed where it was counted as opened.
    pub fn with_flags(&mut self, index: SeriesIndex, flags: ResponseFlags) -> SeriesIndex {
        let entry = &self.entries[index.0 as usize];
        if entry.labels.flags == flags || entry.series.overflow == Overflow::Yes {
            return index;
        }
        let labels = Labels { flags, ..entry.labels.clone() };
        let (maker, source, base) = (entry.maker, entry.series.source_hash, entry.series.base_hash);
        let whole = self.with_flags_hash(base, flags);
        if let Some(index) = self.search(whole, |entry| entry.labels == labels) {
            return index;
        }
        let hashes = Hashes { source, base, whole };
        self.make(&labels, maker, hashes).unwrap_or(index)
    }

    fn search(
        &mut self,
        hash: u64,
        mut is_wanted: impl FnMut(&mut Entry<C>) -> bool,
    ) -> Option<SeriesIndex> {
        // A place is the index of an entry, and goes with it.
        let place =
            self.places.find(hash, |place| is_wanted(&mut self.entries[*place as usize]))?;
        self.entries[*place as usize].used.set(self.now);
        Some(SeriesIndex(*place))
    }

    /// The hash of a whole label set.
    fn with_flags_hash(&self, base_hash: u64, flags: ResponseFlags) -> u64 {
        let mut hasher = self.hashes.build_hasher();
        hasher.write_u64(base_hash);
        hasher.write_u8(flags as u8);
        hasher.finish()
    }

    /// The counters of a series.
    #[must_use]
    pub fn cells(&self, index: SeriesIndex) -> &C {
        // Indices come from `find` alone. They are good until the next series is looked for, or are
        // held.
        &self.entries[index.0 as usize].series.cells
    }

    /// Label sets in the table, the overflow series not counted.
    #[must_use]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether no connection has been accounted yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn insert(&mut self, labels: Labels, maker: IpAddr, hashes: Hashes) -> SeriesIndex {
        let inserted = self.make(&labels, maker, hashes);
        inserted.unwrap_or_else(|| self.other(&labels, maker, hashes.source))
    }

    /// Makes a series, if there is room for one.
    #[cold]
    fn make(&mut self, labels: &Labels, maker: IpAddr, hashes: Hashes) -> Option<SeriesIndex> {
        if self.len() >= self.series_max || self.room.is_short() {
            self.retire_one();
        }
        let is_over_share = self.is_over_share(maker);
        if is_over_share {
            self.counters.shed(Shed::Series).add(1);
        }
        if is_over_share || self.len() >= self.series_max {
            self.counters.series_refused.add(1);
            return None;
        }
        let index = self.push(labels.clone(), maker, hashes, Overflow::No);
        *self.makers.entry(maker).or_default() += 1;
        let entries = &self.entries;
        let hash = |place: &u32| entries[*place as usize].series.hash;
        self.places.insert_unique(hashes.whole, index.0, hash);
        Some(index)
    }

    /// Three quarters of the places that this worker may count on are taken, and `maker` has a
    /// quarter: the rest is for the others.
    fn is_over_share(&self, maker: IpAddr) -> bool {
        let made = self.makers.get(&maker).copied().unwrap_or(0);
        let part = self.series_max / self.room.workers();
        self.len() * 4 >= part * 3 && made * 4 >= part
    }

    /// The overflow series of the source of `labels`.
    fn other(&mut self, labels: &Labels, maker: IpAddr, source_hash: u64) -> SeriesIndex {
        let entries = &self.entries;
        let is_its = |place: &u32| entries[*place as usize].labels.source == labels.source;
        if let Some(place) = self.others.find(source_hash, is_its) {
            return SeriesIndex(*place);
        }
        let hashes = Hashes { source: source_hash, base: source_hash, whole: source_hash };
        let index = self.push(labels.to_other(), maker, hashes, Overflow::Yes);
        let entries = &self.entries;
        let hash = |place: &u32| entries[*place as usize].series.source_hash;
        self.others.insert_unique(source_hash, index.0, hash);
        index
    }

    fn push(
        &mut self,
        labels: Labels,
        maker: IpAddr,
        hashes: Hashes,
        overflow: Overflow,
    ) -> SeriesIndex {
        let series = Arc::new(Series {
            cells: C::default(),
            hash: hashes.whole,
            base_hash: hashes.base,
            source_hash: hashes.source,
            labels: labels.clone(),
            overflow,
            retired: AtomicBool::new(false),
        });
        // The receiver ends before the workers only when the process ends: nobody scrapes any more.
        let _ = self.announce.send(Arc::clone(&series));
        self.made = self.made.wrapping_add(1);
        let (made, used) = (self.made, Mutable::new(self.now));
        let index = self.entries.insert(Entry { labels, maker, series, made, held: 0, used });
        SeriesIndex(u32::try_from(index).expect("series_max bounds the number of entries"))
    }
}

impl<C> Entry<C> {
    /// Whether this is the entry of `key`: by pointer, else by value (another generation built the
    /// same value anew; its pointers are kept for the next time).
    fn is(&mut self, key: &SeriesKey<'_>) -> bool {
        let labels = &mut self.labels;
        if labels.flags != key.flags
            || labels.response_code != key.response_code
            || labels.destination_ip != key.destination_ip
            || labels.service.as_deref() != key.service
        {
            return false;
        }
        let same_source = Arc::ptr_eq(&labels.source, &key.source.value);
        let same_cluster = Arc::ptr_eq(&labels.cluster, &key.cluster.value);
        if same_source && same_cluster {
            return true;
        }
        let equal = (same_source || labels.source == key.source.value)
            && (same_cluster || labels.cluster == key.cluster.value);
        if equal {
            labels.source = Arc::clone(&key.source.value);
            labels.cluster = Arc::clone(&key.cluster.value);
        }
        equal
    }
}

#[cfg(test)]
mod tests;
