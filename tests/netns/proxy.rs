//! The real binary, running in the lab's node, and the baseline check.

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::{NamedTempFile, TempDir};

use crate::lab::{Lab, Part, wait_for, wait_until};
use crate::options::{ADMIN_PORT, HEALTH_PORT, METRICS_PORT, Options, Rules};
use crate::peer::Side;
use crate::scrape::{ACTIVE, PIPES_IN_USE, RECEIVED, SENT, Scrape, exchange};

/// Pipes that are not in use may be kept for the next bulk transfer; no more of them than this for
/// each worker, and the tests run few workers.
const PIPES_KEPT_MAX: usize = 256;

/// A thread that writes one scrape. It ends a moment after the client has read all of it.
const SCRAPE_THREAD: &str = "egret-scrape";

/// What a process holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Holdings {
    pub(crate) descriptors: usize,
    pub(crate) pipes: usize,
    pub(crate) threads: Vec<String>,
}

/// A running proxy; killed when dropped.
#[derive(Debug)]
pub(crate) struct Proxy<'lab> {
    lab: &'lab Lab,
    process: Child,
    directory: TempDir,
    log: NamedTempFile,
    start: Holdings,
}

impl<'lab> Proxy<'lab> {
    /// Starts it with these options and waits until it is ready.
    pub(crate) fn start(lab: &'lab Lab, options: &Options) -> Self {
        let directory = tempfile::tempdir().expect("there is a temporary directory");
        let registry = directory.path().join("registry.d");
        std::fs::create_dir(&registry).expect("the directory is ours");
        if !options.registry.is_empty() {
            std::fs::write(registry.join("test.yaml"), &options.registry).expect("it is ours");
        }
        std::fs::write(directory.path().join("egret.yaml"), options.config()).expect("it is ours");
        Self::start_in(lab, options, directory)
    }

    /// The same with an `egret.yaml` that the test has put into `directory`.
    pub(crate) fn start_in(lab: &'lab Lab, options: &Options, directory: TempDir) -> Self {
        Self::start_while(lab, options, directory, |_| {})
    }

    /// The same, and `meanwhile` is called again and again until it is ready.
    pub(crate) fn start_while(
        lab: &'lab Lab,
        options: &Options,
        directory: TempDir,
        meanwhile: impl Fn(&Self),
    ) -> Self {
        // Not beside the configuration: that directory is watched.
        let log = NamedTempFile::new().expect("there is a temporary directory");
        let process = spawn(lab, options, directory.path(), log.as_file());
        let start = Holdings { descriptors: 0, pipes: 0, threads: Vec::new() };
        let mut proxy = Self { lab, process, directory, log, start };
        wait_until("the proxy to be ready", || {
            if let Some(status) = proxy.process.try_wait().expect("it is our child") {
                panic!("the proxy ended at its start: {status}");
            }
            meanwhile(&proxy);
            proxy.is_ready()
        });
        if options.rules == Rules::CapturePod {
            let mode = options.capture.name();
            lab.redirect(&["up", "--mode", mode, "--interface", "pod0"]);
        }
        // The first scrape may open what later ones use again.
        proxy.scrape();
        proxy.start = proxy.settled_holdings();
        proxy
    }

    pub(crate) fn scrape(&self) -> Scrape {
        let (status, text) = self.ask(METRICS_PORT, "GET", "/metrics").expect("metrics are served");
        assert_eq!(status, 200, "{text}");
        Scrape::parse(text)
    }

    /// One metric's sum.
    pub(crate) fn metric(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        self.scrape().sum(name, labels)
    }

    /// Waits until a metric's sum has this value.
    pub(crate) fn wait_for_metric(&self, name: &str, labels: &[(&str, &str)], value: u64) {
        let mut last = 0;
        let give_up = std::time::Instant::now() + crate::lab::PATIENCE;
        while std::time::Instant::now() < give_up {
            last = self.metric(name, labels);
            if last == value {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("{name}{labels:?} is {last}, not {value}:\n{}", self.scrape().text);
    }

    /// Posts to the admin server.
    pub(crate) fn post(&self, path: &str) -> std::io::Result<(u16, String)> {
        self.ask(ADMIN_PORT, "POST", path)
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ask(HEALTH_PORT, "GET", "/healthz/ready").is_ok_and(|(status, _)| status == 200)
    }

    /// Where its configuration is.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Replaces one of its files by rename.
    pub(crate) fn replace_file(&self, name: &str, contents: impl AsRef<[u8]>) {
        let next = self.directory().join("next");
        std::fs::write(&next, contents).expect("the directory is ours");
        std::fs::rename(&next, self.directory().join(name)).expect("the directory is ours");
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("it is our child and not reaped");
    }

    /// Waits for the end of the process.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        wait_for("the proxy to end", || self.process.try_wait().expect("it is our child"))
    }

    /// Tells it to end, which it does at once, whatever it is about.
    pub(crate) fn end_at_once(&mut self) -> ExitStatus {
        let start = Instant::now();
        self.signal(Signal::SIGTERM);
        let status = self.wait();
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        status
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.log.path()).unwrap_or_default()
    }

