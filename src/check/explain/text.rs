//! The answer to one question, as people read it.

use std::fmt::Write as _;

use super::{Question, Reading, Speaks, describe, host_of, readings, unless_resolved, waits};
use crate::registry::snapshot::Snapshot;
use crate::sniff::Host;

/// What becomes of the connection, one line for each step.
pub(crate) fn text(snapshot: &Snapshot, question: &Question) -> String {
    let destination = question.destination;
    let mut lines = Vec::new();
    if let Some(source) = question.source {
        let owner = describe(&snapshot.workload(source).value);
        lines.push(("source", format!("{source}, workload {owner}")));
    }
    lines.push(("destination", destination.to_string()));
    let (first, others) = in_order(snapshot, question);
    lines.extend(name(question, &first, &others).map(|line| ("name", line)));
    lines.push(("waits", waits(snapshot, destination)));
    lines.extend(first.matched.clone().map(|line| ("matched", line)));
    lines.extend(first.standing.clone().map(|line| ("standing", line)));
    let unless = unless_resolved(snapshot, destination, &first);
    lines.extend(unless.map(|line| ("unless", line)));
    lines.push(("decided by", first.decided_by));
    lines.push(("verdict", first.verdict.into()));
    lines.push(("connects to", first.connects_to));
    let mut accounted = format!("destination_service_name=\"{}\"", first.destination_service_name);
    if let Some(Ok(Host::Name(name))) = host_of(question) {
        let _ = write!(accounted, ", destination_service=\"{name}\"");
    }
    lines.push(("accounted to", accounted));
    let mut text = String::new();
    for (label, value) in lines {
        let _ = writeln!(text, "{label:<13}{value}");
    }
    text
}

/// The reading that is told in full, and the others: of a name, the one that it decides; without
/// one, what is no HTTP.
fn in_order(snapshot: &Snapshot, question: &Question) -> (Reading, Vec<Reading>) {
    let mut all = readings(snapshot, question);
    let by_name = all.iter().position(|reading| reading.is_by_name);
    let other = all.iter().position(|reading| reading.speaks == Speaks::Other);
    let first = all.remove(by_name.or(other).unwrap_or(0));
    (first, all)
}

/// What the name is read as, and what else could happen.
fn name(question: &Question, first: &Reading, others: &[Reading]) -> Option<String> {
    let other = others.iter().find(|other| !other.is_same(first));
    let otherwise = other.map_or_else(String::new, |other| {
        let matched = other.matched.as_ref().map(|how| format!(", by {how}"));
        let (verdict, decided_by) = (other.verdict, &other.decided_by);
        let matched = matched.unwrap_or_default();
        format!("; as {}: {verdict}, {decided_by}{matched}", reads(other.speaks))
    });
    match host_of(question) {
        None if otherwise.is_empty() => None,
        None => Some(format!("none{otherwise}")),
        Some(Err(error)) => {
            let host = question.host.as_deref().unwrap_or_default();
            Some(format!("none: `{}`: {error}{otherwise}", host.escape_debug()))
        }
        Some(Ok(host)) => {
            let host = match host {
                Host::Name(name) => name.to_string(),
                Host::Address(address) => address.to_string(),
            };
            let is_told = question.speaks.is_some() || !otherwise.is_empty() || first.is_by_name;
            Some(match is_told {
                true => format!("{host}, as {}{otherwise}", reads(first.speaks)),
                false if first.matched.is_some() && first.is_by_address => {
                    format!("{host}: a label only, because the address decides")
                }
                false => format!("{host}: no entry that is found by a name matches it"),
            })
        }
    }
}

fn reads(speaks: Speaks) -> &'static str {
    match speaks {
        Speaks::Http => "Host (HTTP)",
        Speaks::Tls => "SNI (TLS)",
        Speaks::Other => "bytes without a name",
    }
}
