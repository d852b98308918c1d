//! A pod that floods the control ports keeps nobody else from them.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::lab::{Lab, Part};
use crate::options::{HEALTH_PORT, METRICS_PORT, Options};
use crate::proxy::Proxy;
use crate::scrape::exchange;

/// The node, as its pods see it.
const NODE: [u8; 4] = [10, 77, 1, 1];

/// More than all places, and more than std's own queue of connections that wait.
const FLOOD: usize = 300;

/// A probe has a second by default. A client that says nothing has twenty.
const PROMPT: Duration = Duration::from_secs(5);

fn flood(at: SocketAddr, says: &str) -> Vec<TcpStream> {
    let connect = |_| {
        let mut stream = TcpStream::connect(at).expect("the node listens");
        // It may have given way already.
        let _ = stream.write_all(says.as_bytes());
        stream
    };
    (0..FLOOD).map(connect).collect()
}

#[test]
fn a_pod_that_floods_the_control_ports_keeps_nobody_from_them() {
    let lab = Lab::new();
    let proxy = Proxy::start(&lab, &Options::default());
    for (port, path) in [(HEALTH_PORT, "/healthz/ready"), (METRICS_PORT, "/metrics")] {
        let whole = format!("GET {path} HTTP/1.1\r\nHost: node\r\n\r\n");
        for says in ["", "GET / HTTP/1.1\r\nX:", &whole] {
            let clients = lab.inside(Part::Pod, || flood((NODE, port).into(), says));
            for node in [[127, 0, 0, 1], NODE] {
                let began = Instant::now();
                let answer = lab.inside(Part::Node, || exchange((node, port).into(), "GET", path));
                let (status, _) = answer.expect("it is answered");
                assert_eq!(status, 200, "{path} at {node:?}, {says:?}");
                assert!(began.elapsed() < PROMPT, "{:?}, {says:?}", began.elapsed());
            }
            drop(clients);
        }
    }
    proxy.finish();
}
