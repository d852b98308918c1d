//! What must hold when all is over. It knows the plans and what the peers saw, and nothing of the
//! product.

mod http1;
mod http2;
mod raw;

use std::net::SocketAddr;

use egret::config::Mode;
use egret::sys::sim::{Micros, Net};

use crate::accounts::{self, Scrape};
use crate::client::Actor;
use crate::plan::{Client, Entry, Place, Plan, Ruling, Speech};
use crate::registry::{A, B, POOL, TLS_PORT, WEB_PORT, destination, speaks_web};
use crate::scenario::Story;
use crate::script::Script;
use crate::server::Reads;

pub(crate) use http1::switched_at;

pub(crate) fn judge(plan: &Plan, story: &Story, net: &Net, metrics: &str, lines: Option<usize>) {
    resources(net);
    let scrape = Scrape(metrics);
    accounts::judge(plan, story, net, &scrape, lines);
    for server in &story.raw {
        raw::server(plan, story, server.address, &server.actor, &scrape);
    }
    for server in &story.http {
        http1::server(plan, story, server);
        if let Reads::Http2(streams) = &server.reads {
            http2::server(plan, story, server.address, streams);
        }
    }
    http1::once(plan, story);
    for (client, actor) in plan.clients.iter().zip(&story.clients) {
        let Some(actor) = actor else { continue };
        match client.speech {
            Speech::Http1(..) => http1::client(plan, client, actor, story),
            Speech::Http2(_) => http2::client(plan, client, actor, 0, 1, story),
            Speech::Opaque(_) | Speech::Tls(_) => {}
        }
    }
}

// Resources.

fn resources(net: &Net) {
    assert_eq!(net.leaked(), [], "descriptors are left");
    assert_eq!(net.descriptors(), 2 * net.pipes(), "descriptors are left");
}

// Policy.

/// When something may have been decided.
#[derive(Debug, Clone, Copy)]
struct Window {
    from: Micros,
    until: Micros,
}

impl Window {
    /// From when `client` had said the first `shown` bytes of its script.
    fn since(actor: &Actor, shown: usize, until: Option<Micros>) -> Self {
        let from = actor.said_at(shown).unwrap_or(actor.began_at);
        Self { from, until: until.unwrap_or(Micros::MAX) }
    }
}

/// What has decided at some time in `window`.
fn rulings(story: &Story, window: Window) -> impl Iterator<Item = Ruling> + '_ {
    let all = &story.rulings;
    let until = move |at: usize| all.get(at + 1).map_or(Micros::MAX, |(next, _)| *next);
    (0..all.len())
        // A turn that has begun before takes what it began with.
        .filter(move |&at| {
            all[at].0 <= window.until && until(at).saturating_add(TURN_US) >= window.from
        })
        .map(move |at| all[at].1)
}

/// The longest turn.
const TURN_US: Micros = 20_000;

/// Whether a name leads to `address` under a ruling.
fn leads_to(host: &str, ruling: Ruling, own: SocketAddr, address: SocketAddr) -> bool {
    let port = if own.port() == 443 { TLS_PORT } else { WEB_PORT };
    let is_one_of =
        |endpoints: &[[u8; 4]]| endpoints.iter().any(|ip| address == SocketAddr::from((*ip, port)));
    match (host, ruling.b) {
        ("a.example", _) => is_one_of(&A),
        ("b.example", Entry::Here) => is_one_of(&B[..1]),
        ("b.example", Entry::Moved) => is_one_of(&B[1..]),
        _ => ruling.mode == Mode::AllowAny && address == own,
    }
}

/// Whether bytes of `client` that show `host` may go to `address`.
fn may_go(
    story: &Story,
    client: &Client,
    host: Option<&str>,
    address: SocketAddr,
    window: Window,
) -> bool {
    let own = destination(client);
    // Where the address decides, it does so once.
    let from = match client.place {
        Place::Named => window.from,
        Place::Registered | Place::Pooled | Place::Unknown | Place::OpaquePort => 0,
    };
    let mut rulings = rulings(story, Window { from, ..window });
    match (client.place, host) {
        (Place::Registered, _) => address == own,
        (Place::Pooled, _) => {
            let port = if speaks_web(client) { WEB_PORT } else { TLS_PORT };
            POOL.iter().any(|ip| address == SocketAddr::from((*ip, port)))
        }
        (Place::Named, Some(host)) => rulings.any(|ruling| leads_to(host, ruling, own, address)),
        (Place::Named | Place::Unknown | Place::OpaquePort, _) => {
            address == own && rulings.any(|ruling| ruling.mode == Mode::AllowAny)
        }
    }
}

/// Whether the first `shown` bytes, which show the name, were not there in time, or never: the
/// address decides then.
fn is_late(actor: &Actor, shown: usize) -> bool {
    match (actor.said_at(1), actor.said_at(shown)) {
        (Some(began), Some(whole)) => whole.saturating_sub(began) >= DEADLINE_US,
        _ => true,
    }
}

/// A little less than `names.deadline`, for what the net delays.
const DEADLINE_US: Micros = 4_000_000;

/// Bytes of the first head.
fn first_head(script: &Script) -> usize {
    script.heads.first().copied().unwrap_or(0)
}

/// What this client has done, if it has connected.
fn actor_of<'a>(story: &'a Story, client: &Client) -> Option<&'a Actor> {
    story.clients[story.plan_index(client.number)?].as_ref()
}
