//! The smallest HTTP client that can ask the proxy, and the metrics that it reads.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::lab::PATIENCE;

/// Bytes that were copied by way of user space, and spliced.
pub(crate) const COPIED: &str = "egret_copied_bytes_total";
pub(crate) const SPLICED: &str = "egret_spliced_bytes_total";
/// Connections, and bytes as their downstream sees them.
pub(crate) const OPENED: &str = "istio_tcp_connections_opened_total";
pub(crate) const CLOSED: &str = "istio_tcp_connections_closed_total";
pub(crate) const SENT: &str = "istio_tcp_sent_bytes_total";
pub(crate) const RECEIVED: &str = "istio_tcp_received_bytes_total";
/// Requests.
pub(crate) const REQUESTS: &str = "istio_requests_total";
/// What names did.
pub(crate) const RECOGNISED: &str = "egret_recognised_connections_total";
pub(crate) const RECOGNISING: &str = "egret_recognising_connections";
pub(crate) const UNVERIFIED: &str = "egret_unverified_names_total";
pub(crate) const REFUSED: &str = "egret_http_refused_requests_total";
pub(crate) const SWITCHES: &str = "egret_http_upstream_switches_total";
/// The state of the proxy.
pub(crate) const ACTIVE: &str = "egret_connections_active";
pub(crate) const ACCEPTS: &str = "egret_accepts_total";
pub(crate) const PIPES_IN_USE: &str = "egret_pipes_in_use";
pub(crate) const SELF_CALLS: &str = "egret_self_calls_total";
pub(crate) const ENDED: &str = "egret_connections_closed_total";
pub(crate) const GENERATION: &str = "egret_config_generation";
pub(crate) const RELOADS: &str = "egret_config_reloads_total";
pub(crate) const SERIES: &str = "egret_metric_series";
pub(crate) const OVERFLOW: &str = "egret_metric_series_overflow_total";

/// A status code and a body. Every exchange has a connection of its own, which the server closes.
/// In HTTP/1.0 that ends an answer whose length was not known, so there is nothing to decode.
pub(crate) fn exchange(at: SocketAddr, method: &str, path: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&at, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let request = format!(
        "{method} {path} HTTP/1.0\r\nHost: {at}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "no HTTP answer");
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(malformed)?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(malformed)?;
    Ok((status, body.to_owned()))
}

/// One scrape.
#[derive(Debug)]
pub(crate) struct Scrape {
    pub(crate) text: String,
    samples: Vec<Sample>,
}

#[derive(Debug)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Scrape {
    pub(crate) fn parse(text: String) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        let samples = lines.map(Sample::parse).collect();
        Self { text, samples }
    }

    /// The sum of all series of that name which have these labels. All that the tests read are
    /// whole numbers.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "counts below 2^53"
    )]
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        self.matching(name, labels).map(|sample| sample.value).sum::<f64>() as u64
    }

    /// How many series of that name have these labels.
    pub(crate) fn series(&self, name: &str, labels: &[(&str, &str)]) -> usize {
        self.matching(name, labels).count()
    }

    fn matching(&self, name: &str, labels: &[(&str, &str)]) -> impl Iterator<Item = &Sample> {
        self.samples.iter().filter(move |sample| {
            sample.name == name
                && labels
                    .iter()
                    .all(|(key, value)| sample.labels.get(*key).is_some_and(|found| found == value))
        })
    }
}

impl Sample {
    fn parse(line: &str) -> Self {
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("sample: {line}"));
        let value = value.parse().unwrap_or_else(|_| panic!("value: {line}"));
        let Some((name, labels)) = series.split_once('{') else {
            return Self { name: series.to_owned(), labels: BTreeMap::new(), value };
        };
        Self { name: name.to_owned(), labels: parse_labels(labels), value }
    }
}

/// `a="x",b="y"}`; no test uses a label value that needs an escape.
fn parse_labels(text: &str) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    let mut rest = text.trim_end_matches('}');
    while let Some((name, tail)) = rest.split_once("=\"") {
        let Some((value, tail)) = tail.split_once('"') else { break };
        labels.insert(name.trim_start_matches(',').to_owned(), value.to_owned());
        rest = tail;
    }
    labels
}
