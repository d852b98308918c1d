//! The label sets of one worker, found by the identities of source and cluster: one table for the
//! connections (`istio_tcp_*`), one for the requests (`istio_request*`).
//!
//! A worker looks a connection's series up after the verdict and again at its end, when the flags
//! are known; in between it only adds to cells. A hit hashes nothing and allocates nothing: the
//! identities carry their hashes. A new series is told to the control plane through a channel that
//! never blocks the worker; the worker keeps what it needs, so neither waits for the other.
//!
//! The table is bounded. What finds no room is accounted to one series, for good.

use std::hash::{BuildHasher, Hasher};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use super::labels::Labels;
use super::{Cell, ResponseFlags, WorkerCounters};
use crate::registry::snapshot::{Cluster, Identity};
use crate::workload::Workload;

/// What a connection is accounted to.
#[derive(Debug, Clone, Copy)]
pub struct SeriesKey<'a> {
    /// Who opened it: the `source_*` labels.
    pub source: &'a Identity<Workload>,
    /// Where it went: the `destination_service*` labels.
    pub cluster: &'a Identity<Cluster>,
    /// `destination_service`, if the connection or request has shown a name: in its normal form.
    /// `None`: the cluster's own.
    pub service: Option<&'a str>,
    /// `destination_ip`, if `metrics.destinationIp` is set.
    pub destination_ip: Option<IpAddr>,
    /// Of a request: its answer's status, 0 if there was none. `None` for a connection.
    pub response_code: Option<u16>,
    /// `response_flags`: none while it lives, then those of its close reason.
    pub flags: ResponseFlags,
}

/// The place of a series in the table of the worker that found it; good as long as the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeriesIndex(u32);

/// The counters of connections with one label set, written by one worker.
#[derive(Debug, Default)]
pub struct SeriesCells {
    /// Upstream connections established.
    pub opened: Cell,
    /// Connections that ended.
    pub closed: Cell,
    /// Bytes written to the downstream.
    pub sent_bytes: Cell,
    /// Bytes read from the downstream.
    pub received_bytes: Cell,
}

/// One label set of one worker: written by the worker, read at a scrape. Aligned so that no two
/// workers write to the same cache line.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Series<C> {
    pub(super) cells: C,
    pub(super) hash: u64,
    pub(super) labels: Labels,
    /// Whether it is the worker's overflow series.
    pub(super) overflow: Overflow,
}

/// Whether a series stands for one label set, or for all that found no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Overflow {
    /// One label set.
    No,
    /// All label sets that the worker's table refused.
    Yes,
}

/// One worker's series, with cells of one kind.
#[derive(Debug)]
pub struct SeriesTable<C> {
    entries: Vec<Entry<C>>,
    /// Where an entry stands, by the hash of its label set. The overflow series is not in it.
    places: HashTable<u32>,
    hashes: RandomState,
    overflow: Option<SeriesIndex>,
    /// Entries at most, the overflow series not counted.
    series_max: usize,
    announce: Sender<Arc<Series<C>>>,
    counters: Arc<WorkerCounters>,
}

#[derive(Debug)]
struct Entry<C> {
    /// The labels by the newest pointers seen, so that after a reload a hit is a hit by pointer
    /// again.
    labels: Labels,
    /// The hash of the label set without its flags.
    base_hash: u64,
    series: Arc<Series<C>>,
}

impl<C: Default> SeriesTable<C> {
    /// `hashes` is the same for all workers, so that equal label sets meet at a scrape, and has a
    /// seed that nobody outside knows: names are chosen by peers, who could make them collide.
    pub(super) fn new(
        series_max: usize,
        hashes: RandomState,
        announce: Sender<Arc<Series<C>>>,
        counters: Arc<WorkerCounters>,
    ) -> Self {
        // The index is a u32, and the overflow series takes one place.
        let series_max = series_max.min(u32::MAX as usize - 1);
        let (entries, places, overflow) = Default::default();
        Self { entries, places, hashes, overflow, series_max, announce, counters }
    }

    /// The series of `key`; a new one if there is room, else the overflow series.
    pub fn find(&mut self, key: SeriesKey<'_>) -> SeriesIndex {
        let base_hash = key.base_hash(&self.hashes);
        let hash = self.with_flags_hash(base_hash, key.flags);
        if let Some(index) = self.search(hash, |entry| entry.is(&key)) {
            return index;
        }
        self.insert(key.to_labels(), base_hash, hash)
    }

