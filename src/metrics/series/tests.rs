//! The table of label sets: what is one, what finds room, and what gives its place away.

use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;

use super::*;
use crate::metrics::ResponseCode;
use crate::metrics::testing::{another_maker, cluster, key, workload};

type Announced = std::sync::mpsc::Receiver<Arc<Series<SeriesCells>>>;

fn table(series_max: usize) -> (SeriesTable<SeriesCells>, Announced) {
    let (announce, announced) = channel();
    let (hashes, counters, room) = Default::default();
    let table = SeriesTable::new(series_max, hashes, announce, counters, room);
    (table, announced)
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
    let (mut table, _announced) = table(100);
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
        SeriesKey { response_code: Some(ResponseCode::Http(0)), ..plain },
        SeriesKey { response_code: Some(ResponseCode::Http(502)), ..plain },
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
fn what_finds_no_room_keeps_its_source() {
    let (mut table, _announced) = table(1);
    let (shop, till) = (workload("shop"), workload("till"));
    table.find(key(&shop, &cluster("a")));
    let others = [&shop, &till].map(|source| table.find(key(source, &cluster("b"))));
    assert_ne!(others[0], others[1]);
    for (source, other) in [&shop, &till].into_iter().zip(others) {
        let labels = &table.entries[other.0 as usize].labels;
        assert_eq!(labels.source, source.value);
        assert_eq!(labels.cluster.service.as_deref(), Some("other"));
        assert_eq!(table.find(key(source, &cluster("c"))), other);
    }
}

/// The series of so many hosts, made by `maker`.
fn make(table: &mut SeriesTable<SeriesCells>, hosts: std::ops::Range<u32>, maker: IpAddr) -> usize {
    let (source, cluster) = (workload("shop"), cluster("api.example"));
    let before = table.len();
    for host in hosts {
        let name = format!("{host}.example");
        let key = SeriesKey { service: Some(&name), maker, ..key(&source, &cluster) };
        let index = table.find(key);
        table.cells(index).opened.add(1);
    }
    table.len() - before
}

#[test]
fn a_source_that_makes_many_label_sets_leaves_a_quarter_to_the_others() {
    let (mut table, _announced) = table(100);
    let (greedy, modest) = (another_maker(), another_maker());
    assert_eq!(make(&mut table, 0..1_000, greedy), 75);
    assert_eq!(table.counters.shed(Shed::Series).get(), 925);
    assert_eq!(make(&mut table, 1_000..1_025, modest), 25);
    assert_eq!(table.counters.shed(Shed::Series).get(), 925);
}

#[test]
fn an_idle_label_set_gives_its_place_away_with_all_its_flags() {
    let (mut table, announced) = table(3);
    table.set_idle(10);
    let (source, old, new) = (workload("shop"), cluster("old"), cluster("new"));
    let plain = table.find(key(&source, &old));
    let known = table.remember(plain);
    table.hold(plain);
    let flagged = table.with_flags(plain, ResponseFlags::UpstreamRemoteReset);
    table.find(key(&source, &cluster("busy")));
    let is_other = |table: &mut SeriesTable<SeriesCells>| {
        let index = table.find(key(&source, &new));
        table.entries[index.0 as usize].series.overflow == Overflow::Yes
    };
    table.set_now(9);
    table.find(key(&source, &cluster("busy")));
    table.set_now(12);
    assert!(is_other(&mut table), "a connection of it is open");
    table.release(plain);
    assert!(is_other(&mut table), "it has just been used");
    table.set_now(22);
    table.find(key(&source, &cluster("busy")));
    assert!(!is_other(&mut table));
    assert_eq!(table.len(), 2, "both of the old ones have gone");
    assert_eq!(table.recall(known), None);
    let retired: Vec<_> =
        announced.try_iter().filter(|series| series.retired.load(Ordering::Acquire)).collect();
    assert_eq!(retired.len(), 2);
    assert_ne!(flagged, plain);
    assert_eq!(table.makers.values().sum::<usize>(), 2);
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
    let other = table.find(SeriesKey { service: Some("junk"), ..key(&source, &cluster) });
    assert_eq!(table.cells(other).opened.get(), 999_000);
}
