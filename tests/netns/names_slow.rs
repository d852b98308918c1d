//! Thousands of clients that send their first bytes one by one disturb nobody, and cost bounded
//! memory.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::lab::{Lab, PATIENCE, Part, web};
use crate::options::{Options, Policy, named_entry};
use crate::programs::{Nginx, fetch};
use crate::proxy::Proxy;
use crate::scrape::{RECOGNISED, RECOGNISING, REQUESTS};

/// Each is one descriptor of the test and one of the proxy.
const SENDERS: usize = 5000;
/// What a sender sends, a byte per second: more of it than the test has seconds for.
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: blocked.test\r\n\r\n";
const SECONDS: usize = 4;
/// What the proxy may use of its own memory for a sender: the connection and a few held bytes.
const MEMORY_BYTES_MAX: u64 = 4096;
/// How long curl may take beside them.
const BESIDE_MAX: Duration = Duration::from_secs(1);

#[test]
fn five_thousand_slow_senders_disturb_nobody_and_cost_bounded_memory() {
    let lab = Lab::alone();
    let registry = named_entry("allowed.test", "HTTP", 80, None);
    let options = Options {
        policy: Policy::RegistryOnly,
        names: "deadline: 60s",
        registry,
        ..Options::default()
    };
    let proxy = Proxy::start(&lab, &options);
    let nginx = Nginx::start(&lab, &[web(10, 80)], &[]);
    let is_served = || {
        let start = Instant::now();
        let (status, ..) = fetch(&lab, web(10, 80), "http://allowed.test/");
        assert_eq!(status, 200);
        assert!(start.elapsed() < BESIDE_MAX, "served after {:?}", start.elapsed());
    };
    is_served();
    let memory = proxy.memory_bytes();
    let connect = || TcpStream::connect(web(10, 80)).expect("the proxy accepts");
    let mut senders: Vec<_> = lab.inside(Part::Pod, || (0..SENDERS).map(|_| connect()).collect());
    proxy.wait_for_metric(RECOGNISING, &[], SENDERS as u64);

    let start = Instant::now();
    let mut served = 0;
    for second in 0..SECONDS {
        for sender in &mut senders {
            sender.write_all(&REQUEST[second..=second]).expect("it is not cut off");
        }
        // Until the second is over there are others to serve.
        while start.elapsed() < Duration::from_secs(second as u64 + 1) {
            is_served();
            served += 1;
        }
    }
    assert!(served >= SECONDS, "{served} were served beside them");
    proxy.wait_for_metric("egret_recognising_bytes", &[], (SENDERS * SECONDS) as u64);
    assert_eq!(proxy.metric(RECOGNISING, &[]), SENDERS as u64, "all of them still wait");
    let grown = proxy.memory_bytes().saturating_sub(memory);
    let each = grown / SENDERS as u64;
    eprintln!("{each} bytes of user memory for each slow sender, {served} served beside them");
    assert!(each <= MEMORY_BYTES_MAX, "{each} bytes for each");

    // One that continues is judged as any other.
    let mut goes_on = senders.pop().expect("there are some");
    goes_on.set_read_timeout(Some(PATIENCE)).expect("it is not zero");
    goes_on.write_all(&REQUEST[SECONDS..]).expect("it is not cut off");
    let mut answer = String::new();
    goes_on.read_to_string(&mut answer).expect("an orderly end");
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    proxy.wait_for_metric(REQUESTS, &[("destination_service", "blocked.test")], 1);

    drop(senders);
    proxy.wait_for_metric(RECOGNISING, &[], 0);
    proxy.wait_for_metric("egret_recognising_bytes", &[], 0);
    proxy.wait_for_metric(RECOGNISED, &[("result", "ended")], SENDERS as u64 - 1);
    assert!(!nginx.log().contains("blocked.test"));
    proxy.finish();
}
