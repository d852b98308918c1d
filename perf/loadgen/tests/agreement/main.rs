//! Whether loadgen can be believed: it agrees with what others measure and with what is known, its
//! counts are the server's counts, it shows a stall, and it finds a wrong byte.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod full_speed;
mod peers;
mod support;

use std::net::{SocketAddr, TcpListener};
use std::ops::RangeInclusive;
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine};
use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
use serde_json::Value;

use peers::{
    Towards, corrupting_relay, every_other_reset, paced_http, paced_relay, slow_echo, stalling_echo,
};
use support::{
    Directory, Iperf, Running, Serve, alone, assert_ratios, load, loadgen, on_one_core, output,
};

/// How far a tool may lie from the truth, as a factor: a second holds 10 % of beginning, end and
/// whatever else the machine does.
const AGREEMENT: RangeInclusive<f64> = 0.9..=1.1;

const REQUESTS_PER_SECOND: f64 = 2000.0;
const CONNECTIONS: f64 = 8.0;
/// A small part of what a core can relay: also beside other programs the pace is the limit.
const BYTES_PER_SECOND: f64 = 30e6;

/// A server that answers at a known pace makes the tools say the same number, which is also known.
/// At full speed (`full_speed`) nobody knows it, and the machine changes it from second to second.
#[test]
fn requests_per_second_and_latency_agree_with_wrk_and_h2load() {
    let _alone = alone();
    let target = paced_http(REQUESTS_PER_SECOND).to_string();
    let url = format!("http://{target}/");
    // Little's law: in the system are as many requests as there are connections.
    let latency_ms = CONNECTIONS / REQUESTS_PER_SECOND * 1e3;
    let names = ["the truth", "wrk's", "h2load's", "the true latency", "wrk's latency"];
    assert_ratios(names, &AGREEMENT, || {
        let http = ["http", "--target", &target, "--connections", "8", "--host", "a.example"];
        let own = load(&[&http, &["--seconds", "1", "--warmup", "0.2"][..]].concat());
        let own_rate = own["per_second"].as_f64().unwrap();
        let own_ms = own["latency_us"]["p50"].as_f64().unwrap() / 1e3;
        let wrk = output(on_one_core("wrk").args(["-t1", "-c8", "-d1s", "--latency", &url]));
        let (wrk_rate, wrk_ms) = (number_after(&wrk, "Requests/sec:"), number_after(&wrk, "50%"));
        let h2load = output(on_one_core("h2load").args(["--h1", "-c8", "-t1", "-D1", &url]));
        // finished in 1.00s, 12345.67 req/s, 1.23MB/s
        let finished = h2load.lines().find(|line| line.starts_with("finished in")).unwrap();
        let h2load_rate = number_after(finished, ",");
        [
            own_rate / REQUESTS_PER_SECOND,
            own_rate / wrk_rate,
            own_rate / h2load_rate,
            own_ms / latency_ms,
            own_ms / wrk_ms,
        ]
    });
}

/// The same for bytes: both pass through a relay that lets a known number through each second.
#[test]
fn bits_per_second_agree_with_iperf3() {
    let _alone = alone();
    let server = Serve::start(&[]);
    let iperf = Iperf::start();
    let target = paced_relay(server.sink, BYTES_PER_SECOND).to_string();
    let iperf_port = paced_relay(iperf.address, BYTES_PER_SECOND).port().to_string();
    assert_ratios(["the truth", "iperf3's"], &AGREEMENT, || {
        let bulk = ["bulk", "--target", &target, "--streams", "2"];
        let own = load(&[&bulk, &["--seconds", "1", "--warmup", "0.5"][..]].concat());
        let own = own["bits_per_second"].as_f64().unwrap();
        let iperf3 = ["-c", "127.0.0.1", "-p", &iperf_port, "-P", "2", "-t", "1", "-J"];
        let iperf3: Value =
            serde_json::from_str(&output(on_one_core("iperf3").args(iperf3))).unwrap();
        let iperf3 = iperf3["end"]["sum_received"]["bits_per_second"].as_f64().unwrap();
        [own / (BYTES_PER_SECOND * 8.0), own / iperf3]
    });
}

