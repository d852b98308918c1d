//! The servers over real HTTP, with workers that are played by the test.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use tempfile::TempDir;

use super::reload::Watching;
use super::testing::{Answer, config, get, http, real_source, source, wait_until};
use super::*;
use crate::commands::{ConnectionInfo, ConnectionPage};
use crate::config;
use crate::drain::Phase;
use crate::metrics::testing::{another_maker, cluster, read_strictly, workload};
use crate::metrics::{Format, ReloadResult, ResponseCode, ResponseFlags, SeriesKey};
use crate::registry::Snapshot;
use crate::sys::waker::Waker;

struct Bench {
    directory: TempDir,
    addresses: Addresses,
    registry: Registry,
    drain: Drain,
    metrics: MetricsHub,
    access_log: AccessLog,
    workers: Vec<Receiver<Command>>,
    _handle: Handle,
}

fn bench(debug: DebugEndpoints) -> Bench {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("a.yaml"), "info one end").unwrap();
    let read = source(directory.path(), Watching::PollOnly, Duration::from_secs(3600));
    bench_of(directory, read, debug)
}

fn bench_of(
    directory: TempDir,
    (source, first): (reload::Source, Snapshot),
    debug: DebugEndpoints,
) -> Bench {
    let control = Control::bind(&config()).unwrap();
    let addresses = control.addresses();
    let (registry, drain) = (Registry::new(first), Drain::default());
    let metrics = MetricsHub::new(100, 1);
    let (log, access_log) = access_log::open(&config::AccessLog {
        format: config::AccessLogFormat::Text,
        path: Some(directory.path().join("access.log")),
    });
    let (senders, workers) = (0..2).map(|_| CommandSender::new(Waker::new().unwrap())).unzip();
    let inputs = Inputs {
        registry: registry.clone(),
        drain: drain.clone(),
        workers: senders,
        questions: questions::channel().1,
        metrics: metrics.clone(),
        access_log,
        source,
        set_log_level: Box::new(|level| match level {
            "info" | "debug" => Ok(()),
            _ => Err(format!("{level} is not a level")),
        }),
        signals: None,
        debug,
    };
    let _handle = control.start(inputs).unwrap();
    Bench { directory, addresses, registry, drain, metrics, access_log: log, workers, _handle }
}

fn quiet() -> Bench {
    bench(DebugEndpoints::Off)
}

impl Bench {
    fn get(&self, path: &str) -> Answer {
        get(self.addresses.admin, path)
    }

    fn post(&self, path: &str) -> Answer {
        http(self.addresses.admin, "POST", path, "")
    }
}

#[test]
fn a_scrape_comes_in_the_format_that_was_asked_for() {
    let bench = quiet();
    let worker = bench.metrics.worker(0);
    worker.counters.accepted.add(3);
    for (accept, format) in [
        ("", Format::Text),
        ("Accept: application/openmetrics-text;version=1.0.0\r\n", Format::OpenMetrics),
    ] {
        for path in ["/metrics", "/stats/prometheus"] {
            let answer = http(bench.addresses.metrics, "GET", path, accept);
            assert_eq!(answer.status, 200);
            assert!(answer.head.contains(&format!("content-type: {}", format.content_type())));
            let samples = read_strictly(&answer.body, format);
            assert_eq!(samples["egret_accepts_total{result=\"accepted\"}"], 3.0);
            assert_eq!(samples["egret_config_generation"], 1.0);
            assert_eq!(samples["egret_phase{phase=\"starting\"}"], 1.0);
        }
    }
    assert_eq!(http(bench.addresses.metrics, "POST", "/metrics", "").status, 405);
    assert_eq!(get(bench.addresses.metrics, "/config").status, 404);
}

