//! Streams of HTTP/2.

use std::net::SocketAddr;

use egret::sys::sim::Micros;

use super::{Window, actor_of, is_late, may_go};
use crate::client::{Actor, Heard};
use crate::http2::{Answer, Streams, answers, stream_of};
use crate::plan::{Client, HALF_CLOSE_US, Plan};
use crate::scenario::Story;
use crate::script::pattern;
use crate::server::Reads;

/// A server has heard streams that may go there, each with the bytes of its own client.
pub(super) fn server(plan: &Plan, story: &Story, address: SocketAddr, streams: &Streams) {
    if let Some(broken) = &streams.broken {
        panic!("{address}: {broken}");
    }
    for heard in &streams.heard {
        let Some(index) = heard.index else { continue };
        let client = plan.clients.iter().find(|client| client.number == heard.client);
        let client = client.expect("it has spoken");
        let actor = actor_of(story, client).expect("it has spoken");
        let stream = stream_of(plan, client.number, Some(index));
        let script = &story.scripts[client.number];
        let shown = script.streams[index].end;
        let window = Window::since(actor, shown, Some(heard.at));
        let any_time = Window { from: actor.began_at, until: Micros::MAX };
        let late = is_late(actor, script.streams[0].end);
        let may = may_go(story, client, Some(stream.host), address, window)
            || (late && may_go(story, client, None, address, any_time));
        let number = client.number;
        assert!(may, "{address} heard client {number}'s stream {index} to {}", stream.host);
        let body = pattern(number + index, stream.body.unwrap_or(0));
        assert!(body.starts_with(&heard.body), "{address}: a foreign body in stream {index}");
        assert!(!heard.is_whole || heard.body == body, "{address}: stream {index} is cut");
    }
}

/// What a client has heard from byte `from` on are the answers to its own streams, in whole frames.
pub(super) fn client(
    plan: &Plan,
    client: &Client,
    actor: &Actor,
    from: usize,
    first: u32,
    story: &Story,
) {
    let number = client.number;
    let (answers, goes) = match answers(&actor.heard[from..]) {
        Ok(answers) => answers,
        Err(broken) => panic!("client {number} heard {broken}"),
    };
    let index_of = |id: u32| id.checked_sub(first).map(|behind| behind as usize / 2);
    for (id, answer) in &answers {
        answered(plan, client, index_of(*id), answer);
    }
    let is_draining = story.is_draining(actor.ear_at);
    if actor.ear == Heard::End && goes && client.reader.stops.is_none() && !is_draining {
        are_whole(plan, client, first, &answers, story);
    }
}

fn answered(plan: &Plan, client: &Client, index: Option<usize>, answer: &Answer) {
    let number = client.number;
    match (answer.status.as_deref(), &answer.tag) {
        (Some("200"), Some(tag)) => {
            let known = index.unwrap_or(99);
            assert_eq!(*tag, format!("{number}-{known}"), "client {number} heard another answer");
            let length = stream_of(plan, number, index).response;
            let body = pattern(number + 31 * known, length);
            let body_is_own = body.starts_with(&answer.body);
            assert!(body_is_own, "client {number} heard foreign bytes in {index:?}");
            let is_cut = answer.is_whole && answer.body.len() != length;
            assert!(!is_cut, "client {number} heard a part of {index:?} for the whole");
        }
        (Some("502" | "503"), None) => {}
        other => panic!("client {number} heard {other:?} in {index:?}"),
    }
}

/// Behind a GOAWAY all streams that a server has heard end before the connection does.
fn are_whole(plan: &Plan, client: &Client, first: u32, answers: &[(u32, Answer)], story: &Story) {
    for server in &story.http {
        let Reads::Http2(streams) = &server.reads else { continue };
        let stays = server.actor.own_end.is_none() && matches!(server.actor.ear, Heard::End);
        for heard in streams.heard.iter().filter(|heard| heard.client == client.number) {
            let Some(index) = heard.index else { continue };
            let pause = stream_of(plan, client.number, Some(index)).pause_us;
            let id = first + 2 * u32::try_from(index).unwrap_or(0);
            let is_whole = answers.iter().any(|(other, one)| *other == id && one.is_whole);
            let must = heard.is_whole && stays && 2 * pause < HALF_CLOSE_US;
            assert!(is_whole || !must, "client {}'s stream {index} was cut", client.number);
        }
    }
}
