//! Identities and a strict reader of the text formats, for the tests of metrics and exporter.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{BuildHasher, Hash};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::metrics::{ResponseFlags, SeriesKey};
use crate::registry::snapshot::{Cluster, Identity};
use crate::workload::Workload;

/// A workload of that name, in namespace `default`.
pub(crate) fn workload(name: &str) -> Identity<Workload> {
    identity(Workload {
        workload: Some(name.into()),
        namespace: Some("default".into()),
        ..Workload::default()
    })
}

/// The cluster of a service entry for `host`, in namespace `egress`.
pub(crate) fn cluster(host: &str) -> Identity<Cluster> {
    identity(Cluster {
        service_name: host.into(),
        service: Some(host.into()),
        workload: Some("entry".into()),
        service_namespace: Some("egress".into()),
    })
}

/// The labels of a connection of `source` to `cluster`, and no others.
pub(super) fn key<'a>(
    source: &'a Identity<Workload>,
    cluster: &'a Identity<Cluster>,
) -> SeriesKey<'a> {
    SeriesKey {
        source,
        cluster,
        service: None,
        destination_ip: None,
        response_code: None,
        flags: ResponseFlags::None,
        maker: another_maker(),
    }
}

/// The address of a source that has made no label set yet: its share is not what a test is about.
pub(crate) fn another_maker() -> IpAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    IpAddr::V4(NEXT.fetch_add(1, Ordering::Relaxed).into())
}

/// A reserved cluster.
pub(crate) fn reserved(name: &str) -> Identity<Cluster> {
    identity(Cluster::reserved(name))
}

fn identity<T: Hash>(value: T) -> Identity<T> {
    let hash = foldhash::fast::FixedState::default().hash_one(&value);
    Identity { value: Arc::new(value), hash }
}

/// A scrape, read strictly: sample (name and labels as printed) to value.
pub(crate) type Samples = HashMap<String, f64>;

/// Reads `text` and panics at anything that the formats do not allow: samples outside their family,
/// families without help or type or in two places, duplicate samples, bad names or escapes,
/// counters without `_total`, histograms that are not cumulative.
pub(crate) fn read_strictly(text: &str, format: super::Format) -> Samples {
    let mut reader = Reader { format, ..Reader::default() };
    let body = match format {
        super::Format::Text => text,
        super::Format::OpenMetrics => text.strip_suffix("# EOF\n").expect("EOF ends the scrape"),
    };
    assert!(body.ends_with('\n'), "the last line ends");
    for line in body.lines() {
        reader.line(line);
    }
    reader.check_histograms();
    reader.samples
}

#[derive(Default)]
struct Reader {
    format: super::Format,
    help: Option<String>,
    family: Option<(String, String)>,
    seen: HashSet<String>,
    samples: Samples,
    /// Histogram and its labels without `le`, to its buckets in order.
    buckets: BTreeMap<(String, String), Vec<(f64, f64)>>,
}

impl Reader {
    fn line(&mut self, line: &str) {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("help text");
            assert!(is_name(name), "{name}");
            assert!(help.len() > 10, "{line}");
            assert!(self.seen.insert(name.to_owned()), "{name} stands in two places");
            self.help = Some(name.to_owned());
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("type");
            assert_eq!(self.help.take().as_deref(), Some(name), "help stands before type");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            self.family = Some((name.to_owned(), kind.to_owned()));
        } else {
            assert!(!line.starts_with('#'), "{line}");
            self.sample(line);
        }
    }

    fn sample(&mut self, line: &str) {
        let (series, value) = line.rsplit_once(' ').expect("a value");
        let value: f64 = value.parse().expect("a number");
        assert!(value.is_finite(), "{line}");
        let (name, labels) = match series.split_once('{') {
            None => (series, Vec::new()),
            Some((name, rest)) => (name, read_labels(rest)),
        };
        assert!(is_name(name), "{line}");
        let distinct: HashSet<_> = labels.iter().map(|(k, _)| k).collect();
        assert_eq!(distinct.len(), labels.len(), "a label twice: {line}");

        let (family, kind) = self.family.as_ref().expect("a family before its samples");
        match (kind.as_str(), self.format) {
            ("counter", super::Format::OpenMetrics) => assert_eq!(name, format!("{family}_total")),
            ("counter", super::Format::Text) => {
                assert_eq!(name, family);
                assert!(name.ends_with("_total"), "{name}");
            }
            ("gauge", _) => assert_eq!(name, family),
            _ => {
                let part = name.strip_prefix(family.as_str()).expect("the family's name first");
                assert!(["_sum", "_count", "_bucket"].contains(&part), "{line}");
                if part == "_bucket" {
                    let (le, rest): (Vec<_>, Vec<_>) =
                        labels.into_iter().partition(|(k, _)| k == "le");
                    let bound =
                        if le[0].1 == "+Inf" { f64::INFINITY } else { le[0].1.parse().unwrap() };
                    let key = (family.clone(), format!("{rest:?}"));
                    self.buckets.entry(key).or_default().push((bound, value));
                }
            }
        }
        assert!(self.samples.insert(series.to_owned(), value).is_none(), "twice: {series}");
    }

    fn check_histograms(&self) {
        for ((family, labels), buckets) in &self.buckets {
            assert!(buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{family} {buckets:?}");
            assert_eq!(buckets.last().unwrap().0, f64::INFINITY, "{family}");
            if labels == "[]" {
                assert_eq!(self.samples[&format!("{family}_count")], buckets.last().unwrap().1);
            }
        }
    }
}

/// Labels after the opening brace, up to the closing one at the end.
fn read_labels(text: &str) -> Vec<(String, String)> {
    let mut labels = Vec::new();
    let mut rest = text;
    loop {
        let (name, after) = rest.split_once("=\"").expect("name and value");
        assert!(is_name(name) && !name.contains(':'), "{text}");
        let mut value = String::new();
        let mut chars = after.char_indices();
        let end = loop {
            match chars.next().expect("a closing quote") {
                (at, '"') => break at,
                (_, '\\') => match chars.next().expect("an escaped character").1 {
                    'n' => value.push('\n'),
                    c @ ('\\' | '"') => value.push(c),
                    c => panic!("\\{c} is no escape"),
                },
                (_, c) => value.push(c),
            }
        };
        labels.push((name.to_owned(), value));
        match &after[end + 1..] {
            "}" => return labels,
            more => rest = more.strip_prefix(',').expect("a comma between labels"),
        }
    }
}

fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_' || b == b':')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b':')
}