#[test]
fn a_scraper_that_does_not_read_holds_up_nobody() {
    let bench = quiet();
    let mut worker = bench.metrics.worker(0);
    let (source, cluster) = (workload("shop"), cluster("api.example"));
    for n in 0..100 {
        let name = format!("host-{n}.example");
        let series = worker.requests.find(SeriesKey {
            source: &source,
            cluster: &cluster,
            service: Some(&name),
            destination_ip: None,
            response_code: Some(ResponseCode::Http(200)),
            flags: ResponseFlags::None,
            maker: another_maker(),
        });
        worker.requests.cells(series).record(3_000, 100, 2_000);
    }
    let slow: Vec<_> = (0..SCRAPERS_MAX - 1)
        .map(|_| {
            let mut stream = TcpStream::connect(bench.addresses.metrics).unwrap();
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
            // The answer has begun: its writer is at work.
            stream.read_exact(&mut [0; 100]).unwrap();
            stream
        })
        .collect();
    assert_eq!(get(bench.addresses.health, "/healthz/live").status, 200);
    let answer = get(bench.addresses.metrics, "/metrics");
    let samples = read_strictly(&answer.body, Format::Text);
    let lines = samples.keys().filter(|name| name.starts_with("istio_re"));
    // Requests, and three histograms of 20 buckets, a sum and a count.
    assert_eq!(lines.count(), 100 * (1 + 3 * 22));
    drop(slow);
}

#[test]
fn ready_means_serving() {
    let bench = quiet();
    let ready = || get(bench.addresses.health, "/healthz/ready");
    assert_eq!(ready().status, 503);
    assert!(ready().body.contains("starting"));
    bench.drain.serve();
    assert_eq!(ready().status, 200);
    bench.drain.begin(Duration::from_secs(1));
    assert_eq!(ready().status, 503);
    assert!(ready().body.contains("draining"));
    assert_eq!(get(bench.addresses.health, "/healthz/live").status, 200);
}

#[test]
fn the_index_lists_every_endpoint() {
    let bench = quiet();
    let index = bench.get("/").body;
    for line in index.lines() {
        let (method, rest) = line.split_once(' ').unwrap();
        let path = rest.trim().split(['?', ' ']).next().unwrap();
        // Asked with the other method: 405 says that the path is known.
        let other = if method == "GET" { "DELETE" } else { "PUT" };
        assert_eq!(http(bench.addresses.admin, other, path, "").status, 405, "{line}");
    }
}

#[test]
fn nothing_changes_but_on_post() {
    let bench = quiet();
    bench.drain.serve();
    for path in ["/drain", "/reload"] {
        assert_eq!(bench.get(path).status, 405, "{path}");
    }
    assert_eq!(bench.get("/log?level=debug").json()["level"], "info");
    assert_eq!(bench.drain.phase(), Phase::Serving);
    assert_eq!(bench.get("/no/such").status, 404);
    assert_eq!(bench.post("/debug/panic?worker=0").status, 404);
    for headers in ["Host: evil.example\r\n", "Origin: http://evil.example\r\n"] {
        assert_eq!(http(bench.addresses.admin, "POST", "/drain", headers).status, 403);
    }
    assert_eq!(bench.drain.phase(), Phase::Serving);
}

#[test]
fn a_drain_on_request_wakes_the_workers() {
    let bench = quiet();
    bench.drain.serve();
    let answer = bench.post("/drain");
    assert_eq!(answer.status, 202);
    assert_eq!(answer.json()["began"], true);
    assert_eq!(bench.drain.phase(), Phase::Draining);
    for worker in &bench.workers {
        assert!(matches!(worker.recv().unwrap(), Command::Drain));
    }
    assert_eq!(bench.post("/drain").json()["began"], false);
}

#[test]
fn the_log_level_can_be_seen_and_changed() {
    let bench = quiet();
    assert_eq!(bench.post("/log?level=debug").status, 200);
    assert_eq!(bench.get("/log").json()["level"], "debug");
    let answer = bench.post("/log?level=loud");
    assert_eq!(answer.status, 400);
    assert_eq!(answer.json()["error"], "loud is not a level");
    assert_eq!(bench.post("/log").status, 400);
    assert_eq!(bench.get("/log").json()["level"], "debug");
}

#[test]
fn a_reload_on_request_shows_in_registry_config_and_metrics() {
    let bench = quiet();
    let file = bench.directory.path().join("a.yaml");
    std::fs::write(&file, "info two end").unwrap();
    let answer = bench.post("/reload");
    assert_eq!((answer.status, &answer.json()["result"]), (200, &"success".into()));
    assert!(bench.get("/config").body.contains("two"));
    let registry = bench.get("/registry").json();
    assert_eq!(registry["generation"], 2);
    assert_eq!(registry["outboundTrafficPolicy"], "ALLOW_ANY");
    assert_eq!(registry["services"], serde_json::json!([]));

    std::fs::write(&file, "broken").unwrap();
    let answer = bench.post("/reload");
    assert_eq!(answer.status, 422);
    assert!(answer.json()["problems"][0].as_str().unwrap().contains("a.yaml:1: error"));
    let registry = bench.get("/registry").json();
    assert_eq!(registry["generation"], 2);
    assert_eq!(registry["refused"].as_array().unwrap().len(), 1);
    let reloads = |result| bench.metrics.control().reloads(result).get();
    assert_eq!(reloads(ReloadResult::Success), 1);
    assert_eq!(reloads(ReloadResult::Failure), 1);
    assert_eq!(bench.registry.current().generation, 2);
}

