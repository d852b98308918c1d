//! What must hold when all is over. It knows the plans and what the peers saw, and nothing of the
//! product.

use std::net::SocketAddr;
use std::ops::Range;

use egret::config::Mode;
use egret::sys::sim::{Micros, Net};

use crate::client::{Actor, Heard, Script};
use crate::plan::{Client, Place, Plan, Speech};
use crate::registry::{A, B, TLS_PORT, destination};
use crate::scenario::{Ruling, Story};
use crate::server::{HttpServer, requests};

pub(crate) fn judge(plan: &Plan, story: &Story, net: &Net, metrics: &str) {
    resources(net);
    accounts(metrics);
    for server in &story.raw {
        raw_server(plan, story, server.address, &server.actor);
    }
    for server in &story.http {
        http_server(plan, story, server);
    }
    once(plan, story);
    for (client, actor) in plan.clients.iter().zip(&story.clients) {
        if let (Speech::Http1(_), Some(actor)) = (&client.speech, actor) {
            http_client(client, actor, story);
        }
    }
}

// Resources.

fn resources(net: &Net) {
    assert_eq!(net.leaked(), [], "descriptors are left");
    assert_eq!(net.descriptors(), 2 * net.pipes(), "descriptors are left");
}

// Accounts.

/// Gauges of what a connection has while it lives.
const GAUGES: [&str; 5] = [
    "egret_connections_active",
    "egret_held_bytes",
    "egret_pipes_in_use",
    "egret_recognising_connections",
    "egret_recognising_bytes",
];

fn accounts(metrics: &str) {
    for gauge in GAUGES {
        let samples = metrics.lines().filter_map(|line| {
            let rest = line.strip_prefix(gauge)?;
            rest.starts_with([' ', '{']).then_some(rest.rsplit(' ').next())
        });
        let values: Vec<_> = samples.flatten().collect();
        assert!(
            !values.is_empty() && values.iter().all(|value| *value == "0"),
            "{gauge}: {values:?}"
        );
    }
    let counted = |what: &str| -> Vec<&str> {
        let name = format!("istio_tcp_connections_{what}_total{{");
        metrics.lines().filter_map(|line| line.strip_prefix(&name)).collect()
    };
    assert_eq!(
        counted("opened"),
        counted("closed"),
        "whatever was opened is closed, under its labels"
    );
}

// Policy.

/// Where a name leads under a ruling; `None`: nowhere.
fn leads_to(host: &str, ruling: &Ruling, port: u16, own: SocketAddr) -> Option<SocketAddr> {
    let of = |(ip, _): ([u8; 4], u16)| Some(SocketAddr::from((ip, port)));
    match host {
        "a.example" => of(A),
        "b.example" if ruling.with_b => of(B),
        _ if ruling.mode == Mode::AllowAny => Some(own),
        _ => None,
    }
}

/// Whether bytes of `client` that show `host` may go to `address`.
fn may_go(story: &Story, client: &Client, host: Option<&str>, address: SocketAddr) -> bool {
    let own = destination(client);
    match (client.place, host) {
        (Place::Registered, _) => address == own,
        (Place::Named, Some(host)) => {
            let port = if own.port() == 443 { TLS_PORT } else { A.1 };
            story.rulings.iter().any(|ruling| leads_to(host, ruling, port, own) == Some(address))
        }
        (Place::Named | Place::Unknown, _) => {
            address == own && story.rulings.iter().any(|ruling| ruling.mode == Mode::AllowAny)
        }
    }
}

// Bytes.

