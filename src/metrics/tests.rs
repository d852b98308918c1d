//! What a scrape shows: names, label order, sums over workers, bounds, formats.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::catalogue::{CATALOGUE, Kind};
use super::testing::{Samples, cluster, key, read_strictly, reserved, workload};
use super::*;
use crate::drain::Phase;
use crate::http1::FramingError;
use crate::http2::FrameError;
use crate::http2::hpack::HpackError;
use crate::judge::RequestError;
use crate::sniff::NameError;

mod documents;

fn scrape(hub: &MetricsHub) -> Samples {
    let text = read_strictly(&hub.encode(Format::Text, Phase::Serving), Format::Text);
    let open = read_strictly(&hub.encode(Format::OpenMetrics, Phase::Serving), Format::OpenMetrics);
    let names = |s: &Samples| s.keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(names(&text), names(&open), "both formats show the same samples");
    text
}

/// The sum of the samples of `name` whose labels contain all of `parts`.
fn sum(samples: &Samples, name: &str, parts: &[&str]) -> f64 {
    let name = format!("{name}{{");
    samples
        .iter()
        .filter(|(s, _)| s.starts_with(&name) && parts.iter().all(|p| s.contains(p)))
        .map(|(_, value)| value)
        .sum()
}

/// A hub with something in every metric.
fn busy_hub() -> MetricsHub {
    let hub = MetricsHub::new(100, 1);
    for id in 0..2 {
        let mut worker = hub.worker(id);
        let source = workload("shop\"\\\n\u{1b}[31m");
        let open = worker.series.find(key(&source, &cluster("api.example")));
        worker.series.cells(open).opened.add(3);
        worker.series.cells(open).sent_bytes.add(1_000);
        worker.series.cells(open).received_bytes.add(10);
        let black_hole = worker.series.find(SeriesKey {
            flags: ResponseFlags::BlackHole,
            destination_ip: Some("2001:db8::1".parse().unwrap()),
            ..key(&source, &reserved("BlackHoleCluster"))
        });
        worker.series.cells(black_hole).count_failed();
        let requests = worker.requests.find(SeriesKey {
            service: Some("www.example.com"),
            response_code: Some(ResponseCode::Http(502)),
            ..key(&source, &reserved("BlackHoleCluster"))
        });
        let cells = worker.requests.cells(requests);
        cells.record(700, 120, 90);
        worker.counters.accepted.add(4);
        worker.counters.busy_us.add(1_500_000);
        worker.counters.closed(CloseReason::BlackHole).add(1);
        worker.record_connect(Duration::from_millis(2));
        worker.record_turn(Duration::from_micros(30));
        worker.publish();
    }
    hub.control().set_refused_documents([Path::new("a.yaml"), Path::new("a.yaml")].into_iter());
    hub
}

#[test]
fn istio_labels_stand_in_istios_order() {
    let text = busy_hub().encode(Format::Text, Phase::Serving);
    let line = text.lines().find(|l| l.starts_with("istio_tcp_sent_bytes_total{")).unwrap();
    assert_eq!(
        line,
        "istio_tcp_sent_bytes_total{reporter=\"source\",\
         source_workload=\"shop\\\"\\\\\\n\u{1b}[31m\",\
         source_canonical_service=\"shop\\\"\\\\\\n\u{1b}[31m\",\
         source_canonical_revision=\"latest\",source_workload_namespace=\"default\",\
         source_principal=\"unknown\",source_app=\"unknown\",source_version=\"unknown\",\
         source_cluster=\"unknown\",destination_workload=\"entry\",\
         destination_workload_namespace=\"egress\",destination_principal=\"unknown\",\
         destination_app=\"unknown\",destination_version=\"unknown\",\
         destination_service=\"api.example\",destination_canonical_service=\"unknown\",\
         destination_canonical_revision=\"latest\",destination_service_name=\"api.example\",\
         destination_service_namespace=\"egress\",destination_cluster=\"unknown\",\
         request_protocol=\"tcp\",response_flags=\"-\",\
         connection_security_policy=\"unknown\"} 2000"
    );
}

