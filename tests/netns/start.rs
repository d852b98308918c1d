//! How it starts: once per port, soon after one that was killed, whatever signal comes meanwhile.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;

use crate::lab::{Lab, Part, wait_until, web};
use crate::options::{Options, named_entry};
use crate::peer::echo;
use crate::proxy::{Proxy, binary};

fn config_of(proxy: &Proxy<'_>) -> String {
    proxy.directory().join("egret.yaml").to_str().expect("it is UTF-8").to_owned()
}

#[test]
fn a_second_one_on_the_port_is_told_who_has_it() {
    let lab = Lab::new();
    let proxy = Proxy::start(&lab, &Options::default());
    // More than the queue of those who ask is long.
    for _ in 0..3 {
        let (code, said) =
            lab.run_any(Part::Node, binary(), &["run", "--config", &config_of(&proxy)]);
        assert_eq!(code, 75, "{said}");
        assert!(said.contains(&format!("another Egret (process {})", proxy.pid())), "{said}");
    }
    assert!(proxy.is_ready());
    proxy.finish();
}

#[test]
fn one_that_was_killed_can_be_started_again_at_once() {
    let lab = Lab::new();
    let options = Options::default();
    let server = lab.serve(web(10, 8000), |mut peer| {
        peer.recv(1);
        peer.send(1);
        peer.receiver.recv_to_end();
    });
    for connections in [0, 50, 200] {
        let mut proxy = Proxy::start(&lab, &options);
        let mut peers: Vec<_> = (0..connections).map(|_| lab.connect(web(10, 8000))).collect();
        peers.iter_mut().for_each(crate::peer::Peer::ping);
        proxy.signal(Signal::SIGKILL);
        proxy.wait();
        let again = Proxy::start(&lab, &options);
        assert!(again.is_ready());
        drop(again);
    }
    server.finish();
}

#[test]
fn a_hang_up_while_it_starts_does_not_end_it() {
    let lab = Lab::new();
    // A name that nobody resolves keeps it from serving for a second.
    let registry = named_entry("slow.example.com", "HTTP", 80, None).replace("NONE", "DNS");
    let options = Options { names: "dnsServers: [203.0.113.14]", registry, ..Options::default() };
    for _ in 0..3 {
        let directory = tempfile::tempdir().expect("there is a temporary directory");
        let files = directory.path().join("registry.d");
        std::fs::create_dir(&files).expect("it is ours");
        std::fs::write(files.join("test.yaml"), &options.registry).expect("it is ours");
        std::fs::write(directory.path().join("egret.yaml"), options.config()).expect("it is ours");
        let proxy = Proxy::start_while(&lab, &options, directory, |proxy| {
            // Not before it has had its first moment: exec(2) cannot block a signal.
            if blocks_hang_up(proxy) {
                proxy.signal(Signal::SIGHUP);
            }
        });
        assert!(proxy.log().contains("signal; reloading"), "{}", proxy.log());
    }
}

fn blocks_hang_up(proxy: &Proxy<'_>) -> bool {
    let Ok(status) = std::fs::read_to_string(proxy.proc("status")) else { return false };
    let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:"));
    let mask = blocked.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & 1 == 1)
}

/// Holds one thread of the proxy, as a file system that hangs would.
struct Held(Child);

impl Held {
    fn thread(proxy: &Proxy<'_>, name: &str) -> Self {
        const HOLD: &str = "
import ctypes, os, sys
tid, wall = int(sys.argv[1]), 0x40000000
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long] * 4
assert libc.ptrace(0x4206, tid, 0, 0) == 0, 'PTRACE_SEIZE'
assert libc.ptrace(0x4207, tid, 0, 0) == 0, 'PTRACE_INTERRUPT'
os.waitpid(tid, wall)
print('held', flush=True)
os.waitpid(tid, wall)
";
        let tasks = std::fs::read_dir(proxy.proc("task")).expect("the process lives");
        let is_named = |path: &std::path::Path| {
            std::fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == name)
        };
        let task = tasks.map(|task| task.expect("it lives").path()).find(|path| is_named(path));
        let task = task.unwrap_or_else(|| panic!("no thread {name}"));
        let mut child = Command::new("python3")
            .args(["-c", HOLD])
            .arg(task.file_name().expect("a thread id"))
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 is installed");
        let mut line = String::new();
        let output = child.stdout.take().expect("it was piped");
        BufReader::new(output).read_line(&mut line).expect("it says so");
        assert_eq!(line, "held\n");
        Self(child)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn signals_and_health_answer_whatever_the_reload_thread_does() {
    let lab = Lab::new();
    let mut proxy = Proxy::start(&lab, &Options::default());
    let server = lab.serve(web(10, 8000), echo);
    let mut peer = lab.connect(web(10, 8000));
    peer.ping();
    let _held = Held::thread(&proxy, "egret-reload");
    proxy.signal(Signal::SIGHUP);
    assert!(proxy.is_ready());
    proxy.signal(Signal::SIGTERM);
    wait_until("the drain to begin", || !proxy.is_ready());
    peer.ping();
    let status = proxy.end_at_once();
    assert_eq!(status.code(), Some(1), "{status}");
    drop(peer);
    server.finish();
}

#[test]
fn the_end_does_not_wait_for_a_reload_that_hangs() {
    let lab = Lab::new();
    let mut proxy = Proxy::start(&lab, &Options::default());
    let _held = Held::thread(&proxy, "egret-reload");
    let status = proxy.end_at_once();
    assert_eq!(status.code(), Some(0), "{status}");
}