fn raw_server(plan: &Plan, story: &Story, address: SocketAddr, server: &Actor) {
    let clients = || plan.clients.iter().zip(&story.clients);
    let mut own = clients().filter(|(client, _)| destination(client) == address);
    if let Some((client, actor)) = own.next() {
        let actor = actor.as_ref().expect("it has connected");
        let may = server.heard.is_empty() || may_hear(story, client, actor, address, server);
        assert!(may, "{address} heard bytes of client {}", client.number);
        let said = &server.says[..server.said];
        assert!(said.starts_with(&actor.heard), "client {} heard foreign bytes", client.number);
        ends(story, actor, server, "server");
        ends(story, server, actor, "client");
        return;
    }
    let somebody = clients().any(|(client, actor)| {
        actor.as_ref().is_some_and(|actor| may_hear(story, client, actor, address, server))
    });
    assert!(server.heard.is_empty() || somebody, "{address} heard foreign bytes");
}

/// Whether all that a server has heard are bytes of this client, and may go there.
fn may_hear(
    story: &Story,
    client: &Client,
    actor: &Actor,
    address: SocketAddr,
    server: &Actor,
) -> bool {
    let (host, rest) = match client.speech {
        Speech::Tls(name, rest) => (Some(name), rest),
        Speech::Opaque(_) | Speech::Http1(_) => (None, 0),
    };
    // A server that speaks first settles it, too.
    let is_late = host.is_some() && (server.said > 0 || is_late(actor, actor.says.len() - rest));
    actor.says[..actor.said].starts_with(&server.heard)
        && (may_go(story, client, host, address)
            || (is_late && may_go(story, client, None, address)))
}

/// `timeouts.idle`.
const IDLE_US: Micros = 1_000_000 * crate::registry::IDLE_S;

/// A FIN comes behind all that was said, and never in the place of a reset.
fn ends(story: &Story, speaker: &Actor, listener: &Actor, of: &str) {
    if listener.ear == Heard::End && story.drained_at.is_none() {
        let idled = listener.ear_at - speaker.active_at.max(listener.active_at);
        let has_ended = speaker.ended.is_some() || idled >= IDLE_US;
        assert!(has_ended, "the {of} heard an end that its peer has not made");
        let (said, heard) = (speaker.said, listener.heard.len());
        assert_eq!(heard, said, "the {of} heard an end before all was heard");
    }
}

fn http_server(plan: &Plan, story: &Story, server: &HttpServer) {
    let heard = &server.actor.heard;
    let Some(client) = plan.clients.iter().find(|client| Some(client.number) == server.client)
    else {
        return begins_as_somebody(plan, story, server);
    };
    let Script { says, requests: ranges } = &story.scripts[client.number];
    let mut expected = Vec::new();
    for &number in &server.requests {
        let host = requests(client)[number].host;
        let by_name = may_go(story, client, Some(host), server.address);
        let by_address =
            is_late(actor_of(plan, story, client), first_head(&story.scripts[client.number]))
                && may_go(story, client, None, server.address);
        let (address, of) = (server.address, client.number);
        assert!(by_name || by_address, "{address} heard client {of}'s request {number} to {host}");
        expected.extend_from_slice(&says[ranges[number].clone()]);
    }
    assert!(server.requests.is_sorted(), "{:?}", server.requests);
    assert!(
        expected.starts_with(heard) || is_next_head(heard, &expected, says, ranges, server),
        "{} heard foreign bytes behind client {}'s requests {:?}",
        server.address,
        client.number,
        server.requests
    );
}

/// Whether the first `shown` bytes, which show the name, were not there in time, or never: the
/// address decides then.
fn is_late(actor: &Actor, shown: usize) -> bool {
    let when = |least: usize| {
        let said = actor.said_at.iter().find(|(_, said)| *said >= least);
        said.map(|(at, _)| *at)
    };
    match (when(1), when(shown)) {
        (Some(began), Some(whole)) => whole - began >= DEADLINE_US,
        _ => true,
    }
}

/// Bytes of the first head.
fn first_head(script: &Script) -> usize {
    script.says.windows(4).position(|four| four == b"\r\n\r\n").map_or(0, |at| at + 4)
}

fn actor_of<'a>(plan: &Plan, story: &'a Story, client: &Client) -> &'a Actor {
    let at = plan.clients.iter().position(|one| one.number == client.number);
    at.and_then(|at| story.clients[at].as_ref()).expect("it has spoken")
}

