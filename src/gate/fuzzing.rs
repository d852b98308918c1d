//! What holds of a gate for any bytes: the property of the fuzz target `gate`, which the unit tests
//! check with every cut of the corpus. It panics where something does not hold.

use std::rc::Rc;

use super::HeldSnapshot;
use super::testing::world::{WORLDS, World, snapshot};
use super::testing::{Moves, Reach, Seen, Show};
use crate::http2::PREFACE;
use crate::relay::Side;

/// Between what the client sends and what the server does.
pub const SEPARATOR: &[u8] = b"\n--8<--\n";

/// Longer inputs are not cut into single bytes.
const SLOW_MAX: usize = 4 * 1024;

/// Any bytes of a client, and behind [`SEPARATOR`] of a server, as they are and behind the preface
/// of HTTP/2, under every policy:
/// - no cut of the client's bytes changes what comes of them;
/// - what passes is what was sent, in its order;
/// - nothing passes to an upstream connection that does not exist.
pub fn any_bytes(bytes: &[u8]) {
    let at = bytes.windows(SEPARATOR.len()).position(|window| window == SEPARATOR);
    let (client, server) = match at {
        Some(at) => (&bytes[..at], &bytes[at + SEPARATOR.len()..]),
        None => (bytes, &[][..]),
    };
    for client in [client.to_vec(), [&PREFACE[..], client].concat()] {
        for (world, snapshot) in worlds() {
            let whole = outcome(&snapshot, &[&client], server, Moves::Copied);
            // One that the input chooses, too.
            let chosen = 2 + client.iter().fold(0, |sum, byte| sum ^ usize::from(*byte));
            let finest = if client.len() > SLOW_MAX { 97 } else { 1 };
            for size in [finest, chosen] {
                for moves in [Moves::Copied, Moves::Spliced] {
                    let pieces: Vec<&[u8]> = client.chunks(size).collect();
                    let seen = outcome(&snapshot, &pieces, server, moves);
                    assert_eq!(seen, whole, "in pieces of {size}, {moves:?}, in {world:?}");
                }
            }
            reaches_nobody(world, &snapshot, &client);
        }
    }
}

/// One snapshot of each world, made once.
pub(super) fn worlds() -> [(World, HeldSnapshot); 4] {
    thread_local! {
        static SNAPSHOTS: [(World, HeldSnapshot); 4] = WORLDS.map(|world| (world, snapshot(world)));
    }
    SNAPSHOTS.with(|held| held.each_ref().map(|(world, held)| (*world, Rc::clone(held))))
}

/// What comes of a connection on which the client sends these pieces, and the server this: before
/// any end, and when both have ended.
pub(super) fn outcome(
    snapshot: &HeldSnapshot,
    pieces: &[&[u8]],
    server: &[u8],
    moves: Moves,
) -> [Seen; 2] {
    [false, true].map(|ends| {
        let mut show = Show::new(snapshot);
        show.moves = moves;
        for piece in pieces {
            show.send(Side::Downstream, piece);
        }
        show.send(Side::Upstream, server);
        if ends {
            show.wait_out();
            show.finish(Side::Downstream);
            show.finish(Side::Upstream);
        }
        let mut seen = show.close();
        let passed = seen.upstreams.iter().flat_map(|(_, bytes)| without(bytes, &seen.instead));
        let passed: Vec<u8> = passed.collect();
        assert!(is_part(&passed, pieces.concat()), "something passes that was not sent");
        assert!(is_part(&seen.relayed, server.to_vec()), "something is answered by nobody");
        // How much comes behind the end of a connection is chance.
        seen.dropped.clear();
        seen
    })
}

/// Whether these bytes are among those of `all`, in their order.
fn is_part<'a>(bytes: impl IntoIterator<Item = &'a u8>, all: Vec<u8>) -> bool {
    let mut all = all.into_iter();
    bytes.into_iter().all(|byte| all.any(|other| other == *byte))
}

/// What `passed` would be without the bytes of Egret's own.
fn without(passed: &[u8], own: &[Vec<u8>]) -> Vec<u8> {
    let mut passed = passed.to_vec();
    for frame in own {
        let at = passed.windows(frame.len()).position(|window| window == frame);
        passed.drain(at.map_or(0..0, |at| at..at + frame.len()));
    }
    passed
}

/// Where no upstream connection can be made, nothing passes.
fn reaches_nobody(world: World, snapshot: &HeldSnapshot, client: &[u8]) {
    let World::Gated(_) = world else { return };
    let mut show = Show::new(snapshot);
    show.reach = Reach::Down;
    show.send(Side::Downstream, client);
    show.finish(Side::Downstream);
    let seen = show.close();
    assert!(seen.upstreams.is_empty(), "an upstream connection that could not be made");
    assert!(seen.end.is_some(), "nothing is left to wait for");
}