#[test]
fn counts_are_the_servers_counts() {
    let _alone = alone();
    let count = |own: &Value, key: &str| own["overall"][key].as_u64().unwrap();

    let server = Serve::start(&[]);
    let target = server.http.to_string();
    let http = ["http", "--target", &target, "--connections", "5", "--host", "a", "--host", "b"];
    let own = load(&[&http, &["--seconds", "0.5", "--verify"][..]].concat());
    let served = server.stop();
    assert_eq!(served["requests"], own["overall"]["requests"]);
    assert_eq!(served["accepted"], 5);
    assert_eq!(served["bytes_sent"], own["overall"]["bytes_received"]);
    assert_eq!(served["bytes_received"], own["overall"]["bytes_sent"]);
    assert_eq!(own["statuses"]["200"], own["requests"]);
    assert!(count(&own, "requests") > own["requests"].as_u64().unwrap(), "no warm-up: {own}");

    let server = Serve::start(&[]);
    let target = server.echo.to_string();
    let churn = ["churn", "--target", &target, "--connections", "5", "--message", "100"];
    let own = load(&[&churn, &["--seconds", "0.5", "--rate", "1000"][..]].concat());
    let served = server.stop();
    assert_eq!(own["requests"].as_u64().unwrap() + own["late"].as_u64().unwrap(), 500);
    assert_eq!(served["accepted"], own["overall"]["connections"]);
    assert_eq!(served["accepted"], own["overall"]["requests"]);
    assert_eq!(served["bytes_received"].as_u64().unwrap(), 100 * count(&own, "requests"));

    let server = Serve::start(&["--verify"]);
    let target = server.sink.to_string();
    let own =
        load(&["bulk", "--target", &target, "--streams", "3", "--seconds", "0.5", "--verify"]);
    let served = server.stop();
    assert_eq!(served["bytes_received"], own["overall"]["bytes_sent"]);
    assert_eq!(served["mismatches"], 0);
    assert!(count(&own, "bytes_sent") > 1 << 20, "{own}");
}

/// 300 ms in which nothing is answered, in 2 s with 1000 requests a second: the requests of those
/// 300 ms are 15 % of all. The closed loop sends one of them.
#[test]
fn a_stall_shows_in_the_open_loop_and_hides_in_the_closed_one() {
    let _alone = alone();
    const STALL: Duration = Duration::from_millis(300);
    let percentile = |own: &Value, name: &str| own["latency_us"][name].as_f64().unwrap() / 1e3;
    let run = |loop_: &[&str]| {
        let target = stalling_echo(STALL, Duration::from_secs(1)).to_string();
        let rr = ["rr", "--target", &target, "--connections", "1", "--message", "64"];
        load(&[&rr, &["--seconds", "2", "--warmup", "0"][..], loop_].concat())
    };

    let open = run(&["--rate", "1000"]);
    println!("open: {open}");
    let late = open["late"].as_u64().unwrap();
    assert_eq!(open["requests"].as_u64().unwrap() + late, 2000);
    // The machine itself may pause at the end of the run.
    assert!(late < 100, "{open}");
    assert!(percentile(&open, "max") >= 295.0, "{open}");
    assert!(percentile(&open, "p99") >= 200.0, "{open}");
    assert!(percentile(&open, "p90") >= 50.0, "{open}");

    let closed = run(&[]);
    println!("closed: {closed}");
    assert!(percentile(&closed, "max") >= 295.0, "{closed}");
    assert!(percentile(&closed, "p99") < 50.0, "{closed}");
    assert!(closed["requests"].as_u64().unwrap() > 1000, "{closed}");
}

/// A server that answers 200 a second is asked for 1000 a second: what it leaves is not forgotten.
#[test]
fn an_overload_shows_as_late_requests_and_in_the_percentiles() {
    let _alone = alone();
    let target = slow_echo(Duration::from_millis(5)).to_string();
    let rr = ["rr", "--target", &target, "--connections", "1", "--message", "64"];
    let own = load(&[&rr, &["--rate", "1000", "--seconds", "1", "--warmup", "0"][..]].concat());
    let (answered, late) = (own["requests"].as_u64().unwrap(), own["late"].as_u64().unwrap());
    assert_eq!(answered + late, 1000, "{own}");
    assert!(late > 500, "{own}");
    assert!(own["latency_us"]["p50"].as_f64().unwrap() > 200_000.0, "{own}");
}

#[test]
fn verify_finds_a_corrupted_byte() {
    let _alone = alone();
    // Bodies so long that the wrong byte is in one, and not in a head.
    let server = Serve::start(&["--verify", "--body", "200000"]);
    let run = |profile: &[&str], target: SocketAddr, verify: &[&str]| {
        let through = corrupting_relay(target, Towards::Client).to_string();
        let common = ["--target", &through, "--seconds", "0.3", "--warmup", "0"];
        let own = load(&[profile, &common[..], verify].concat());
        own["errors"]["mismatch"].as_u64().unwrap()
    };
    let rr = ["rr", "--connections", "1", "--message", "1000"];
    assert_eq!(run(&rr, server.echo, &["--verify"]), 1);
    assert_eq!(run(&rr, server.echo, &[]), 0);
    let http = ["http", "--connections", "1", "--host", "a"];
    assert_eq!(run(&http, server.http, &["--verify"]), 1);
    assert_eq!(run(&http, server.http, &[]), 0);
    let down = ["bulk", "--streams", "1", "--direction", "down"];
    assert_eq!(run(&down, server.source, &["--verify"]), 1);

    // Upwards it is the sink that finds it.
    let through = corrupting_relay(server.sink, Towards::Server).to_string();
    let up = ["bulk", "--target", &through, "--streams", "1", "--verify"];
    output(loadgen().args(up).args(["--seconds", "0.3", "--warmup", "0"]));
    assert_eq!(server.stop()["mismatches"], 1);
}

