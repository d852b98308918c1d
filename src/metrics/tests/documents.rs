//! `docs/metrics.md` has every metric, its type and every value of its labels, and no other metric.

use super::*;

const DOCUMENT: &str = include_str!("../../../docs/metrics.md");

/// What the row of a metric says: its cells, and whether it is marked as unstable.
fn row(name: &str) -> Vec<&'static str> {
    let begins = |line: &&str| {
        let rest = line.strip_prefix(&format!("| `{name}`"));
        rest.is_some_and(|rest| rest.starts_with(" |") || rest.starts_with("* |"))
    };
    let mut rows = DOCUMENT.lines().filter(begins);
    let found = rows.next().unwrap_or_else(|| panic!("{name} has no row"));
    assert_eq!(rows.next(), None, "{name} has two rows");
    found.split('|').map(str::trim).collect()
}

/// The text under the heading that a link such as `[below](#close-reasons)` in `cell` leads to.
fn linked_section(cell: &str) -> &'static str {
    let Some(anchor) = cell.split("(#").nth(1).and_then(|rest| rest.split(')').next()) else {
        return "";
    };
    let is_it = |section: &&str| {
        let heading = section.lines().next().unwrap_or_default();
        heading.to_lowercase().replace(' ', "-").replace('/', "") == anchor
    };
    let sections = DOCUMENT.split("\n### ");
    sections.into_iter().find(is_it).unwrap_or_else(|| panic!("no section {anchor}"))
}

#[test]
fn every_metric_has_a_row_with_its_type() {
    for metric in CATALOGUE {
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        assert_eq!(row(metric.name)[2], kind, "{}", metric.name);
    }
}

#[test]
fn every_metric_that_is_mentioned_exists() {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut mentioned = 0;
    for word in DOCUMENT.split(|c| !is_part(c)) {
        if !(word.starts_with("egret_") || word.starts_with("istio_")) {
            continue;
        }
        // `istio_tcp_*` and the like mean a family of names.
        let is_known = |row: &super::super::catalogue::Row| {
            let parts = ["", "_bucket", "_sum", "_count"].map(|part| format!("{}{part}", row.name));
            parts.iter().any(|name| name == word)
                || DOCUMENT.contains(&format!("{word}*")) && row.name.starts_with(word)
        };
        assert!(CATALOGUE.iter().any(is_known), "{word}");
        mentioned += 1;
    }
    assert!(mentioned > CATALOGUE.len(), "only {mentioned} names seen");
}

#[test]
fn every_value_of_a_label_is_listed() {
    let mut values = 0;
    for sample in scrape(&busy_hub()).into_keys().filter(|sample| sample.starts_with("egret_")) {
        let Some((name, rest)) = sample.split_once('{') else { continue };
        let (label, rest) = rest.split_once("=\"").unwrap();
        if !matches!(label, "reason" | "result" | "phase" | "kind") {
            continue;
        }
        let value = rest.split('"').next().unwrap();
        let cell = row(name)[3];
        let listed = format!("{cell}{}", linked_section(cell));
        assert!(listed.contains(&format!("`{label}`")), "{name}: {label}");
        assert!(listed.contains(&format!("`{value}`")), "{name}: {label}={value}");
        values += 1;
    }
    assert!(values > 80, "only {values} values seen");
}

#[test]
fn every_close_reason_has_a_row_with_its_flags() {
    for &reason in CloseReason::VARIANTS {
        let cells = row(reason.label());
        let flags = match reason {
            // Not accounted to any series of Istio's.
            CloseReason::SelfCall => "none".to_owned(),
            other => format!("`{}`", other.response_flags().label()),
        };
        assert_eq!(cells[2], flags, "{}", reason.label());
    }
    for &flags in ResponseFlags::VARIANTS {
        assert!(!row(flags.label())[2].is_empty(), "{}", flags.label());
    }
}