#[test]
fn requests_have_istios_25_labels_and_buckets() {
    let text = busy_hub().encode(Format::Text, Phase::Serving);
    let line = text.lines().find(|l| l.starts_with("istio_requests_total{")).unwrap();
    let tail = "destination_service=\"www.example.com\",\
         destination_canonical_service=\"unknown\",\
         destination_canonical_revision=\"latest\",destination_service_name=\"BlackHoleCluster\",\
         destination_service_namespace=\"unknown\",destination_cluster=\"unknown\",\
         request_protocol=\"http\",response_code=\"502\",grpc_response_status=\"\",\
         response_flags=\"-\",connection_security_policy=\"unknown\"} 2";
    assert!(line.ends_with(tail), "{line}");
    assert_eq!(line.matches("=\"").count(), 25);
    let samples = scrape(&busy_hub());
    let bucket =
        |name: &str, le: &str| sum(&samples, &format!("{name}_bucket"), &[&format!("le=\"{le}\"")]);
    let duration = "istio_request_duration_milliseconds";
    assert_eq!((bucket(duration, "0.5"), bucket(duration, "1.0")), (0.0, 2.0));
    assert_eq!(bucket("istio_request_bytes", "100.0"), 0.0);
    assert_eq!(bucket("istio_request_bytes", "250.0"), 2.0);
    assert_eq!(bucket("istio_response_bytes", "3600000.0"), 2.0);
    assert_eq!(sum(&samples, &format!("{duration}_sum"), &[]), 1.4);
    assert_eq!(sum(&samples, "istio_response_bytes_count", &[]), 2.0);
}

#[test]
fn a_blackholed_connection_is_opened_and_closed_and_has_no_bytes() {
    let samples = scrape(&busy_hub());
    let black_hole = ["destination_service_name=\"BlackHoleCluster\""];
    for counted in ["istio_tcp_connections_opened_total", "istio_tcp_connections_closed_total"] {
        assert_eq!(sum(&samples, counted, &black_hole), 2.0);
        assert_eq!(sum(&samples, counted, &["response_flags=\"UH\""]), 2.0);
        assert_eq!(sum(&samples, counted, &[",destination_ip=\"2001:db8::1\"}"]), 2.0);
    }
    for name in ["sent_bytes", "received_bytes"] {
        let name = format!("istio_tcp_{name}_total{{");
        let with_flags = |s: &&String| s.starts_with(&name) && s.contains("BlackHole");
        assert_eq!(samples.keys().find(with_flags), None);
    }
}

#[test]
fn a_scrape_shows_exactly_the_catalogue() {
    let text = busy_hub().encode(Format::Text, Phase::Serving);
    let helps: Vec<String> =
        text.lines().filter_map(|line| line.strip_prefix("# HELP ")).map(str::to_owned).collect();
    let rows: Vec<_> = CATALOGUE.iter().map(|row| format!("{} {}", row.name, row.help)).collect();
    assert_eq!(helps, rows);
    for row in CATALOGUE {
        let suffix = if matches!(row.kind, Kind::Histogram) { "_count" } else { "" };
        let (bare, labelled) =
            (format!("\n{}{suffix} ", row.name), format!("\n{}{suffix}{{", row.name));
        assert!(text.contains(&bare) || text.contains(&labelled), "{} has no sample", row.name);
    }
}

/// A hub of two workers in which every counter has a value of its own.
fn numbered_hub() -> MetricsHub {
    let hub = MetricsHub::new(100, 1);
    for id in 0..2 {
        let mut worker = hub.worker(id);
        let c = &*worker.counters;
        let cells = [
            &c.accepted,
            &c.refused_limit,
            &c.self_call,
            &c.accept_error,
            &c.connections_active,
            &c.bytes_copied,
            &c.bytes_spliced,
            &c.pipes_in_use,
            &c.pipe_fallbacks,
            &c.buffers_starved,
            &c.cq_overflow,
            &c.turns,
            &c.completions,
            &c.busy_us,
            &c.series_refused,
            &c.detecting,
            &c.detecting_bytes,
            &c.unverified_names,
            &c.name_conflicts,
            &c.upstream_switches,
            &c.blocked_streams,
            &c.access_log_dropped,
            c.closed(CloseReason::NoEndpoint),
            c.detected(Detected::ServerFirst),
            c.detected(Detected::TooLarge),
            c.junk_names(NameError::BadByte),
            c.refused_requests(RequestError::BadHost(NameError::BadPort)),
            c.refused_frames(FrameError::Hpack(HpackError::ListTooLarge)),
            c.unframed_answers(FramingError::BadChunk),
        ];
        (1..).zip(cells).for_each(|(n, cell)| cell.add(100 * id as u64 + n));
        worker.record_connect(Duration::from_millis(2));
        worker.record_turn(Duration::from_micros(30));
        worker.publish();
    }
    let c = hub.control();
    let cells = [
        &c.config_generation,
        &c.config_last_success_s,
        &c.dns_names,
        &c.access_log_lines,
        &c.access_log_lost,
        c.reloads(ReloadResult::Failure),
        c.dns_resolutions(DnsResult::Empty),
        &c.dns_addresses,
        &c.dns_evicted,
    ];
    (1_000..).zip(cells).for_each(|(n, cell)| cell.add(n));
    hub
}

