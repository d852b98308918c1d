//! Thousands of connections that do nothing cost next to nothing.

use std::sync::mpsc::channel;

use nix::sys::resource::{Resource, getrlimit};

use crate::lab::{Lab, web};
use crate::options::Options;
use crate::peer::Peer;
use crate::proxy::Proxy;
use crate::scrape::{ACTIVE, PIPES_IN_USE};

const CONNECTIONS: u64 = 8000;
/// Both ends of each, by one descriptor (a pair of clones would not fit), and some for the rest.
const DESCRIPTORS: u64 = 2 * CONNECTIONS + 1000;
/// What the proxy may use of its own memory for a connection that is idle.
const MEMORY_BYTES_MAX: u64 = 1024;

#[test]
fn idle_connections_take_no_thread_and_at_most_a_kibibyte_each() {
    let lab = Lab::alone();
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("reading a limit cannot fail");
    assert!(hard >= DESCRIPTORS, "this test needs {DESCRIPTORS} descriptors: ulimit -Hn is {hard}");
    let proxy = Proxy::start(&lab, &Options::default());
    let (sender, accepted) = channel();
    let server = lab.serve(web(10, 8000), move |mut peer| {
        peer.recv(1);
        peer.send(1);
        // It goes on living, without a thread.
        sender.send(peer.into_idle()).expect("the test waits for it");
    });
    let open = || {
        let mut peer = lab.connect(web(10, 8000));
        peer.ping();
        (peer.into_idle(), accepted.recv().expect("the server lives"))
    };

    // What the first connections of all make the proxy allocate is not theirs.
    let warm: Vec<_> = (0..100).map(|_| open()).collect();
    let memory = proxy.memory_bytes();
    let threads = proxy.settled_threads();
    let idle: Vec<_> = (0..CONNECTIONS).map(|_| open()).collect();
    proxy.wait_for_metric(ACTIVE, &[], CONNECTIONS + 100);
    let grown = proxy.memory_bytes().saturating_sub(memory);
    let per_connection = grown / CONNECTIONS;
    eprintln!("{per_connection} bytes of user memory for each idle connection");
    assert!(per_connection <= MEMORY_BYTES_MAX, "{per_connection} bytes for each connection");
    let now = proxy.settled_threads();
    assert_eq!(now, threads, "threads");
    // Kernel threads that work for a ring would be named iou-wrk-*.
    assert!(!now.iter().any(|name| name.starts_with("iou-wrk")), "{now:?}");
    assert_eq!(proxy.metric(PIPES_IN_USE, &[]), 0);

    // They still work.
    let mut peers = idle.into_iter();
    for (down, up) in peers.by_ref().take(100) {
        let (mut down, mut up) = (Peer::wake(down, &lab.tally), Peer::wake(up, &lab.tally));
        down.send(3);
        up.recv(3);
    }
    drop((peers, warm));
    server.finish();
    proxy.finish();
}
