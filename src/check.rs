//! `egret check` and `egret explain`: what the files say, and what they mean for one connection.
//!
//! Both read the same files through the same code as `egret run`, so what they say is what it does.
//! They open no connection and print nothing themselves: they return the text and the exit code.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use crate::load::{self, Loaded};
use crate::prefix;
use crate::problem::{Problem, Severity};
use crate::registry::snapshot::{Match, Service, Snapshot, Target, Verdict};
use crate::workload::Workload;

/// Exit code when the files are good.
pub const EXIT_OK: u8 = 0;
/// Exit code when they are not (`EX_USAGE` of sysexits.h).
pub const EXIT_BAD_CONFIG: u8 = 64;

/// What to print, and how to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Whole lines, for standard output.
    pub text: String,
    /// The exit code.
    pub code: u8,
}

/// The configuration file to use when none is named: `config/egret.yaml` below the working
/// directory, else `/etc/egret/egret.yaml`.
#[must_use]
pub fn default_config_file() -> PathBuf {
    let local = Path::new("config/egret.yaml");
    let chosen = if local.is_file() { local } else { Path::new("/etc/egret/egret.yaml") };
    chosen.to_path_buf()
}

/// Every problem in `config_file` and the files that it names, and a summary.
#[must_use]
pub fn check(config_file: &Path) -> Outcome {
    let file = config_file.display();
    match load::load(config_file) {
        Ok(loaded) => {
            let mut text = lines(&loaded.problems);
            let snapshot = loaded.preview();
            let _ = writeln!(
                text,
                "{file}: ok: {}, {}, {} ({}), {}, policy {}",
                count(warnings(&loaded.problems), "warning"),
                count(loaded.files.len(), "file"),
                plural(loaded.parts.entries.len(), "service entry", "service entries"),
                count(snapshot.services().len(), "service"),
                count(snapshot.workloads.len(), "workload"),
                loaded.config.outbound_traffic_policy.mode.as_str(),
            );
            Outcome { text, code: EXIT_OK }
        }
        Err(problems) => refused(&problems, config_file),
    }
}

/// Which entry or policy decides on a connection from `source` to `destination`, how it matches,
/// the verdict, and where Egret would connect. `host` is the name that the connection would carry.
#[must_use]
pub fn explain(
    config_file: &Path,
    source: Option<IpAddr>,
    destination: SocketAddr,
    host: Option<&str>,
) -> Outcome {
    match load::load(config_file) {
        Ok(loaded) => {
            Outcome { text: explanation(&loaded, source, destination, host), code: EXIT_OK }
        }
        Err(problems) => refused(&problems, config_file),
    }
}

fn explanation(
    loaded: &Loaded,
    source: Option<IpAddr>,
    destination: SocketAddr,
    host: Option<&str>,
) -> String {
    let snapshot = loaded.preview();
    let mut lines: Vec<(&str, String)> = Vec::new();
    if let Some(source) = source {
        let owner = describe(&snapshot.workload(source).value);
        lines.push(("source", format!("{source}, workload {owner}")));
    }
    lines.push(("destination", destination.to_string()));
    if let Some(host) = host {
        let note = "not used: the decision is by address and port";
        lines.push(("host", format!("{} ({note})", host.escape_debug())));
    }
    let verdict = snapshot.lookup(destination);
    let (name, decided_by, connects_to) = match verdict {
        Verdict::Service(service, matched) => {
            lines.push(("matched", how(matched, destination)));
            ("service", by_entry(service), upstream(service, destination))
        }
        Verdict::Passthrough => ("passthrough", by_policy(snapshot), destination.to_string()),
        Verdict::BlackHole => ("blackhole", by_policy(snapshot), "nothing: it is blocked".into()),
    };
    lines.push(("decided by", decided_by));
    lines.push(("verdict", name.into()));
    lines.push(("connects to", connects_to));
    let cluster = &snapshot.cluster(verdict).value;
    lines.push(("accounted to", format!("destination_service_name=\"{}\"", cluster.service_name)));
    let mut text = String::new();
    for (label, value) in lines {
        let _ = writeln!(text, "{label:<13}{value}");
    }
    text
}

fn describe(workload: &Workload) -> String {
    let name = workload.workload.as_deref().or(workload.app.as_deref()).unwrap_or("unknown");
    match workload.namespace.as_deref() {
        Some(namespace) => format!("{namespace}/{name}"),
        None => name.to_owned(),
    }
}

fn how(matched: Match, destination: SocketAddr) -> String {
    let port = destination.port();
    match matched {
        Match::Address => format!("address {} and port {port}", destination.ip().to_canonical()),
        Match::Prefix(prefix) => format!("prefix {} and port {port}", prefix::display(&prefix)),
        Match::Resolved | Match::Host | Match::Wildcard => String::new(),
        Match::Port => format!("port {port} alone: the entry has no addresses"),
    }
}

fn by_entry(service: &Service) -> String {
    let (file, line) = (service.origin.file.display(), service.origin.line);
    format!("service entry {} ({file}:{line})", service.entry)
}

fn by_policy(snapshot: &Snapshot) -> String {
    let mode = snapshot.config.outbound_traffic_policy.mode.as_str();
    format!("outboundTrafficPolicy.mode {mode}: no service entry matches")
}

fn upstream(service: &Service, destination: SocketAddr) -> String {
    match &service.target {
        Target::OriginalDestination { target_port } => {
            let port = target_port.unwrap_or(destination.port());
            SocketAddr::new(destination.ip(), port).to_string()
        }
        Target::Endpoints(endpoints) => {
            let list: Vec<String> = endpoints.iter().map(ToString::to_string).collect();
            match list.as_slice() {
                [only] => only.clone(),
                _ => format!("one of {}", list.join(", ")),
            }
        }
    }
}

fn refused(problems: &[Problem], config_file: &Path) -> Outcome {
    let mut text = lines(problems);
    let (warnings, file) = (warnings(problems), config_file.display());
    let errors = count(problems.len() - warnings, "error");
    let _ = writeln!(text, "{file}: refused: {errors}, {}", count(warnings, "warning"));
    Outcome { text, code: EXIT_BAD_CONFIG }
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("{problem}\n")).collect()
}

fn warnings(problems: &[Problem]) -> usize {
    problems.iter().filter(|problem| problem.severity == Severity::Warning).count()
}

fn count(number: usize, what: &str) -> String {
    plural(number, what, &format!("{what}s"))
}

fn plural(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

#[cfg(test)]
mod tests;