/// Dashboards and alerts rest on names, types, helps and label values. A new metric needs no line
/// in `tests/scrape.txt`; what stands there stays.
#[test]
fn a_scrape_still_shows_what_it_has_shown() {
    let text = numbered_hub().encode(Format::Text, Phase::Serving);
    let shown: BTreeSet<_> = text.lines().collect();
    let gone: Vec<_> =
        include_str!("tests/scrape.txt").lines().filter(|l| !shown.contains(l)).collect();
    assert!(gone.is_empty(), "no longer shown:\n{}", gone.join("\n"));
}
#[test]
fn sums_run_over_all_workers() {
    let samples = scrape(&busy_hub());
    assert_eq!(sum(&samples, "istio_tcp_connections_opened_total", &[]), 8.0);
    assert_eq!(samples["egret_accepts_total{result=\"accepted\"}"], 8.0);
    assert_eq!(samples["egret_worker_busy_seconds_total{worker=\"1\"}"], 1.5);
    assert_eq!(samples["egret_connect_duration_seconds_count"], 2.0);
    assert_eq!(samples["egret_connect_duration_seconds_sum"], 0.004);
    assert_eq!(samples["egret_phase{phase=\"serving\"}"], 1.0);
    assert_eq!(samples["egret_phase{phase=\"draining\"}"], 0.0);
    assert_eq!(samples["egret_registry_refused_documents{file=\"a.yaml\"}"], 2.0);
    assert!(samples["egret_open_descriptors"] >= 3.0);
}

#[test]
fn promtool_accepts_a_scrape() {
    // The grammar is checked by `read_strictly` in any case; promtool adds its naming rules.
    let text = busy_hub().encode(Format::Text, Phase::Serving);
    assert!(!read_strictly(&text, Format::Text).is_empty());
    let child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => {
            eprintln!("promtool not checked: {error}; install Debian's prometheus package");
            return;
        }
    };
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    // The name is Istio's; promtool would have seconds (and ends with 3 for advice).
    let istio = "istio_request_duration_milliseconds use base unit";
    let more: Vec<_> = said.lines().filter(|l| !l.is_empty() && !l.starts_with(istio)).collect();
    assert!(matches!(output.status.code(), Some(0 | 3)) && more.is_empty(), "{said}");
}

#[test]
fn the_sum_is_bounded_and_never_goes_back() {
    let hub = MetricsHub::new(5, 1);
    let mut workers = [hub.worker(0), hub.worker(1)];
    let source = workload("shop");
    let mut before = Samples::new();
    let mut added = 0.0;
    for round in 0..12 {
        // The workers meet different label sets, so that together they have more than each.
        for (id, worker) in workers.iter_mut().enumerate() {
            let cluster = cluster(&format!("host-{}.example", round * (id + 1)));
            let index = worker.series.find(key(&source, &cluster));
            worker.series.cells(index).sent_bytes.add(7);
            added += 7.0;
        }
        let samples = scrape(&hub);
        assert_eq!(sum(&samples, "istio_tcp_sent_bytes_total", &[]), added);
        for (name, value) in before.iter().filter(|(name, _)| name.contains("_total")) {
            assert!(samples[name] >= *value, "{name} went back");
        }
        before = samples;
    }
    let opened = before.keys().filter(|s| s.starts_with("istio_tcp_connections_opened_total"));
    assert_eq!(opened.count(), 6, "five label sets and the one for the others");
    assert!(sum(&before, "istio_tcp_sent_bytes_total", &["destination_service=\"other\""]) > 0.0);
    assert!(before["egret_metric_series_overflow_total"] > 0.0);
    assert_eq!(before["egret_metric_series{kind=\"connections\"}"], 6.0);
    assert_eq!(before["egret_metric_series{kind=\"requests\"}"], 0.0);
}

