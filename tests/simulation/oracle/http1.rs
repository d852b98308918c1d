//! Requests and responses of HTTP/1.

use std::ops::Range;

use egret::config::Mode;
use egret::sys::sim::{Micros, Outcome};

use super::{Window, actor_of, first_head, http2, is_late, may_go};
use crate::client::{Actor, Heard};
use crate::plan::{Client, End, Framing, HALF_CLOSE_US, Place, Plan, Protocol, Request, Speech};
use crate::registry::destination;
use crate::scenario::Story;
use crate::script::Script;
use crate::server::{Reads, Responses, WebServer, requests, switched};

/// A server has heard whole requests of one client, which may go there, in their order.
pub(super) fn server(plan: &Plan, story: &Story, server: &WebServer) {
    let heard = &server.actor.heard;
    let Some(client) = plan.clients.iter().find(|client| Some(client.number) == server.client)
    else {
        if !matches!(server.reads, Reads::Http2(_)) {
            begins_as_somebody(plan, story, server);
        }
        return;
    };
    let actor = actor_of(story, client).expect("it has spoken");
    let script = &story.scripts[client.number];
    let Script { says, requests: ranges, .. } = script;
    let any_time = Window { from: actor.began_at, until: Micros::MAX };
    let passes_any = may_go(story, client, None, server.address, any_time);
    let mut expected = Vec::new();
    for &number in &server.requests {
        let host = requests(client)[number].host;
        let window =
            Window::since(actor, script.heads[number], server.actor.heard_at(expected.len() + 1));
        let by_name = may_go(story, client, Some(host), server.address, window);
        let by_address = passes_any && is_late(actor, first_head(script));
        let (address, of) = (server.address, client.number);
        assert!(by_name || by_address, "{address} heard client {of}'s request {number} to {host}");
        expected.extend_from_slice(&says[ranges[number].clone()]);
    }
    assert!(server.requests.is_sorted(), "{:?}", server.requests);
    // What is behind an upgrade goes where the request has gone, if that has agreed; what is no
    // request goes where the address leads.
    let last = server.requests.last().copied().unwrap_or(0);
    let is_last = last + 1 == ranges.len();
    let has_switched = is_last && switched(client, last).is_some();
    let tail = &says[ranges[last].end..];
    if has_switched && matches!(server.reads, Reads::Http2(_)) {
        return;
    }
    let by_address = client.place != Place::Named || server.address == destination(client);
    if has_switched || (is_last && passes_any && by_address) {
        expected.extend_from_slice(tail);
    }
    assert!(
        expected.starts_with(heard) || is_next_head(heard, &expected, says, ranges, server),
        "{} heard foreign bytes behind client {}'s requests {:?}",
        server.address,
        client.number,
        server.requests
    );
}

/// What a server has heard behind whole requests is the beginning of a later head, less than its
/// first line.
fn is_next_head(
    heard: &[u8],
    expected: &[u8],
    says: &[u8],
    ranges: &[Range<usize>],
    server: &WebServer,
) -> bool {
    let Some(rest) = heard.strip_prefix(expected) else { return false };
    let last = server.requests.last().copied().unwrap_or(0);
    ranges[last..].iter().skip(1).any(|range| says[range.clone()].starts_with(rest))
}

/// Less than a first line has come: it must be the beginning of a request that may go there.
fn begins_as_somebody(plan: &Plan, story: &Story, server: &WebServer) {
    let heard = &server.actor.heard;
    let somebody = plan.clients.iter().any(|client| {
        let Some(actor) = actor_of(story, client) else { return false };
        let script = &story.scripts[client.number];
        let any_time = Window { from: actor.began_at, until: Micros::MAX };
        let may = |host| may_go(story, client, host, server.address, any_time);
        let is_late = is_late(actor, first_head(script));
        let ranges = script.requests.iter().zip(requests(client));
        let mut begins = ranges.map(|(range, request)| {
            let may = may(Some(request.host)) || (range.start == 0 && is_late && may(None));
            may && script.says[range.clone()].starts_with(heard)
        });
        let opens = !script.streams.is_empty() && script.says.starts_with(heard);
        opens || begins.any(|begins| begins)
    });
    assert!(heard.is_empty() || somebody, "{} heard {} foreign bytes", server.address, heard.len());
}

/// No request has gone to two servers.
pub(super) fn once(plan: &Plan, story: &Story) {
    for client in &plan.clients {
        let of_it = story.http.iter().filter(|server| server.client == Some(client.number));
        let mut all: Vec<usize> = of_it.flat_map(|server| server.requests.clone()).collect();
        all.sort_unstable();
        let twice = all.windows(2).find(|two| two[0] == two[1]);
        assert!(twice.is_none(), "client {}'s request {twice:?} went out twice", client.number);
    }
}

/// Where in what a client has heard the frames of HTTP/2 begin that it has switched to.
pub(crate) fn switched_at(client: &Client, heard: &[u8], responses: &Responses) -> Option<usize> {
    let last = requests(client).len().checked_sub(1)?;
    let switch = switched(client, last)?;
    if !matches!(switch.to, Protocol::Http2(_)) {
        return None;
    }
    let head = without_continue(responses.get(&(client.number, last))?);
    if head.is_empty() {
        return None;
    }
    let at = heard.windows(head.len()).position(|window| window == head)?;
    Some(at + head.len())
}

