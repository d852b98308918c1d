//! What must hold of the counters when all is over: each connection and each request is counted
//! once, no byte that nobody has sent, and nothing that only lives while a connection does.

use egret::sys::sim::Net;

use crate::client::Actor;
use crate::plan::{Client, Plan, Speech};
use crate::scenario::Story;

/// Gauges of what a connection has while it lives.
const GAUGES: [&str; 5] = [
    "egret_connections_active",
    "egret_held_bytes",
    "egret_pipes_in_use",
    "egret_recognising_connections",
    "egret_recognising_bytes",
];

/// A scrape.
#[derive(Debug)]
pub(crate) struct Scrape<'a>(pub(crate) &'a str);

impl Scrape<'_> {
    fn samples(&self, name: &str) -> impl Iterator<Item = (&str, u64)> {
        self.0.lines().filter_map(move |line| {
            let rest = line.strip_prefix(name)?;
            let (labels, value) = rest.rsplit_once(' ')?;
            let is_it = labels.is_empty() || labels.starts_with('{');
            is_it.then(|| (labels, value.parse().expect("a number")))
        })
    }

    /// The sum over all label sets of which `label` is a part.
    pub(crate) fn sum(&self, name: &str, label: &str) -> u64 {
        self.samples(name).filter(|(labels, _)| labels.contains(label)).map(|(_, sum)| sum).sum()
    }

    /// Connections that have ended for one of these reasons.
    pub(crate) fn closed(&self, reasons: &[&str]) -> u64 {
        let label = |reason: &str| format!("reason=\"{reason}\"");
        let closed = |reason: &&str| self.sum("egret_connections_closed_total", &label(reason));
        reasons.iter().map(closed).sum()
    }
}

pub(crate) fn judge(
    plan: &Plan,
    story: &Story,
    net: &Net,
    scrape: &Scrape<'_>,
    lines: Option<usize>,
) {
    for gauge in GAUGES {
        assert!(scrape.samples(gauge).next().is_some(), "there is no {gauge}");
        assert_eq!(scrape.sum(gauge, ""), 0, "{gauge}");
    }
    assert_eq!(scrape.closed(&["internal_error"]), 0, "a gate has panicked");
    let accepts = |result: &str| scrape.sum("egret_accepts_total", &format!("result=\"{result}\""));
    let accepted = accepts("accepted") + accepts("refused_limit") + accepts("self_call");
    let ended = scrape.sum("egret_connections_closed_total", "");
    assert_eq!(ended, accepted, "connections that have ended, and that have come");
    let said = |actor: &Actor| actor.said as u64;
    let clients = || story.clients.iter().flatten();
    let received = scrape.sum("istio_tcp_received_bytes_total", "");
    let most = clients().map(said).sum();
    assert!(received <= most, "{received} bytes were received, and {most} sent");
    let sent = scrape.sum("istio_tcp_sent_bytes_total", "");
    let most = story.servers().map(said).sum::<u64>();
    // The alert and the frames that Egret itself says.
    let most = most + 1_000 * story.clients.len() as u64;
    assert!(sent <= most, "{sent} bytes were sent, and servers have said {most}");
    let counted = |what: &str| -> Vec<_> {
        let name = format!("istio_tcp_connections_{what}_total");
        scrape.samples(&name).collect()
    };
    let (opened, closed) = (counted("opened"), counted("closed"));
    assert_eq!(opened, closed, "whatever was opened is closed, under its labels");
    let requests = scrape.sum("istio_requests_total", "");
    let most: usize = plan.clients.iter().map(|client| requests_of(client, story)).sum();
    assert!(requests <= most as u64, "{requests} requests are counted, and {most} were made");
    let tcp = scrape.sum("istio_tcp_connections_closed_total", "");
    if let Some(lines) = lines {
        let most = requests + tcp + ended;
        assert!(lines as u64 <= most, "{lines} lines, {requests} requests, {tcp} of TCP");
        assert!(lines as u64 >= tcp, "{lines} lines, {tcp} connections of TCP");
    }
    assert_eq!(net.missing_buffers(), 0, "buffers are left");
}

/// How many requests a client has made, as far as it has said them.
fn requests_of(client: &Client, story: &Story) -> usize {
    let at = story.plan_index(client.number);
    let Some(actor) = at.and_then(|at| story.clients[at].as_ref()) else { return 0 };
    let script = &story.scripts[client.number];
    let begun = script.requests.iter().filter(|range| range.start < actor.said).count();
    let streams = script.streams.iter().filter(|range| range.start < actor.said).count();
    match client.speech {
        Speech::Http1(..) | Speech::Http2(_) => begun + streams,
        Speech::Opaque(_) | Speech::Tls(_) => 0,
    }
}
