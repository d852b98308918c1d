//! Ten thousand label sets of requests and a million names, in little memory.
//!
//! A test binary of its own: what it measures is the memory of its whole process, so its tests run
//! one after the other.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use egret::internals::drain::Phase;
use egret::internals::identity::Identity;
use egret::internals::metrics::{
    Format, MetricsHub, ResponseCode, ResponseFlags, SeriesKey, WorkerMetrics,
};
use egret::internals::registry::snapshot::Cluster;
use egret::internals::workload::Workload;

const SERIES_MAX: usize = 10_000;
const MIB: u64 = 1024 * 1024;

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

#[test]
fn a_scrape_of_ten_thousand_label_sets_holds_no_text() {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let hub = MetricsHub::new(SERIES_MAX, 1);
    let mut requests = Requests::new(hub.worker(0));
    (0..SERIES_MAX).for_each(|n| requests.one(&format!("host-{n}.example")));
    let before = anonymous_memory_bytes();
    let (first, second) = (scrape(&hub), scrape(&hub));
    eprintln!("{before} bytes before, then {first:?} and {second:?}");
    // Each has its number, and three histograms of 20 buckets, a sum and a count.
    assert!(first.lines > 67 * SERIES_MAX as u64, "{first:?}");
    assert!(first.text_bytes > 300 * MIB, "{first:?}");
    // The sum over the workers is built once, and a list of the label sets for each scrape.
    assert!(first.memory_bytes_max < before + 8 * MIB, "{before} bytes, {first:?}");
    assert!(second.memory_bytes_max < first.memory_bytes_max + 2 * MIB, "{first:?} {second:?}");
}

#[test]
fn a_million_names_take_the_memory_of_the_bound() {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let hub = MetricsHub::new(1_000, 1);
    let mut workers = [0, 1].map(|id| Requests::new(hub.worker(id)));
    let mut round = |names: std::ops::Range<u64>| {
        for n in names {
            // Odd multiplier: distinct names that look like chance. The workers see the same ones.
            let name = format!("{:x}.example", n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            workers.iter_mut().for_each(|worker| worker.one(&name));
        }
        let scrape = scrape(&hub);
        (anonymous_memory_bytes(), scrape.lines)
    };
    let (few, lines_few) = round(0..20_000);
    let (many, lines_many) = round(20_000..1_000_000);
    eprintln!("{few} bytes after 20 000 names, {many} after a million");
    assert_eq!(lines_few, lines_many);
    assert!(many < few + MIB, "{few} bytes, then {many}");
}

/// A worker's requests.
struct Requests {
    worker: WorkerMetrics,
    source: Identity<Workload>,
    cluster: Identity<Cluster>,
}

impl Requests {
    fn new(worker: WorkerMetrics) -> Self {
        let cluster = Cluster::reserved("PassthroughCluster");
        let (source, cluster) = (Identity::new(Workload::default()), Identity::new(cluster));
        Self { worker, source, cluster }
    }

    fn one(&mut self, host: &str) {
        let table = &mut self.worker.requests;
        let series = table.find(SeriesKey {
            source: &self.source,
            cluster: &self.cluster,
            service: Some(host),
            destination_ip: None,
            response_code: Some(ResponseCode::Http(200)),
            flags: ResponseFlags::None,
            // No source comes near its share.
            maker: IpAddr::V4(u32::try_from(table.len()).expect("few").into()),
        });
        table.cells(series).record(700, 120, 5_000);
    }
}

/// What a scrape was, and the most memory that was in use while it was written.
#[derive(Debug, Default)]
struct Seen {
    text_bytes: u64,
    lines: u64,
    memory_bytes_max: u64,
    looked_at: u64,
}

fn scrape(hub: &MetricsHub) -> Seen {
    let mut seen = Seen::default();
    hub.write(Format::Text, Phase::Serving, &mut seen).expect("it takes everything");
    seen
}

impl fmt::Write for Seen {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        self.text_bytes += part.len() as u64;
        // Line ends are written one at a time.
        self.lines += u64::from(part.ends_with('\n'));
        if self.looked_at == 0 || self.text_bytes >= self.looked_at + MIB {
            self.looked_at = self.text_bytes;
            self.memory_bytes_max = self.memory_bytes_max.max(anonymous_memory_bytes());
        }
        Ok(())
    }
}

/// `RssAnon` of this process (proc_pid_status(5)).
fn anonymous_memory_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("proc is mounted");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.and_then(|kib| kib.parse::<u64>().ok()).expect("proc(5) has RssAnon") * 1024
}
