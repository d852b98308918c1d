//! New configuration under a running proxy: nothing that is open or opened notices, and a broken
//! file changes nothing.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tempfile::TempDir;

use crate::lab::{Lab, Part, web};
use crate::options::{Options, Policy, static_entry};
use crate::peer::{End, Peer, Server, echo};
use crate::proxy::Proxy;
use crate::scrape::{CLOSED, GENERATION, RELOADS};

const FAILED: (&str, &str) = ("result", "failure");
const SUCCEEDED: (&str, &str) = ("result", "success");
const MIB: u64 = 1 << 20;

/// How soon a connection that says nothing is blocked.
const SOON: &str = "deadline: 200ms";

/// Swaps of the configuration under load.
const SWAPS: u64 = 1000;

/// A directory as Kubernetes mounts a ConfigMap: the names are links by way of `..data`, itself a
/// link that is replaced by rename.
fn kubernetes_mount(options: &[Options; 2]) -> TempDir {
    let directory = tempfile::tempdir().expect("there is a temporary directory");
    let root = directory.path();
    for (n, options) in options.iter().enumerate() {
        let data = root.join(format!("..version-{n}"));
        std::fs::create_dir(&data).expect("it is ours");
        let config = options.config().replace("registry.d/*.yaml", "*-entry.yaml");
        std::fs::write(data.join("egret.yaml"), config).expect("it is ours");
        std::fs::write(data.join("test-entry.yaml"), &options.registry).expect("it is ours");
    }
    point_to(root, 0);
    for name in ["egret.yaml", "test-entry.yaml"] {
        symlink(Path::new("..data").join(name), root.join(name)).expect("it is ours");
    }
    directory
}

fn point_to(root: &Path, version: u64) {
    let next = root.join("..data_tmp");
    symlink(format!("..version-{version}"), &next).expect("it is ours");
    std::fs::rename(&next, root.join("..data")).expect("it is ours");
}

/// Serves with as many bytes as its name says.
fn serve_with(lab: &Lab, n: u8, bytes: u64) -> Server {
    lab.serve(web(n, 8080), move |mut peer: Peer| {
        peer.recv(1);
        peer.send(bytes);
        peer.expect_eof();
    })
}

#[test]
fn a_thousand_swaps_under_load_fail_no_connection() {
    let lab = Lab::new();
    let versions = ["203.0.113.12", "203.0.113.13"].map(|endpoint| Options {
        policy: Policy::RegistryOnly,
        registry: static_entry("orders.example.com", "203.0.113.11", endpoint),
        ..Options::default()
    });
    let proxy = Proxy::start_in(&lab, &versions[0], kubernetes_mount(&versions));
    let servers = [(12, 12), (13, 13)].map(|(n, bytes)| serve_with(&lab, n, bytes));
    let generation = proxy.metric(GENERATION, &[]);
    let done = AtomicBool::new(false);
    let connections = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    let mut peer = lab.connect(web(11, 80));
                    peer.send(1);
                    peer.shutdown();
                    let (bytes, _) = peer.receiver.recv_to_end();
                    assert!(bytes == 12 || bytes == 13, "{bytes} bytes: from neither endpoint");
                    connections.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        // Swaps that come faster than reloads are taken together; at least two are to be seen.
        let seen_twice = || proxy.metric(GENERATION, &[]) >= generation + 2;
        for swap in (1..).take_while(|&swap| swap <= SWAPS || !seen_twice()) {
            point_to(proxy.directory(), swap % 2);
            // At least one connection for each swap, if the load goes on at all.
            let before = connections.load(Ordering::SeqCst);
            crate::lab::wait_until("the load to go on", || {
                connections.load(Ordering::SeqCst) > before
            });
        }
        done.store(true, Ordering::SeqCst);
    });
    let count = connections.load(Ordering::SeqCst);
    proxy.wait_for_metric(CLOSED, &[("response_flags", "-")], count);
    let scrape = proxy.scrape();
    assert_eq!(scrape.sum(CLOSED, &[]), count, "none has failed, none was blackholed");
    assert_eq!(scrape.sum(RELOADS, &[FAILED]), 0, "no swap is ever seen half done");
    let served: usize = servers.map(Server::finish).iter().sum();
    assert_eq!(served as u64, count);
    proxy.finish();
}