#[test]
fn a_refused_document_shows_in_registry_config_and_metrics() {
    let directory = tempfile::tempdir().unwrap();
    let entry = |port: u16| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: a}}\n\
             spec: {{hosts: [a.example], ports: [{{number: {port}, name: h, protocol: HTTP}}]}}\n"
        )
    };
    let file = directory.path().join("egret.yaml");
    let registry = directory.path().join("r.yaml");
    std::fs::write(&file, "registry: [r.yaml]\n").unwrap();
    std::fs::write(&registry, entry(80)).unwrap();
    let read = real_source(&file, Watching::PollOnly, Duration::from_secs(3600));
    let bench = bench_of(directory, read, DebugEndpoints::Off);
    let as_configuration = || bench.get("/config").body;
    assert!(!as_configuration().contains("refusedDocuments"), "it can be used as a file");
    assert_eq!(bench.get("/registry").json()["refusedDocuments"], serde_json::json!([]));

    std::fs::write(&registry, entry(0)).unwrap();
    let answer = bench.post("/reload");
    assert_eq!((answer.status, &answer.json()["generation"]), (422, &2.into()));
    let refused = serde_json::json!([{
        "file": registry, "line": 1, "kind": "ServiceEntry", "namespace": "default", "name": "a",
        "stale": true,
    }]);
    let shown = bench.get("/registry").json();
    assert_eq!(shown["refusedDocuments"], refused);
    assert_eq!(shown["services"][0]["stale"], true);
    assert!(shown["refused"][0].as_str().unwrap().contains("r.yaml:4: error: "), "{shown}");
    let shown: serde_json::Value = serde_yaml::from_str(&as_configuration()).unwrap();
    assert_eq!(shown["refusedDocuments"], refused);
    let scrape = bench.metrics.encode(Format::Text, Phase::Serving);
    let samples = read_strictly(&scrape, Format::Text);
    let sample = format!("egret_registry_refused_documents{{file=\"{}\"}}", registry.display());
    assert_eq!(samples[&sample], 1.0);
}

/// Plays a worker with `count` connections, 256 to a page, until the channel is closed.
fn play_worker(id: usize, requests: Receiver<Command>, count: usize) {
    let connection = |slot: usize| ConnectionInfo {
        worker: id,
        downstream: ([10, 0, 0, 1], u16::try_from(slot).unwrap()).into(),
        original_destination: ([192, 0, 2, 1], 443).into(),
        cluster: "PassthroughCluster".into(),
        phase: "relaying",
        age: Duration::from_millis(1_500),
        received_bytes: 1,
        sent_bytes: 2,
    };
    for request in requests {
        let Command::Connections { from, reply } = request else { continue };
        let end = count.min(from + crate::commands::CONNECTIONS_PER_PAGE);
        let connections = (from..end).map(connection).collect();
        let next = (end < count).then_some(end);
        let _ = reply.send(ConnectionPage { connections, next });
    }
}

#[test]
fn a_reload_switches_the_access_log() {
    let bench = quiet();
    let file = bench.directory.path().join("a.yaml");
    for (text, is_on) in [("told", true), ("untold", false)] {
        std::fs::write(&file, format!("info {text} end")).unwrap();
        assert_eq!(bench.post("/reload").json()["result"], "success");
        assert_eq!(bench.access_log.is_on(), is_on);
    }
}

