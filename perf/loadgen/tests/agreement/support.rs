//! The programs that the tests run: loadgen, its servers, and the tools it is compared with.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use nix::sys::signal::{Signal, kill};
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

pub(crate) fn loadgen() -> Command {
    on_one_core(env!("CARGO_BIN_EXE_loadgen"))
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

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
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

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
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
    _running: Running,
    pub(crate) address: SocketAddr,
}

impl Iperf {
    pub(crate) fn start() -> Self {
        let [address] = free_addresses();
        let port = address.port().to_string();
        let server = ["--server", "--forceflush", "--bind", "127.0.0.1", "--port", &port];
        let mut running = Running::start(on_one_core("iperf3").args(server));
        while !running.line().starts_with("Server listening") {}
        Self { _running: running, address }
    }
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