/// A little less than `names.deadline`, for what the net delays.
const DEADLINE_US: Micros = 4_000_000;

/// What a server has heard behind whole requests is the beginning of a later head, less than its
/// first line.
fn is_next_head(
    heard: &[u8],
    expected: &[u8],
    says: &[u8],
    ranges: &[Range<usize>],
    server: &HttpServer,
) -> bool {
    let Some(rest) = heard.strip_prefix(expected) else { return false };
    let last = server.requests.last().copied().unwrap_or(0);
    ranges[last..].iter().skip(1).any(|range| says[range.clone()].starts_with(rest))
}

/// Less than a first line has come: it must be the beginning of a request that may go there.
fn begins_as_somebody(plan: &Plan, story: &Story, server: &HttpServer) {
    let heard = &server.actor.heard;
    let somebody = plan.clients.iter().any(|client| {
        let Script { says, requests: ranges } = &story.scripts[client.number];
        let may = |host| may_go(story, client, host, server.address);
        ranges.iter().zip(requests(client)).any(|(range, request)| {
            let is_late = range.start == 0
                && is_late(
                    actor_of(plan, story, client),
                    first_head(&story.scripts[client.number]),
                );
            let may = may(Some(request.host)) || (is_late && may(None));
            may && says[range.clone()].starts_with(heard)
        })
    });
    assert!(heard.is_empty() || somebody, "{} heard {} foreign bytes", server.address, heard.len());
}

/// No request has gone to two servers.
fn once(plan: &Plan, story: &Story) {
    for client in &plan.clients {
        let of_it = story.http.iter().filter(|server| server.client == Some(client.number));
        let mut all: Vec<usize> = of_it.flat_map(|server| server.requests.clone()).collect();
        all.sort_unstable();
        let twice = all.windows(2).find(|two| two[0] == two[1]);
        assert!(twice.is_none(), "client {}'s request {twice:?} went out twice", client.number);
    }
}

/// A client hears the responses in the order of its requests, or local replies in their place.
fn http_client(client: &Client, actor: &Actor, story: &Story) {
    let may_reply = client.place == Place::Named
        || story.rulings.iter().any(|ruling| ruling.mode == Mode::RegistryOnly);
    let mut rest = &actor.heard[..];
    for number in 0..requests(client).len() {
        if rest.is_empty() {
            return;
        }
        match story.responses.get(&(client.number, number)) {
            Some(response) if rest.starts_with(response) => rest = &rest[response.len()..],
            Some(response) if response.starts_with(rest) => return,
            Some(response) if may_reply => {
                // A response that was cut off is a prefix; nothing may follow it.
                let same = response.iter().zip(rest).take_while(|(a, b)| a == b).count();
                assert!(
                    same == 0 && is_local_reply(rest),
                    "client {} heard something else than response {number}, from byte {same} on",
                    client.number
                );
                return;
            }
            None if may_reply && is_local_reply(rest) => {
                let end = rest.windows(4).position(|four| four == b"\r\n\r\n");
                let Some(end) = end else { return };
                let length = content_length(&rest[..end]);
                rest = rest.get(end + 4 + length..).unwrap_or_default();
            }
            _ => panic!("client {} heard {} foreign bytes", client.number, rest.len()),
        }
    }
    assert!(rest.is_empty(), "client {} heard {} bytes too many", client.number, rest.len());
}

fn is_local_reply(bytes: &[u8]) -> bool {
    let codes = ["400", "408", "431", "502", "503"];
    codes.iter().any(|code| {
        let line = format!("HTTP/1.1 {code} ");
        let line = line.as_bytes();
        bytes.starts_with(line) || line.starts_with(bytes)
    })
}

fn content_length(head: &[u8]) -> usize {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let value =
        head.lines().find_map(|line| line.strip_prefix("content-length:").map(str::to_owned));
    value.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}