#[test]
fn live_connections_come_from_all_workers_page_by_page() {
    let mut bench = quiet();
    for (id, requests) in bench.workers.drain(..).enumerate() {
        std::thread::spawn(move || play_worker(id, requests, 600));
    }
    let answer = bench.get("/connections?limit=100000").json();
    let connections = answer["connections"].as_array().unwrap();
    let distinct: HashSet<_> =
        connections.iter().map(|c| format!("{} {}", c["worker"], c["downstream"])).collect();
    assert_eq!(distinct.len(), 1_200);
    assert_eq!(answer["truncated"], false);
    assert_eq!(connections[0]["originalDestination"], "192.0.2.1:443");
    assert_eq!(connections[0]["age"], 1_500);

    let answer = bench.get("/connections").json();
    assert_eq!(answer["connections"].as_array().unwrap().len(), 1_000);
    assert_eq!(answer["truncated"], true);
    assert_eq!(bench.get("/connections?limit=nonsense").status, 400);
}

#[test]
fn a_worker_that_has_ended_is_named() {
    let mut bench = quiet();
    let second = bench.workers.pop().unwrap();
    bench.workers.clear();
    std::thread::spawn(move || play_worker(1, second, 3));
    let answer = bench.get("/connections").json();
    assert_eq!(answer["unanswered"], serde_json::json!([0]));
    assert_eq!(answer["connections"].as_array().unwrap().len(), 3);
}

#[test]
fn latencies_are_shown_as_quantiles() {
    let bench = quiet();
    let mut worker = bench.metrics.worker(0);
    (1..=100).for_each(|ms| worker.record_connect(Duration::from_millis(ms)));
    worker.publish();
    let connect = &bench.get("/stats").json()["connect"];
    assert_eq!(connect["count"], 100);
    let p50_us = connect["p50Us"].as_u64().unwrap();
    assert!((49_000..52_000).contains(&p50_us), "{p50_us}");
}

#[test]
fn a_worker_panics_only_where_that_is_enabled() {
    let bench = bench(DebugEndpoints::On);
    assert_eq!(bench.get("/debug/panic?worker=1").status, 405);
    assert_eq!(bench.post("/debug/panic?worker=2").status, 404);
    assert_eq!(bench.post("/debug/panic?worker=1").status, 202);
    assert!(matches!(bench.workers[1].recv().unwrap(), Command::Panic));
}

#[test]
fn a_taken_port_is_named_with_what_to_do() {
    let mut config = config();
    let first = Control::bind(&config).unwrap();
    config.metrics.address = first.addresses().metrics;
    let error = Control::bind(&config).unwrap_err().to_string();
    assert!(error.starts_with("port taken: the metrics server"), "{error}");
    assert!(error.contains(&config.metrics.address.to_string()), "{error}");
    assert!(error.contains("metrics.address"), "{error}");
    config.metrics.address = "192.0.2.1:0".parse().unwrap();
    let error = Control::bind(&config).unwrap_err().to_string();
    assert!(error.starts_with("no such address: "), "{error}");
}

#[test]
fn clients_that_send_nothing_hold_a_bounded_number_of_places() {
    let bench = quiet();
    for address in [bench.addresses.health, bench.addresses.metrics, bench.addresses.admin] {
        let connect = || TcpStream::connect(address).unwrap();
        let silent: Vec<_> = (0..CLIENTS_MAX + 5).map(|_| connect()).collect();
        let mut late = connect();
        write!(late, "GET / HTTP/1.0\r\n\r\n").unwrap();
        assert!(late.read(&mut [0]).is_ok_and(|count| count == 1), "it is answered");
        let is_cut = |client: &&TcpStream| {
            client.set_nonblocking(true).unwrap();
            let peeked = client.peek(&mut [0]).map_err(|error| error.kind());
            peeked != Err(io::ErrorKind::WouldBlock)
        };
        wait_until("those beyond the places to be cut", || {
            silent.iter().filter(is_cut).count() > 5
        });
        assert!(silent.iter().filter(is_cut).count() < silent.len(), "others keep theirs");
    }
}

#[test]
fn long_work_gives_way_to_the_workers() {
    // Field 19 of proc_pid_stat(5); the second one ends with the only closing bracket.
    fn nice() -> i32 {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        let (_, from_the_third) = stat.rsplit_once(") ").unwrap();
        from_the_third.split(' ').nth(19 - 3).unwrap().parse().unwrap()
    }
    let (tell, told) = std::sync::mpsc::channel();
    let thread = start_behind_workers("long", move || tell.send(nice()).unwrap()).unwrap();
    thread.join().unwrap();
    assert_eq!(told.recv().unwrap(), (nice() + 10).min(19));
}
