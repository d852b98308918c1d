//! The programs that the tests run: loadgen, its servers, and the tools it is compared with.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::RangeInclusive;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{Signal, kill};
use nix::sys::time::TimeValLike;
use nix::time::ClockId;
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

/// One test at a time: they measure, and share a core.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The last core that this process may use: where the suite, too, runs the load.
static CORE: LazyLock<String> = LazyLock::new(|| {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
    list.rsplit([',', '-', '\t']).next().unwrap().to_owned()
});

pub(crate) fn on_one_core(program: &str) -> Command {
    let mut command = Command::new("taskset");
    command.args(["--cpu-list", &CORE, program]);
    command
}

/// The program that is tested instead of the one that cargo has built beside the tests.
const OTHER_PROGRAM: &str = "LOADGEN_BINARY";

pub(crate) fn loadgen() -> Command {
    let other = std::env::var(OTHER_PROGRAM);
    on_one_core(other.as_deref().unwrap_or(env!("CARGO_BIN_EXE_loadgen")))
}

/// Whether loadgen is an optimised build: what it costs says something.
pub(crate) fn is_optimised() -> bool {
    !cfg!(debug_assertions) || std::env::var_os(OTHER_PROGRAM).is_some()
}

/// Run it to its end; its standard output.
pub(crate) fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Run a load to its end; its result line, which must be all that it prints.
pub(crate) fn load(arguments: &[&str]) -> Value {
    serde_json::from_str(&output(loadgen().args(arguments))).unwrap()
}

