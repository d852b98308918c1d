//! Connections whose bytes mean nothing to their server: opaque ones, and TLS.

use std::net::SocketAddr;

use egret::sys::sim::Micros;

use super::{Window, actor_of, is_late, may_go};
use crate::accounts::Scrape;
use crate::client::{Actor, Heard};
use crate::plan::{Client, End, Hello, IDLE_US, Place, Plan, Speech};
use crate::registry::destination;
use crate::scenario::Story;
use crate::script::server_hello;

pub(super) fn server(
    plan: &Plan,
    story: &Story,
    address: SocketAddr,
    server: &Actor,
    scrape: &Scrape<'_>,
) {
    let Some(client) = plan.clients.iter().find(|client| destination(client) == address) else {
        let hears = |client: &Client| may_hear(story, client, address, server);
        let somebody = plan.clients.iter().any(hears);
        assert!(server.heard.is_empty() || somebody, "{address} heard foreign bytes");
        return;
    };
    let actor = actor_of(story, client).expect("it has connected");
    let may = server.heard.is_empty() || may_hear(story, client, address, server);
    assert!(may, "{address} heard bytes of client {}", client.number);
    // One that was made because the workload was silent is closed when it says a name: of two it
    // is not known whose end it has heard.
    let is_one_of_two = story.raw.iter().filter(|other| other.address == address).count() > 1;
    let has_named = matches!(client.speech, Speech::Tls(_)) && client.place == Place::Named;
    if is_one_of_two || (has_named && server.heard.is_empty()) {
        return;
    }
    let said = &server.says[..server.said];
    assert!(said.starts_with(&actor.heard), "client {} heard foreign bytes", client.number);
    let readers = [client.reader, client.server.reader];
    let reads = readers.iter().all(|reader| reader.stops.is_none());
    let times_out = scrape.closed(&["idle", "half_close"]) > 0;
    for (speaker, listener, of) in [(actor, server, "server"), (server, actor, "client")] {
        if story.is_draining(listener.ear_at) {
            continue;
        }
        // Of a record of TLS that is not whole, where another ClientHello may come, nothing passes.
        let may_miss = of == "server" && matches!(client.speech, Speech::Tls(_));
        ends(speaker, listener, of, may_miss, times_out);
        if reads && !may_miss {
            moves(speaker, listener, of);
        }
    }
    is_not_kept(actor, server);
    is_not_broken(story, actor, server, scrape);
}

/// Whether all that a server has heard are bytes of this client, and may go there.
fn may_hear(story: &Story, client: &Client, address: SocketAddr, server: &Actor) -> bool {
    let Some(actor) = actor_of(story, client) else { return false };
    let (host, shown) = match client.speech {
        Speech::Tls(tls) => (Some(tls.name), actor.says.len() - tls.rest),
        Speech::Opaque(_) | Speech::Http1(..) | Speech::Http2(_) => (None, 0),
    };
    let first = story.scripts[client.number].second_hello.unwrap_or(shown);
    // A server that speaks first settles it, too.
    let is_late = host.is_some() && (server.said > 0 || is_late(actor, first));
    let whole = if host.is_some() { first.saturating_sub(6) } else { 0 };
    let by_name = Window::since(actor, whole, Some(server.began_at));
    let any_time = Window { from: actor.began_at, until: Micros::MAX };
    actor.says[..actor.said].starts_with(&server.heard)
        && (may_go(story, client, host, address, by_name)
            || (is_late && may_go(story, client, None, address, any_time)))
        && is_second_name_kept(story, client, server, is_late)
}

/// A second ClientHello that names another server does not pass, where the server asks for one.
fn is_second_name_kept(story: &Story, client: &Client, server: &Actor, is_late: bool) -> bool {
    let Speech::Tls(tls) = client.speech else { return true };
    let Some(second) = story.scripts[client.number].second_hello else { return true };
    let is_other = tls.second.is_some_and(|name| name != tls.name);
    let asks = server.says.starts_with(&server_hello(Hello::Retry));
    let is_gated = client.place == Place::Named && !is_late;
    !(is_other && is_gated && asks) || server.heard.len() <= second
}

/// A FIN comes behind all that was said, and never in the place of a reset.
fn ends(speaker: &Actor, listener: &Actor, of: &str, may_miss: bool, times_out: bool) {
    if listener.ear != Heard::End {
        return;
    }
    let ended_at = listener.ear_at;
    let own_end = speaker.own_end.filter(|(at, _)| *at <= ended_at);
    match own_end {
        Some((_, End::Reset)) => panic!("the {of} heard an end in the place of a reset"),
        Some((_, End::Finish | End::Close)) => {
            let (said, heard) = (speaker.said, listener.heard.len());
            assert!(
                may_miss || heard == said,
                "the {of} heard an end after {heard} of {said} bytes"
            );
        }
        // A timeout ends it in peace, too.
        None => assert!(
            speaker.is_closed_by(ended_at) || times_out,
            "the {of} heard an end that its peer has not made"
        ),
    }
}

/// Longer than anything takes that is not waited for.
const PROMPT_US: Micros = 5_000_000;

/// What was said is heard, and so is its end, long before a timeout.
fn moves(speaker: &Actor, listener: &Actor, of: &str) {
    let Heard::Error(_) = listener.ear else { return };
    let (said, heard) = (speaker.said, listener.heard.len());
    let ended_at = listener.ear_at;
    let since = speaker.moved_by(ended_at).max(listener.moved_by(ended_at));
    if since + IDLE_US - PROMPT_US <= listener.ear_at {
        assert_eq!(heard, said, "the {of} did not hear all in time");
    }
    if let Some((at, End::Finish)) = speaker.own_end
        && heard == said
        && listener.own_end.is_none_or(|(at, _)| at >= listener.ear_at)
    {
        let waited = ended_at - at.max(listener.moved_by(ended_at)).min(ended_at);
        assert!(waited <= PROMPT_US, "the {of} did not hear the end for {waited} us");
    }
}

/// What idles on both sides is ended.
fn is_not_kept(client: &Actor, server: &Actor) {
    let idled = |actor: &Actor| match actor.ear {
        Heard::More => actor.gave_up_after.unwrap_or(0),
        Heard::End | Heard::Error(_) => 0,
    };
    let idled = idled(client).min(idled(server));
    assert!(idled <= 2 * IDLE_US, "a connection has idled for {idled} us");
}

/// Why Egret may end a connection that neither side has ended.
const REASONS: [&str; 8] = [
    "idle",
    "half_close",
    "drained",
    "drain_deadline",
    "held_bytes",
    "gave_way",
    "bad_request",
    "head_timeout",
];

/// Both sides are not told of a reset that neither has made.
fn is_not_broken(story: &Story, client: &Actor, server: &Actor, scrape: &Scrape<'_>) {
    let is_reset = |actor: &Actor| matches!(actor.ear, Heard::Error(_));
    let resets = |actor: &Actor| match actor.own_end {
        Some((_, how)) => how != End::Finish,
        None => actor.gave_up_after.is_some(),
    };
    let both = is_reset(client) && is_reset(server);
    let neither = !resets(client) && !resets(server);
    let ended_at = client.ear_at.min(server.ear_at);
    let has_reason = scrape.closed(&REASONS) > 0 || story.is_draining(ended_at);
    assert!(!both || !neither || has_reason, "both sides were reset, and neither has done it");
}
