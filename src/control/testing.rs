//! Files that stand for a configuration, and a small HTTP client, for the control plane's tests.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::dns::Wanted;
use super::reload::{Source, Target, Watching};
use super::{LogControl, SetLogLevel};
use crate::access_log;
use crate::config::{AccessLogFormat, Config};
use crate::diagnostics::{Diagnostic, Severity};
use crate::load::{Loaded, RegistryFiles};
use crate::metrics::ControlCounters;
use crate::registry::{Answers, Registry, Snapshot};

/// A configuration that listens on free ports of loopback.
pub(super) fn config() -> Config {
    let free: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let mut config = Config::default();
    config.admin.address = free;
    config.metrics.address = free;
    config.health.address = free;
    config
}

/// Reads `directory/*.yaml`. Each file is a log level, a space, any text and ` end`; a file without
/// the end is refused. The texts become `Config::registry`, the last level the log level; the text
/// `told` switches the access log on.
pub(super) fn load(directory: &Path) -> Result<Loaded, Vec<Diagnostic>> {
    let pattern = directory.join("*.yaml");
    let files: Vec<PathBuf> =
        glob::glob(pattern.to_str().unwrap()).unwrap().filter_map(Result::ok).collect();
    let mut config = config();
    let mut all = String::new();
    for file in &files {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let complete = text.strip_suffix(" end").and_then(|text| text.split_once(' '));
        let Some((level, content)) = complete else {
            let message = format!("{} bytes without an end", text.len());
            let (severity, fix) = (Severity::Error, String::new());
            return Err(vec![Diagnostic {
                severity,
                file: file.clone(),
                line: Some(1),
                message,
                fix,
            }]);
        };
        config.log.level = level.into();
        config.registry.push(content.into());
        if content == "told" {
            config.access_log.format = AccessLogFormat::Text;
        }
        all += &text;
    }
    let fingerprint = {
        use std::hash::BuildHasher;
        foldhash::quality::FixedState::default().hash_one(&all)
    };
    Ok(Loaded {
        config: Arc::new(config),
        entries: Vec::new(),
        workloads: Arc::default(),
        workloads_file: None,
        refused: Vec::new(),
        diagnostics: Vec::new(),
        registry_files: RegistryFiles::NoPattern,
        files,
        directories: vec![directory.to_owned()],
        fingerprint,
    })
}

/// A source that reads `directory` with [`load`], and the first generation's snapshot.
pub(super) fn source(directory: &Path, watching: Watching, poll: Duration) -> (Source, Snapshot) {
    let first = load(directory).unwrap_or_else(|diagnostics| panic!("{diagnostics:?}"));
    let path = directory.to_owned();
    let (snapshot, diagnostics) = first.build(1, &Answers::default());
    let load = Box::new(move |_: &Loaded| load(&path));
    (Source { load, first, diagnostics, poll, watching }, snapshot)
}

/// A source that reads real files, `config_file` and those that it names, and the first
/// generation's snapshot.
pub(super) fn real_source(
    config_file: &Path,
    watching: Watching,
    poll: Duration,
) -> (Source, Snapshot) {
    let config_file = config_file.to_owned();
    let first = crate::load::load(&config_file, None).unwrap();
    let (snapshot, diagnostics) = first.build(1, &Answers::default());
    let load = move |in_use: &Loaded| crate::load::load(&config_file, Some(in_use));
    (Source { load: Box::new(load), first, diagnostics, poll, watching }, snapshot)
}

/// What a reload acts on, for `registry`; `loud` is no log level.
pub(super) fn target(
    registry: &Registry,
    wanted: watch::Sender<Wanted>,
) -> (Target, Arc<ControlCounters>) {
    let counters: Arc<ControlCounters> = Arc::default();
    let set: SetLogLevel =
        Box::new(|level| if level == "loud" { Err("no such level".into()) } else { Ok(()) });
    let log = Arc::new(LogControl { set, level: Mutex::new("info".into()) });
    let (access_log, _) = access_log::open(&registry.current().config.access_log);
    let registry = registry.clone();
    (Target { registry, counters: Arc::clone(&counters), log, access_log, wanted }, counters)
}

/// Waits for `condition`, for ten seconds at most.
pub(super) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let give_up = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < give_up, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// An answer over HTTP.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// The head in lower case.
    pub(super) head: String,
    pub(super) body: String,
}

impl Answer {
    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

/// One request on a connection of its own; `headers` with line ends. In HTTP/1.0 an answer whose
/// length is not known ends with the connection, so there is nothing to decode.
pub(super) fn http(address: SocketAddr, method: &str, path: &str, headers: &str) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let host = if headers.contains("Host:") { "" } else { "Host: localhost\r\n" };
    write!(stream, "{method} {path} HTTP/1.0\r\n{host}Connection: close\r\n{headers}\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").expect("an answer");
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_lowercase(), body: body.to_owned() }
}

pub(super) fn get(address: SocketAddr, path: &str) -> Answer {
    http(address, "GET", path, "")
}