#[test]
fn a_label_set_that_all_workers_have_given_up_leaves_and_begins_anew() {
    const SECOND: u64 = 1 << 20;
    let hub = MetricsHub::new(8, 1);
    let mut workers = [hub.worker(0), hub.worker(1)];
    workers.iter_mut().for_each(|worker| worker.set_idle(10 * SECOND));
    let source = workload("shop");
    let add = |worker: &mut WorkerMetrics, host: &str, seconds: u64| {
        worker.set_now(seconds * SECOND);
        let index = worker.series.find(key(&source, &cluster(host)));
        worker.series.cells(index).opened.add(1);
        let flagged = worker.series.with_flags(index, ResponseFlags::UpstreamRemoteReset);
        worker.series.cells(flagged).closed.add(1);
    };
    let opened = |host: &str| {
        let of = format!("destination_service=\"{host}\"");
        sum(&scrape(&hub), "istio_tcp_connections_opened_total", &[&of])
    };
    let is_even = || {
        let samples = scrape(&hub);
        let all = |name| sum(&samples, name, &[]);
        assert_eq!(
            all("istio_tcp_connections_opened_total"),
            all("istio_tcp_connections_closed_total")
        );
    };
    // Both workers have it, and fill the fold.
    let [first, second] = &mut workers;
    for _ in 0..3 {
        add(first, "old", 0);
    }
    add(second, "old", 15);
    ["b", "c", "d"].iter().for_each(|host| add(first, host, 15));
    assert_eq!(opened("old"), 4.0);
    add(first, "new", 20);
    assert_eq!(opened("old"), 4.0, "one worker has given it up, the other has not");
    assert_eq!(opened("new") + opened("other"), 1.0);
    is_even();
    add(second, "newer", 30);
    assert_eq!(opened("old"), 0.0);
    is_even();
    add(first, "old", 30);
    assert_eq!(opened("old") + opened("other"), 2.0, "it begins at nothing");
    is_even();
}

#[test]
fn accept_header_chooses_the_format() {
    for (accept, format) in [
        ("", Format::Text),
        ("*/*", Format::Text),
        ("text/plain", Format::Text),
        ("application/openmetrics-text", Format::OpenMetrics),
        ("application/openmetrics-text;q=0", Format::Text),
        ("application/openmetrics-text; q=0.2, text/plain", Format::Text),
        ("application/openmetrics-text;q=nonsense", Format::Text),
        // Prometheus 2.42.
        (
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;\
             version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            Format::OpenMetrics,
        ),
    ] {
        assert_eq!(Format::from_accept(accept), format, "{accept}");
    }
}

#[test]
fn ten_thousand_series_are_scraped_whole() {
    let hub = MetricsHub::new(10_000, 1);
    let mut worker = hub.worker(0);
    let source = workload("shop");
    let clusters: Vec<_> = (0..10_000).map(|n| cluster(&format!("host-{n}.example"))).collect();
    let round = |worker: &mut WorkerMetrics| {
        let start = Instant::now();
        for cluster in &clusters {
            let index = worker.series.find(key(&source, cluster));
            worker.series.cells(index).opened.add(1);
        }
        start.elapsed() / 10_000
    };
    let (miss, hit) = (round(&mut worker), round(&mut worker));
    eprintln!("a miss takes {miss:?}, a hit {hit:?}");
    let scrape = || {
        let start = Instant::now();
        (hub.encode(Format::Text, Phase::Serving), start.elapsed())
    };
    let ((_, first), (text, second)) = (scrape(), scrape());
    eprintln!("10 000 series: {} bytes in {first:?}, then {second:?}", text.len());
    let samples = read_strictly(&text, Format::Text);
    assert_eq!(sum(&samples, "istio_tcp_connections_opened_total", &[]), 20_000.0);
    assert_eq!(samples["egret_metric_series{kind=\"connections\"}"], 10_000.0);
    assert_eq!(samples["egret_metric_series_overflow_total"], 0.0);
}

#[test]
fn a_cell_counts_both_ways() {
    let cell = Cell::default();
    cell.add(5);
    cell.sub(2);
    assert_eq!(cell.get(), 3);
    cell.set(9);
    assert_eq!(cell.get(), 9);
}