#[test]
fn the_files_hold_what_the_line_says() {
    let _alone = alone();
    let server = Serve::start(&[]);
    let directory = Directory::new();
    let (hgrm, hlog) = (directory.file("a.hgrm"), directory.file("a.hlog"));
    let target = server.echo.to_string();
    let rr = ["rr", "--target", &target, "--connections", "4", "--message", "64"];
    let files = ["--hgrm", &hgrm, "--hlog", &hlog];
    let own = load(&[&rr, &files[..], &["--seconds", "2", "--rate", "500"][..]].concat());
    assert_eq!(own["requests"].as_u64().unwrap() + own["late"].as_u64().unwrap(), 1000);

    let text = std::fs::read_to_string(&hgrm).unwrap();
    let rows: Vec<Vec<f64>> = text
        .lines()
        .skip(2)
        .take_while(|line| !line.starts_with('#'))
        .map(|line| line.split_whitespace().map(|word| word.parse().unwrap()).collect())
        .collect();
    assert!(rows.is_sorted_by(|a, b| a[1] <= b[1] && a[2] <= b[2]), "{text}");
    let last = rows.last().unwrap();
    assert_eq!((last[0], last[2]), (own["latency_us"]["max"].as_f64().unwrap(), 1000.0));

    let log = std::fs::read(&hlog).unwrap();
    let mut counts = Vec::new();
    let mut sum = Histogram::<u64>::new(3).unwrap();
    for entry in IntervalLogIterator::new(&log) {
        if let LogEntry::Interval(interval) = entry.unwrap() {
            let bytes = BASE64_STANDARD.decode(interval.encoded_histogram()).unwrap();
            let histogram: Histogram<u64> =
                Deserializer::new().deserialize(&mut bytes.as_slice()).unwrap();
            counts.push(histogram.len());
            sum.add(histogram).unwrap();
        }
    }
    assert_eq!(counts, [500, 500]);
    assert_eq!(sum.max() as f64 / 1e3, last[0]);
}

#[test]
fn idle_connections_are_held_and_blackholed_ones_counted_by_how_they_end() {
    let _alone = alone();
    let mut server = Serve::start(&[]);
    let mut idle = Running::start(loadgen().args([
        "idle",
        "--target",
        &server.echo.to_string(),
        "--connections",
        "200",
    ]));
    assert_eq!(idle.line(), "ready");
    assert_eq!(server.counts()["accepted"], 200);
    let own = idle.stop();
    assert_eq!(
        (own["connections"].as_u64(), own["errors"]["closed"].as_u64()),
        (Some(200), Some(0))
    );

    let target = every_other_reset().to_string();
    let hole = ["blackhole", "--target", &target, "--connections", "1", "--rate", "100"];
    let own = load(&[&hole, &["--seconds", "0.5", "--warmup", "0"][..]].concat());
    let (fin, rst) = (&own["closed"]["fin"], &own["closed"]["rst"]);
    let (fin, rst) = (fin.as_u64().unwrap(), rst.as_u64().unwrap());
    assert_eq!(fin + rst + own["late"].as_u64().unwrap(), 50, "{own}");
    assert!(fin > 20 && fin.abs_diff(rst) <= 1, "{own}");
}

#[test]
fn what_cannot_be_measured_is_an_error() {
    let _alone = alone();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let rr = ["rr", "--target", &closed, "--connections", "1", "--message", "64"];
    let refused = loadgen().args(rr).args(["--seconds", "0.1"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("refused"), "{refused:?}");
    let wrong = loadgen().args(["rr", "--seconds", "0"]).output().unwrap();
    assert_eq!(wrong.status.code(), Some(64));
}

/// The number behind a label; a unit may follow it (wrk: `4.01ms`).
fn number_after(text: &str, label: &str) -> f64 {
    let rest = text.split(label).nth(1).unwrap_or_else(|| panic!("no {label} in: {text}"));
    let word = rest.split_whitespace().next().unwrap();
    word.trim_end_matches("ms").parse().unwrap_or_else(|_| panic!("no number: {word}"))
}