/// A client hears the responses in the order of its requests, or local replies in their place.
pub(super) fn client(plan: &Plan, client: &Client, actor: &Actor, story: &Story) {
    let may_reply = client.place == Place::Named
        || story.rulings.iter().any(|(_, ruling)| ruling.mode == Mode::RegistryOnly);
    let mut rest = &actor.heard[..];
    let mut was_local = false;
    for number in 0..requests(client).len() {
        if rest.is_empty() {
            let may_miss = was_local || may_be_unanswered(plan, client, actor, number, story);
            assert!(may_miss, "client {} heard no response {number}", client.number);
            return;
        }
        // Egret may have asked for the body itself.
        rest = without_continue(rest);
        if CONTINUE.starts_with(rest) {
            return;
        }
        let response = story.responses.get(&(client.number, number));
        match response.map(|response| without_continue(response)) {
            Some(response) if rest.starts_with(response) => {
                rest = &rest[response.len()..];
                let switch = switched(client, number);
                if switch.is_some_and(|switch| matches!(switch.to, Protocol::Http2(_))) {
                    let from = actor.heard.len() - rest.len();
                    return http2::client(plan, client, actor, from, 3, story);
                }
            }
            Some(response) if response.starts_with(rest) => {
                // Of a response that its server cuts within the head nothing passes.
                let is_cut = requests(client)[number].response.cut.is_some();
                // What nobody follows has no end that a drain could wait for.
                let is_followed = switched(client, number).is_none()
                    && client.place != Place::OpaquePort
                    && !is_late(actor, first_head(&story.scripts[client.number]));
                let is_opaque = !is_followed && story.is_draining(actor.ear_at);
                let may_end = is_cut || is_opaque || is_ended(story, client, number);
                let number_of = client.number;
                assert!(
                    actor.ear != Heard::End || may_end,
                    "client {number_of} heard an end within response {number}: {} of {}",
                    shown(rest),
                    shown(response)
                );
                return;
            }
            Some(response) if may_reply => {
                // A response that was cut off is a prefix; nothing may follow it.
                let same = response.iter().zip(rest).take_while(|(a, b)| a == b).count();
                assert!(
                    same < LOCAL_BYTES && is_local_reply(rest),
                    "client {} heard {} in the place of response {number}: {}",
                    client.number,
                    shown(rest),
                    shown(response)
                );
                return;
            }
            None if may_reply && is_local_reply(rest) => {
                was_local = true;
                let is_failure = rest.starts_with(b"HTTP/1.1 503");
                let host = requests(client)[number].host;
                let is_named = client.place == Place::Named;
                let is_served = is_failure && is_named && must_reach(plan, host);
                assert!(!is_served, "client {} heard 503 to {number}", client.number);
                let end = rest.windows(4).position(|four| four == b"\r\n\r\n");
                let Some(end) = end else { return };
                let length = content_length(&rest[..end]);
                rest = rest.get(end + 4 + length..).unwrap_or_default();
            }
            response => panic!(
                "client {} heard {} in the place of response {number}: {}",
                client.number,
                shown(rest),
                response.map_or("none".into(), shown)
            ),
        }
    }
    assert!(rest.is_empty(), "client {} heard {} bytes too many", client.number, rest.len());
}

/// The server of a response that was heard in part has ended before it had said all of it.
fn is_ended(story: &Story, client: &Client, number: usize) -> bool {
    let served = |server: &&WebServer| {
        server.client == Some(client.number) && server.requests.contains(&number)
    };
    let mut of_it = story.http.iter().filter(served);
    of_it.any(|server| server.actor.said < server.actor.says.len())
}

/// Nothing is limited that a connection needs.
fn is_plentiful(plan: &Plan) -> bool {
    let counts = [plan.descriptors as u64, u64::from(plan.ports), u64::from(plan.connections)];
    counts.iter().all(|count| *count >= 1_000) && plan.held_bytes >= 1 << 20
}

/// One of the endpoints of `host` accepts.
fn must_reach(plan: &Plan, host: &str) -> bool {
    let outcomes = [plan.clients[0].server.outcome, plan.second];
    host == "a.example" && is_plentiful(plan) && outcomes.contains(&Outcome::Accepted)
}

/// Why a client may hear nothing of its request `number`, and of all behind it.
fn may_be_unanswered(
    plan: &Plan,
    client: &Client,
    actor: &Actor,
    number: usize,
    story: &Story,
) -> bool {
    let script = &story.scripts[client.number];
    let is_said = |number: usize| actor.said >= script.requests[number].end;
    let is_kept = |request: &Request| {
        let response = &request.response;
        response.cut.is_none() && response.framing != Framing::Close && !response.is_early
    };
    let is_simple = client.place == Place::Named
        && matches!(client.speech, Speech::Http1(_, None))
        && is_plentiful(plan)
        && requests(client).iter().all(is_kept)
        && plan.clients.iter().all(|client| client.server.keeps.is_none());
    let own_end = actor.own_end.map(|(_, how)| how);
    let is_present = matches!(own_end, None | Some(End::Finish)) && actor.gave_up_after.is_none();
    let at = actor.ear_at;
    let moved_at = actor.moved_by(at).min(at);
    // A timeout ends what waits for so long.
    let is_slow = at - moved_at >= HALF_CLOSE_US - 3_000_000 || actor.said_at(1).is_none();
    let has_ended = actor.ear != Heard::More;
    !(is_simple && is_said(number) && is_present && has_ended)
        || is_slow
        || story.is_draining(at)
        || is_late(actor, first_head(script))
}

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

fn without_continue(mut bytes: &[u8]) -> &[u8] {
    while let Some(rest) = bytes.strip_prefix(CONTINUE) {
        bytes = rest;
    }
    bytes
}

/// A local reply differs from a response within its status line.
const LOCAL_BYTES: usize = "HTTP/1.1 200".len();

/// How bytes begin, for a person.
fn shown(bytes: &[u8]) -> String {
    let ascii = bytes.iter().take(60).take_while(|byte| byte.is_ascii());
    format!("{} bytes, {:?}", bytes.len(), ascii.map(|byte| char::from(*byte)).collect::<String>())
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