    pub(crate) fn holdings(&self) -> Holdings {
        let fds = std::fs::read_dir(self.proc("fd")).expect("the process lives");
        // A descriptor that is closed while we read is none.
        let targets: Vec<PathBuf> =
            fds.flatten().filter_map(|fd| std::fs::read_link(fd.path()).ok()).collect();
        let is_pipe = |target: &&PathBuf| target.to_string_lossy().starts_with("pipe:");
        let pipe_ends = targets.iter().filter(is_pipe).count();
        let tasks = std::fs::read_dir(self.proc("task")).expect("the process lives");
        let mut threads: Vec<String> = tasks
            .flatten()
            .filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok())
            .map(|name| name.trim().to_owned())
            .collect();
        threads.sort();
        Holdings { descriptors: targets.len() - pipe_ends, pipes: pipe_ends / 2, threads }
    }

    /// The names of its threads, when none writes a scrape any more.
    pub(crate) fn settled_threads(&self) -> Vec<String> {
        wait_for("the scrape's thread to end", || {
            Some(self.holdings().threads).filter(|names| !is_scraping(names))
        })
    }

    /// Anonymous memory in use, in bytes.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(self.proc("status")).expect("the process lives");
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let number = line.and_then(|line| line.split_whitespace().next());
        number.and_then(|kib| kib.parse::<u64>().ok()).expect("proc(5) has RssAnon") * 1024
    }

    /// Processor time that it has used.
    pub(crate) fn processor_time(&self) -> Duration {
        let stat = std::fs::read_to_string(self.proc("stat")).expect("the process lives");
        // The name, field 2, may hold spaces; it ends with the last parenthesis.
        let (_, fields) = stat.rsplit_once(')').expect("proc(5)");
        let ticks: u64 = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(|field| field.parse::<u64>().expect("proc(5): utime and stime are numbers"))
            .sum();
        // USER_HZ is 100 on every architecture that the tests run on.
        Duration::from_millis(ticks * 10)
    }

    /// The end of a test: everything is back where it started, the counters agree with the peers,
    /// and the proxy drains and exits with 0.
    pub(crate) fn finish(mut self) {
        self.check_baseline();
        self.signal(Signal::SIGTERM);
        let status = self.wait();
        assert_eq!(status.code(), Some(0), "exit: {status}");
        let log = self.log();
        assert!(!log.contains("panicked"), "it panicked");
    }

    /// Everything is back where it started, and the counters agree with the peers.
    pub(crate) fn check_baseline(&self) {
        self.wait_for_metric(ACTIVE, &[], 0);
        self.wait_for_metric(PIPES_IN_USE, &[], 0);
        let start = &self.start;
        let now = self.settled_holdings();
        assert_eq!(now.descriptors, start.descriptors, "descriptors");
        assert_eq!(now.threads, start.threads, "threads");
        assert!(now.pipes <= start.pipes + PIPES_KEPT_MAX, "{} pipes", now.pipes);
        self.check_bytes();
    }

    /// What one side has sent bounds what the proxy has read and what the other side has received.
    /// Where nothing was aborted both bounds are one number.
    fn check_bytes(&self) {
        let tally = &self.lab.tally;
        if tally.has_strangers() {
            return;
        }
        let scrape = self.scrape();
        for (metric, from, to) in
            [(RECEIVED, Side::Downstream, Side::Upstream), (SENT, Side::Upstream, Side::Downstream)]
        {
            let (least, most) = (tally.received(to), tally.sent(from));
            let counted = scrape.sum(metric, &[]);
            assert!(
                (least..=most).contains(&counted),
                "{metric} is {counted}, the peers have moved {least} to {most} bytes"
            );
        }
    }

    /// Waits until what it holds no longer changes and is what it held at the start. The first time
    /// that is anything, but for the thread of a scrape.
    fn settled_holdings(&self) -> Holdings {
        let mut last = self.holdings();
        let mut same = 0;
        for _ in 0..1000 {
            std::thread::sleep(Duration::from_millis(10));
            let now = self.holdings();
            same = if now == last { same + 1 } else { 0 };
            let start = &self.start;
            let is_settled = match start.threads.is_empty() {
                true => !is_scraping(&now.threads),
                false => now.descriptors == start.descriptors && now.threads == start.threads,
            };
            last = now;
            if same >= 3 && is_settled {
                break;
            }
        }
        last
    }

    fn ask(&self, port: u16, method: &str, path: &str) -> std::io::Result<(u16, String)> {
        self.lab.inside(Part::Node, || exchange(([127, 0, 0, 1], port).into(), method, path))
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.process.id()).expect("process ids are below 2^22"))
    }

    pub(crate) fn proc(&self, file: &str) -> PathBuf {
        Path::new("/proc").join(self.process.id().to_string()).join(file)
    }
}

impl Drop for Proxy<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the proxy's log:\n{}", self.log());
            if let Ok(Some(status)) = self.process.try_wait() {
                eprintln!("it had ended: {status}, signal {:?}", status.signal());
            }
        }
        // It may have ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn is_scraping(threads: &[String]) -> bool {
    threads.iter().any(|name| name == SCRAPE_THREAD)
}

/// The program under test.
pub(crate) fn binary() -> PathBuf {
    std::env::var_os("EGRET_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_egret").into(), Into::into)
}

fn spawn(lab: &Lab, options: &Options, directory: &Path, log: &File) -> Child {
    let mut command = match options.descriptors {
        Some(limit) => {
            let mut command = Command::new("prlimit");
            command.arg(format!("--nofile={limit}:{limit}")).arg(binary());
            command
        }
        None => Command::new(binary()),
    };
    command
        .args(["run", "--config"])
        .arg(directory.join("egret.yaml"))
        .args(options.arguments)
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("descriptors are left"))
        .stderr(log.try_clone().expect("descriptors are left"));
    lab.inside(Part::Node, || command.spawn()).expect("the program exists")
}