    /// The series that differs from `index` in its flags alone: how a connection ends is known only
    /// then. The overflow series stands for all flags.
    pub fn with_flags(&mut self, index: SeriesIndex, flags: ResponseFlags) -> SeriesIndex {
        let entry = &self.entries[index.0 as usize];
        if entry.labels.flags == flags || self.overflow == Some(index) {
            return index;
        }
        let labels = Labels { flags, ..entry.labels.clone() };
        let base_hash = entry.base_hash;
        let hash = self.with_flags_hash(base_hash, flags);
        if let Some(index) = self.search(hash, |entry| entry.labels == labels) {
            return index;
        }
        self.insert(labels, base_hash, hash)
    }

    /// `destination_service_name` of a series.
    #[must_use]
    pub fn cluster_name(&self, index: SeriesIndex) -> &str {
        &self.entries[index.0 as usize].labels.cluster.service_name
    }

    fn search(
        &mut self,
        hash: u64,
        mut is_wanted: impl FnMut(&mut Entry<C>) -> bool,
    ) -> Option<SeriesIndex> {
        // A place is the index of an entry; entries are never removed.
        let place =
            self.places.find(hash, |place| is_wanted(&mut self.entries[*place as usize]))?;
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
        // Indices come from `find` alone, and entries are never removed.
        &self.entries[index.0 as usize].series.cells
    }

    /// Label sets in the table, the overflow series not counted.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len() - usize::from(self.overflow.is_some())
    }

    /// Whether no connection has been accounted yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    #[cold]
    fn insert(&mut self, labels: Labels, base_hash: u64, hash: u64) -> SeriesIndex {
        if self.len() >= self.series_max {
            self.counters.series_refused.add(1);
            if let Some(index) = self.overflow {
                return index;
            }
            let code = labels.response_code.map(|_| 0);
            let index = self.push(Labels::other(code), (0, 0), Overflow::Yes);
            self.overflow = Some(index);
            return index;
        }
        let index = self.push(labels, (base_hash, hash), Overflow::No);
        let entries = &self.entries;
        self.places.insert_unique(hash, index.0, |place| entries[*place as usize].series.hash);
        index
    }

    fn push(
        &mut self,
        labels: Labels,
        (base_hash, hash): (u64, u64),
        overflow: Overflow,
    ) -> SeriesIndex {
        let cells = C::default();
        let series = Arc::new(Series { cells, hash, labels: labels.clone(), overflow });
        // The receiver ends before the workers only when the process ends: nobody scrapes any more.
        let _ = self.announce.send(Arc::clone(&series));
        let index = u32::try_from(self.entries.len())
            .expect("series_max is below u32::MAX, so is the number of entries");
        self.entries.push(Entry { labels, base_hash, series });
        SeriesIndex(index)
    }
}