/// The median of each of the ratios that `round` returns lies in `range`: loadgen's number as a
/// share of another. The runs of a round are interleaved, so that a slow moment of the machine hits
/// all of them. When a median lies outside, there are as many rounds again, four times at most, and
/// the median of all is judged.
pub(crate) fn assert_ratios<const N: usize>(
    names: [&str; N],
    range: &RangeInclusive<f64>,
    mut round: impl FnMut() -> [f64; N],
) {
    const ROUNDS: usize = 3;
    const ROUNDS_MAX: usize = 5 * ROUNDS;
    let mut ratios = [(); N].map(|()| Vec::new());
    loop {
        for (ratios, ratio) in ratios.iter_mut().zip(round()) {
            ratios.push(ratio);
        }
        let rounds = ratios[0].len();
        if !rounds.is_multiple_of(ROUNDS) {
            continue;
        }
        let medians = ratios.clone().map(median);
        println!("after {rounds} rounds, as a share of {names:?}: {medians:.2?}");
        if medians.iter().all(|ratio| range.contains(ratio)) {
            return;
        }
        assert!(rounds < ROUNDS_MAX, "loadgen's as a share of {names:?}: {medians:.2?}");
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// What a client printed, and the seconds of processor time that it and the server needed. These do
/// not see what other programs on the same core take away, which would be in any rate by the clock.
pub(crate) struct Cost {
    pub(crate) output: String,
    pub(crate) client: f64,
    pub(crate) server: f64,
}

/// Run a client to its end.
pub(crate) fn cost(client: &mut Command, server: Pid) -> Cost {
    let before = (children_seconds(), processor_seconds(server));
    let output = output(client);
    let after = (children_seconds(), processor_seconds(server));
    Cost { output, client: after.0 - before.0, server: after.1 - before.1 }
}

/// The processor time of the children that have ended.
fn children_seconds() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap();
    (usage.user_time() + usage.system_time()).num_microseconds() as f64 / 1e6
}

fn processor_seconds(pid: Pid) -> f64 {
    let now = ClockId::pid_cpu_clock_id(pid).unwrap().now().unwrap();
    Duration::from(now).as_secs_f64()
}

/// A program that runs until it is stopped, and prints lines.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        let count = self.lines.read_line(&mut line).unwrap();
        assert_ne!(count, 0, "{:?} has ended", self.child);
        line.trim_end().to_owned()
    }

    /// SIGTERM; the last line that it prints.
    pub(crate) fn stop(mut self) -> Value {
        self.signal(Signal::SIGTERM);
        let line = self.line();
        assert!(self.child.wait().unwrap().success());
        serde_json::from_str(&line).unwrap()
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `loadgen serve`, on ports of its own.
pub(crate) struct Serve {
    running: Running,
    pub(crate) echo: SocketAddr,
    pub(crate) sink: SocketAddr,
    pub(crate) source: SocketAddr,
    pub(crate) http: SocketAddr,
}

impl Serve {
    pub(crate) fn start(options: &[&str]) -> Self {
        let [echo, sink, source, http] = free_addresses();
        let mut command = loadgen();
        command.args(["serve", "--address", "127.0.0.1"]).args(options);
        let ports = [("--echo", echo), ("--sink", sink), ("--source", source), ("--http", http)];
        for (option, address) in ports {
            command.args([option, &address.port().to_string()]);
        }
        let mut running = Running::start(&mut command);
        assert_eq!(running.line(), "ready");
        Self { running, echo, sink, source, http }
    }

    pub(crate) fn pid(&self) -> Pid {
        self.running.pid()
    }

    /// What it has done so far.
    pub(crate) fn counts(&mut self) -> Value {
        self.running.signal(Signal::SIGUSR1);
        serde_json::from_str(&self.running.line()).unwrap()
    }

    /// Stop it; what it has done.
    pub(crate) fn stop(self) -> Value {
        self.running.stop()
    }
}

/// An iperf3 server.
pub(crate) struct Iperf {
    running: Running,
    pub(crate) address: SocketAddr,
}

impl Iperf {
    pub(crate) fn start() -> Self {
        let [address] = free_addresses();
        let port = address.port().to_string();
        let server = ["--server", "--forceflush", "--bind", "127.0.0.1", "--port", &port];
        let mut running = Running::start(on_one_core("iperf3").args(server));
        while !running.line().starts_with("Server listening") {}
        Self { running, address }
    }

    pub(crate) fn pid(&self) -> Pid {
        self.running.pid()
    }
}

/// nginx, in one process, which answers 64 bytes and counts for itself.
pub(crate) struct Nginx {
    running: Running,
    _directory: TempDir,
    pub(crate) address: SocketAddr,
}

impl Nginx {
    pub(crate) fn start() -> Self {
        let [address] = free_addresses();
        let directory = TempDir::new().unwrap();
        let file = directory.path().join("nginx.conf");
        fs::write(&file, nginx_configuration(address, directory.path().to_str().unwrap())).unwrap();
        let mut command = on_one_core("nginx");
        // Debian keeps it outside an ordinary user's PATH.
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{path}:/usr/sbin")).arg("-c").arg(&file);
        let mut running = Running::start(&mut command);
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(address).is_err() {
            assert!(running.child.try_wait().unwrap().is_none(), "nginx has ended");
            assert!(Instant::now() < deadline, "nginx does not listen");
            thread::sleep(Duration::from_millis(10));
        }
        Self { running, _directory: directory, address }
    }

    pub(crate) fn pid(&self) -> Pid {
        self.running.pid()
    }

    /// How many requests it has answered since it was asked last. (The question is one, too.)
    pub(crate) fn answered_since(&self, before: u64) -> u64 {
        self.answered() - before - 1
    }

    /// How many requests it has seen, with this one.
    pub(crate) fn answered(&self) -> u64 {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.write_all(b"GET /status HTTP/1.0\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        // server accepts handled requests
        //  16 16 31
        let counts = text.lines().skip_while(|line| !line.starts_with("server accepts")).nth(1);
        counts.unwrap().split_whitespace().nth(2).unwrap().parse().unwrap()
    }
}

fn nginx_configuration(address: SocketAddr, directory: &str) -> String {
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {directory}/{kind}; "))
        .concat();
    format!(
        "daemon off; master_process off; pid {directory}/pid; error_log stderr warn;
         events {{ worker_connections 1024; }}
         http {{
             access_log off; keepalive_requests 1000000000; keepalive_timeout 1h; {temporary}
             server {{
                 listen {address} backlog=1024;
                 location /status {{ stub_status; }}
                 location / {{ return 200 \"{}\"; }}
             }}
         }}",
        "a".repeat(64)
    )
}

/// Addresses that nothing listened on a moment ago, all different.
fn free_addresses<const N: usize>() -> [SocketAddr; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap())
}

/// A directory for files, removed at the end.
pub(crate) struct Directory(TempDir);

impl Directory {
    pub(crate) fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    pub(crate) fn file(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }
}