#[test]
fn a_reload_leaves_open_connections_alone() {
    let lab = Lab::new();
    let options = Options { names: SOON, ..Options::default() };
    let proxy = Proxy::start(&lab, &options);
    let server = lab.serve(web(10, 8000), echo);
    let mut peer = lab.connect(web(10, 8000));
    peer.ping();
    let generation = proxy.metric(GENERATION, &[]);
    let closed = Options { policy: Policy::RegistryOnly, ..options };
    proxy.replace_file("egret.yaml", closed.config());
    proxy.wait_for_metric(GENERATION, &[], generation + 1);
    assert_eq!(lab.cut_off_nameless(Part::Pod, web(10, 8000)), (0, End::Eof));
    peer.ping();
    drop(peer);
    server.finish();
    proxy.finish();
}

#[test]
fn a_broken_file_changes_nothing() {
    let lab = Lab::new();
    let good = static_entry("orders.example.com", "203.0.113.11", "203.0.113.12");
    let (policy, registry) = (Policy::RegistryOnly, good.clone());
    let options = Options { policy, registry, names: SOON, ..Options::default() };
    let proxy = Proxy::start(&lab, &options);
    let server = lab.serve(web(12, 8080), echo);
    let config = options.config();
    let half = |text: &str| text.as_bytes()[..text.len() / 2].to_vec();
    let huge = b"# a comment\n".repeat(usize::try_from(100 * MIB).expect("64 bits") / 12);
    let memory = proxy.memory_bytes();
    let entry = "registry.d/test.yaml";
    let broken: [(&str, Vec<u8>, &str); 9] = [
        ("egret.yaml", b"}{".to_vec(), &config),
        ("egret.yaml", Vec::new(), &config),
        ("egret.yaml", half(&config), &config),
        ("egret.yaml", huge.clone(), &config),
        ("egret.yaml", [config.as_bytes(), b"nonsense: 1\n"].concat(), &config),
        ("egret.yaml", b"\xff\xfe".to_vec(), &config),
        (entry, b"}{".to_vec(), &good),
        (entry, half(&good), &good),
        (entry, huge, &good),
    ];
    let generation = proxy.metric(GENERATION, &[]);
    for (n, (name, contents, good)) in broken.into_iter().enumerate() {
        let failures = proxy.metric(RELOADS, &[FAILED]);
        proxy.replace_file(name, &contents);
        crate::lab::wait_until(&format!("broken file {n} to be refused"), || {
            proxy.metric(RELOADS, &[FAILED]) > failures
        });
        // A broken registry file keeps its documents, in a generation that says so.
        if name == "egret.yaml" {
            assert_eq!(proxy.metric(GENERATION, &[]), generation, "broken file {n}");
        }
        lab.connect(web(11, 80)).ping();
        assert_eq!(lab.cut_off_nameless(Part::Pod, web(10, 80)), (0, End::Eof));
        let successes = proxy.metric(RELOADS, &[SUCCEEDED]);
        proxy.replace_file(name, good);
        if name == entry {
            crate::lab::wait_until(&format!("file {n} to be good"), || {
                proxy.metric(RELOADS, &[SUCCEEDED]) > successes
            });
        }
    }
    let grown = proxy.memory_bytes().saturating_sub(memory);
    assert!(grown < 64 * MIB, "{grown} bytes for files that were refused");
    // And it still takes good ones.
    let generation = proxy.metric(GENERATION, &[]);
    let open = Options { policy: Policy::AllowAny, ..options };
    proxy.replace_file("egret.yaml", open.config());
    crate::lab::wait_until("the good file", || proxy.metric(GENERATION, &[]) > generation);
    let other = lab.serve(web(10, 80), echo);
    lab.connect(web(10, 80)).ping();
    other.finish();
    server.finish();
    proxy.finish();
}

#[test]
fn an_empty_registry_file_does_not_open_or_close_everything() {
    let lab = Lab::new();
    let good = static_entry("orders.example.com", "203.0.113.11", "203.0.113.12");
    let options = Options { policy: Policy::RegistryOnly, registry: good, ..Options::default() };
    let proxy = Proxy::start(&lab, &options);
    let server = lab.serve(web(12, 8080), echo);
    let reloads = proxy.metric(RELOADS, &[]);
    proxy.replace_file("registry.d/test.yaml", "");
    crate::lab::wait_until("the empty file to be read", || proxy.metric(RELOADS, &[]) > reloads);
    lab.connect(web(11, 80)).ping();
    server.finish();
    proxy.finish();
}