impl SeriesKey<'_> {
    /// The hash of the label set without its flags, from the hashes that the identities carry.
    fn base_hash(&self, hashes: &RandomState) -> u64 {
        let mut hasher = hashes.build_hasher();
        hasher.write_u64(self.source.hash);
        hasher.write_u64(self.cluster.hash);
        if let Some(code) = self.response_code {
            hasher.write_u16(code);
        }
        match self.destination_ip {
            None => {}
            Some(IpAddr::V4(ip)) => hasher.write_u32(ip.to_bits()),
            Some(IpAddr::V6(ip)) => hasher.write_u128(ip.to_bits()),
        }
        if let Some(service) = self.service {
            hasher.write(service.as_bytes());
        }
        hasher.finish()
    }

    fn to_labels(self) -> Labels {
        Labels {
            source: Arc::clone(&self.source.value),
            cluster: Arc::clone(&self.cluster.value),
            service: self.service.map(Into::into),
            destination_ip: self.destination_ip,
            response_code: self.response_code,
            flags: self.flags,
        }
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
mod tests {
    use std::sync::mpsc::channel;

    use super::*;
    use crate::metrics::testing::{cluster, workload};

    type Announced = std::sync::mpsc::Receiver<Arc<Series<SeriesCells>>>;

    fn table(series_max: usize) -> (SeriesTable<SeriesCells>, Announced) {
        let (announce, announced) = channel();
        let table = SeriesTable::new(series_max, RandomState::default(), announce, Arc::default());
        (table, announced)
    }

    fn key<'a>(source: &'a Identity<Workload>, cluster: &'a Identity<Cluster>) -> SeriesKey<'a> {
        SeriesKey {
            source,
            cluster,
            service: None,
            destination_ip: None,
            response_code: None,
            flags: ResponseFlags::None,
        }
    }

    #[test]
    fn the_same_label_set_is_the_same_series() {
        let (mut table, announced) = table(10);
        let (source, cluster) = (workload("shop"), cluster("api.example"));
        let first = table.find(key(&source, &cluster));
        table.cells(first).opened.add(1);
        assert_eq!(table.find(key(&source, &cluster)), first);
        assert_eq!(table.cells(first).opened.get(), 1);
        assert_eq!(announced.try_iter().count(), 1);
    }

    #[test]
    fn an_equal_value_of_another_generation_is_the_same_series() {
        let (mut table, _announced) = table(10);
        let first = table.find(key(&workload("shop"), &cluster("api.example")));
        let second = table.find(key(&workload("shop"), &cluster("api.example")));
        assert_eq!(first, second);
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn every_part_of_the_key_tells_series_apart() {
        let (mut table, _announced) = table(10);
        let (shop, till) = (workload("shop"), workload("till"));
        let (cluster_a, cluster_b) = (cluster("a"), cluster("b"));
        let plain = key(&shop, &cluster_a);
        let keys = [
            plain,
            key(&shop, &cluster_b),
            key(&till, &cluster_a),
            SeriesKey { destination_ip: Some("0.0.0.1".parse().unwrap()), ..plain },
            SeriesKey { destination_ip: Some("::1".parse().unwrap()), ..plain },
            SeriesKey { flags: ResponseFlags::BlackHole, ..plain },
            SeriesKey { service: Some("a"), ..plain },
            SeriesKey { service: Some("b"), ..plain },
            SeriesKey { response_code: Some(0), ..plain },
            SeriesKey { response_code: Some(502), ..plain },
        ];
        let mut indices: Vec<_> = keys.into_iter().map(|k| table.find(k).0).collect();
        indices.sort_unstable();
        indices.dedup();
        assert_eq!(indices.len(), 10);
    }

    #[test]
    fn colliding_hashes_do_not_mix_label_sets() {
        let (mut table, _announced) = table(10);
        let source = workload("shop");
        let mut a = cluster("a");
        let mut b = cluster("b");
        a.hash = 7;
        b.hash = 7;
        let first = table.find(key(&source, &a));
        let second = table.find(key(&source, &b));
        assert_ne!(first, second);
        assert_eq!(table.find(key(&source, &a)), first);
        assert_eq!(table.find(key(&source, &b)), second);
    }

    #[test]
    fn a_full_table_accounts_what_is_new_to_one_series() {
        let (mut table, announced) = table(3);
        let source = workload("shop");
        let clusters: Vec<_> = (0..6).map(|n| cluster(&format!("host-{n}"))).collect();
        let indices: Vec<_> = clusters.iter().map(|c| table.find(key(&source, c))).collect();
        assert_eq!(table.len(), 3);
        assert_eq!(indices[3], indices[4]);
        assert_eq!(indices[3], indices[5]);
        assert!(!indices[..3].contains(&indices[3]));
        assert_eq!(table.counters.series_refused.get(), 3);
        assert_eq!(announced.try_iter().filter(|s| s.overflow == Overflow::Yes).count(), 1);
    }

    #[test]
    fn a_million_names_leave_the_table_at_its_bound() {
        let (mut table, announced) = table(1_000);
        let (source, cluster) = (workload("shop"), cluster("api.example"));
        for n in 0..1_000_000 {
            let name = format!("{n:x}.junk.example");
            let index = table.find(SeriesKey { service: Some(&name), ..key(&source, &cluster) });
            table.cells(index).opened.add(1);
        }
        assert_eq!(table.len(), 1_000);
        assert_eq!(table.places.len(), 1_000);
        assert_eq!(announced.try_iter().count(), 1_001);
        assert_eq!(table.counters.series_refused.get(), 999_000);
        let other = table.overflow.unwrap();
        assert_eq!(table.cells(other).opened.get(), 999_000);
    }
}
