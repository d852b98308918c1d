//! At full speed, on one core: the rates by the clock say how busy the machine was, and change by a
//! factor of two from second to second. What does not depend on that is compared: how many requests
//! the server counted, how much processor time one took, and that rate and latency fit together.
//!
//! Costs are compared in an optimised build only (scripts/test.sh makes one, and names it by
//! LOADGEN_BINARY): without optimisation loadgen costs three times as much, and leaves the server
//! cold caches.

use std::ops::RangeInclusive;

use serde_json::Value;

use crate::number_after;
use crate::support::{
    Cost, Iperf, Nginx, Serve, alone, assert_ratios, cost, is_optimised, loadgen, on_one_core,
};

const CONNECTIONS: f64 = 64.0;

/// How far apart costs may lie, as a factor. Seen on a core of which others took up to half: 0.9 to
/// 1.05 for what a request costs the server next to wrk, 0.85 to 1.0 for both sides together
/// (loadgen's own is lower), 0.95 to 1.15 for a byte next to iperf3.
const SAME_COST: RangeInclusive<f64> = 0.8..=1.25;

/// The ratios of costs that `round` returns lie in [`SAME_COST`].
fn assert_same_costs<const N: usize>(names: [&str; N], round: impl FnMut() -> [f64; N]) {
    let any = 0.0..=f64::INFINITY;
    assert_ratios(names, if is_optimised() { &SAME_COST } else { &any }, round);
}

/// What one tool said of one second.
struct Second {
    /// Processor time, in seconds, of the server for a request, and of both sides.
    of_server: f64,
    of_both: f64,
}

impl Second {
    /// Of a run in which nginx must have counted what the tool counted, but for the requests that
    /// were under way when the tool ended.
    fn new(run: &Cost, requests: f64, counted: u64, under_way: f64) -> Self {
        let more = counted as f64 - requests;
        assert!((0.0..=under_way).contains(&more), "{requests} requests, nginx saw {counted}");
        let of_server = run.server / requests;
        Self { of_server, of_both: of_server + run.client / requests }
    }
}

#[test]
fn counts_and_costs_of_requests_agree_with_wrk_and_h2load() {
    let _alone = alone();
    let server = Nginx::start();
    // What a request costs the server is the request's own property: the same requests arrive, in
    // the same crowd. The inverse of what it costs both sides is the full speed on a core that
    // nobody else uses. (h2load is a heavier client than wrk, so its full speed is another one.)
    let names = ["wrk's, of the server", "h2load's, of the server", "wrk's, of both sides"];
    assert_same_costs(names, || {
        let (own, wrk) = (loadgen_second(&server), wrk_second(&server));
        let h2load = h2load_second(&server);
        [own.of_server / wrk.of_server, own.of_server / h2load.of_server, own.of_both / wrk.of_both]
    });
}

fn loadgen_second(server: &Nginx) -> Second {
    let target = server.address.to_string();
    let http = ["http", "--target", &target, "--connections", "64", "--host", "a.example"];
    let seconds = ["--seconds", "0.8", "--warmup", "0.2"];
    let before = server.answered();
    let run = cost(loadgen().args(http).args(seconds), server.pid());
    let counted = server.answered_since(before);
    let line: Value = serde_json::from_str(&run.output).unwrap();
    // Little's law: in the system are as many requests as there are connections.
    let mean = line["latency_us"]["mean"].as_f64().unwrap() / 1e6;
    let in_system = mean * line["per_second"].as_f64().unwrap();
    assert!((in_system / CONNECTIONS - 1.0).abs() < 0.05, "{in_system:.1} in the system: {line}");
    let requests = line["overall"]["requests"].as_f64().unwrap();
    // It waits for the last answers.
    Second::new(&run, requests, counted, 0.0)
}

fn wrk_second(server: &Nginx) -> Second {
    let url = format!("http://{}/", server.address);
    let before = server.answered();
    let run = cost(on_one_core("wrk").args(["-t1", "-c64", "-d1s", &url]), server.pid());
    let counted = server.answered_since(before);
    // 12345 requests in 1.00s, 1.23MB read
    let line = run.output.lines().find(|line| line.contains(" requests in ")).unwrap();
    let requests = line.split_whitespace().next().unwrap().parse().unwrap();
    Second::new(&run, requests, counted, 2.0 * CONNECTIONS)
}

fn h2load_second(server: &Nginx) -> Second {
    let url = format!("http://{}/", server.address);
    let before = server.answered();
    let run = cost(on_one_core("h2load").args(["--h1", "-c64", "-t1", "-D1", &url]), server.pid());
    let counted = server.answered_since(before);
    // requests: 12345 total, 12345 started, 12345 done, ...
    let requests = number_after(&run.output, "started,");
    Second::new(&run, requests, counted, 2.0 * CONNECTIONS)
}

#[test]
fn bytes_cost_what_they_cost_with_iperf3() {
    let _alone = alone();
    let mut server = Serve::start(&[]);
    let iperf = Iperf::start();
    let sink = server.sink.to_string();
    let port = iperf.address.port().to_string();
    let per_byte = |run: &Cost, bytes: f64| (run.client + run.server) / bytes;
    assert_same_costs(["iperf3's, of both sides"], || {
        let before = server.counts()["bytes_received"].as_u64().unwrap();
        let bulk = ["bulk", "--target", &sink, "--streams", "2"];
        let seconds = ["--seconds", "0.8", "--warmup", "0.2"];
        let run = cost(loadgen().args(bulk).args(seconds), server.pid());
        let line: Value = serde_json::from_str(&run.output).unwrap();
        let bytes = line["overall"]["bytes_sent"].as_u64().unwrap();
        assert_eq!(server.counts()["bytes_received"].as_u64().unwrap() - before, bytes);
        let own = per_byte(&run, bytes as f64);

        let iperf3 = ["-c", "127.0.0.1", "-p", &port, "-P", "2", "-t", "1", "-J"];
        let run = cost(on_one_core("iperf3").args(iperf3), iperf.pid());
        let line: Value = serde_json::from_str(&run.output).unwrap();
        let bytes = line["end"]["sum_received"]["bytes"].as_f64().unwrap();
        [own / per_byte(&run, bytes)]
    });
}
