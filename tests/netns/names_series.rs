//! Names that workloads make up cost bounded memory and bounded series.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::lab::{Lab, PATIENCE, Part, web};
use crate::options::{Options, Policy, named_entry};
use crate::pattern::Random;
use crate::programs::Nginx;
use crate::proxy::Proxy;
use crate::scrape::{CLOSED, OVERFLOW, REQUESTS, SERIES};

/// The series that there may be.
const SERIES_MAX: u32 = 100;
/// Requests, each with a Host of its own; so many of them are sent before their answers are read.
const HOSTS: u64 = 50_000;
const PIPELINED: u64 = 50;
/// After so many the proxy has all the memory that it needs.
const WARM: u64 = 10_000;
const GROWTH_BYTES_MAX: u64 = 512 * 1024;

/// Asks for `count` hosts that nobody has asked for before, on one connection.
fn ask(stream: &mut TcpStream, random: &mut Random, count: u64) {
    for _ in 0..count / PIPELINED {
        ask_at_once(stream, random, PIPELINED);
    }
}

/// Sends all of them, then reads their answers.
fn ask_at_once(stream: &mut TcpStream, random: &mut Random, count: u64) {
    let requests: String = (0..count)
        .map(|_| {
            let label = random.next();
            format!("GET /empty HTTP/1.1\r\nHost: h{label:016x}.wild.test\r\n\r\n")
        })
        .collect();
    stream.write_all(requests.as_bytes()).expect("the connection is open");
    let mut buffer = [0; 64 * 1024];
    let mut answers = String::new();
    while (answers.matches("\r\n\r\n").count() as u64) < count {
        let n = stream.read(&mut buffer).expect("answers come");
        assert_ne!(n, 0, "the connection has ended");
        answers.push_str(std::str::from_utf8(&buffer[..n]).expect("nginx writes ASCII"));
    }
    assert_eq!(answers.matches("HTTP/1.1 204 ").count() as u64, count);
}

fn random_hosts(policy: Policy, registry: String, name: &str) {
    let lab = Lab::new();
    let options = Options { policy, registry, series_max: SERIES_MAX, ..Options::default() };
    let proxy = Proxy::start(&lab, &options);
    let _nginx = Nginx::start(&lab, &[web(10, 80)], &[]);
    let stream = lab.inside(Part::Pod, || TcpStream::connect(web(10, 80)));
    let mut stream = stream.expect("the proxy accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("it is not zero");
    let mut random = Random::new(7);
    ask(&mut stream, &mut random, WARM);
    let memory = proxy.memory_bytes();
    ask(&mut stream, &mut random, HOSTS - WARM);
    let grown = proxy.memory_bytes().saturating_sub(memory);
    eprintln!("{grown} bytes of memory for {} hosts more", HOSTS - WARM);
    assert!(grown <= GROWTH_BYTES_MAX, "{grown} bytes");
    drop(stream);

    proxy.wait_for_metric(REQUESTS, &[], HOSTS);
    let scrape = proxy.scrape();
    let series = scrape.series(REQUESTS, &[]) as u64;
    // One more takes what finds no room.
    let most = u64::from(SERIES_MAX) + 1;
    assert_eq!(series, most, "series of requests");
    assert!(scrape.sum(SERIES, &[]) <= most + 1, "{}", scrape.sum(SERIES, &[]));
    let labels = [("destination_service_name", name), ("response_code", "204")];
    let named = scrape.sum(REQUESTS, &labels);
    let other = scrape.sum(REQUESTS, &[("destination_service", "other")]);
    assert_eq!(named + other, HOSTS, "none is lost");
    assert!(named > 0 && other > HOSTS / 2, "{named} by name, {other} others");
    assert_eq!(scrape.sum(OVERFLOW, &[]), other);
    proxy.finish();
}

#[test]
fn random_hosts_on_a_watched_connection_leave_series_and_memory_at_their_bounds() {
    random_hosts(Policy::AllowAny, String::new(), "PassthroughCluster");
}

#[test]
fn random_hosts_below_a_wildcard_leave_series_and_memory_at_their_bounds() {
    let registry = named_entry("*.wild.test", "HTTP", 80, None);
    random_hosts(Policy::RegistryOnly, registry, "*.wild.test");
}

#[test]
fn a_pipeline_too_long_to_follow_passes_and_is_counted_as_a_connection() {
    let lab = Lab::new();
    let proxy = Proxy::start(&lab, &Options::default());
    let _nginx = Nginx::start(&lab, &[web(10, 80)], &[]);
    let stream = lab.inside(Part::Pod, || TcpStream::connect(web(10, 80)));
    let mut stream = stream.expect("the proxy accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("it is not zero");
    ask_at_once(&mut stream, &mut Random::new(8), 2000);
    drop(stream);
    let labels = [("destination_service_name", "PassthroughCluster"), ("response_flags", "-")];
    proxy.wait_for_metric(CLOSED, &labels, 1);
    let scrape = proxy.scrape();
    // Those that were read before are counted; that their answers were not seen is nobody's fault.
    assert!(scrape.sum(REQUESTS, &[]) > 0);
    assert_eq!(scrape.sum(REQUESTS, &[]), scrape.sum(REQUESTS, &[("response_flags", "-")]));
    proxy.finish();
}
