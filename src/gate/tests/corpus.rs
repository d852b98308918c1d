//! Every input of the corpus, cut at every byte: the outcome is that of the whole input.

use std::path::Path;

use crate::gate::fuzzing::{outcome, worlds};
use crate::gate::testing::{Moves, Show};
use crate::http2::PREFACE;
use crate::relay::Side;

/// A longer input is cut in fewer places.
const LONG: usize = 2 * 1024;
const CUTS_OF_LONG: usize = 50;

/// The places where `bytes` are cut.
fn cuts(bytes: &[u8]) -> impl Iterator<Item = usize> {
    let step = if bytes.len() > LONG { bytes.len() / CUTS_OF_LONG } else { 1 };
    (1..bytes.len()).step_by(step)
}

/// The sizes of the pieces of `bytes`.
fn sizes(bytes: &[u8]) -> &'static [usize] {
    if bytes.len() > LONG { &[97] } else { &[1, 3, 100] }
}

fn cuts_do_not_matter(name: &str, bytes: &[u8]) {
    for (world, snapshot) in worlds() {
        let whole = outcome(&snapshot, &[bytes], &[], Moves::Copied);
        for cut in cuts(bytes) {
            let (one, two) = bytes.split_at(cut);
            let seen = outcome(&snapshot, &[one, two], &[], Moves::Copied);
            assert_eq!(seen, whole, "{name} cut at {cut} in {world:?}");
        }
        for &size in sizes(bytes) {
            let pieces: Vec<&[u8]> = bytes.chunks(size).collect();
            for moves in [Moves::Copied, Moves::Spliced] {
                let seen = outcome(&snapshot, &pieces, &[], moves);
                assert_eq!(seen, whole, "{name} in pieces of {size}, {moves:?}, in {world:?}");
            }
        }
    }
}

fn inputs(directory: &str) -> Vec<(String, Vec<u8>)> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(directory);
    let read = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        (name, std::fs::read(&path).unwrap())
    };
    let inputs: Vec<_> = std::fs::read_dir(corpus).unwrap().map(read).collect();
    assert!(inputs.len() >= 10, "{} inputs in {directory}", inputs.len());
    inputs
}

#[test]
fn first_bytes_of_the_corpus_have_one_outcome_however_they_are_cut() {
    for (name, bytes) in inputs("client_hello") {
        // With what follows a ClientHello at once.
        cuts_do_not_matter(&name, &[&bytes[..], b"\x14\x03\x03\x00\x01\x01"].concat());
    }
}

#[test]
fn request_heads_of_the_corpus_have_one_outcome_however_they_are_cut() {
    for (name, bytes) in inputs("request_head") {
        cuts_do_not_matter(&name, &bytes);
        let behind = b"GET /1 HTTP/1.1\r\nHost: b.example\r\n\r\n";
        cuts_do_not_matter(&name, &[&bytes[..], behind].concat());
    }
}

#[test]
fn framing_of_the_corpus_has_one_outcome_however_it_is_cut() {
    for (name, bytes) in inputs("framing") {
        cuts_do_not_matter(&name, &bytes);
        let head = b"POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n";
        cuts_do_not_matter(&name, &[&head[..], &bytes].concat());
    }
}

#[test]
fn frames_of_the_corpus_have_one_outcome_however_they_are_cut() {
    for (name, bytes) in inputs("http2") {
        cuts_do_not_matter(&name, &[&PREFACE[..], &bytes].concat());
    }
}

/// A response to one request, of which nothing may depend on how it is cut.
fn responses_cut_do_not_matter(name: &str, method: &str, bytes: &[u8]) {
    let request = format!("{method} / HTTP/1.1\r\nHost: a.example\r\n\r\n");
    for (world, snapshot) in worlds() {
        let run = |pieces: &mut dyn Iterator<Item = &[u8]>, moves| {
            let mut show = Show::new(&snapshot);
            show.moves = moves;
            show.send(Side::Downstream, request.as_bytes());
            pieces.for_each(|piece| show.send(Side::Upstream, piece));
            show.finish(Side::Upstream);
            show.close()
        };
        let whole = run(&mut std::iter::once(bytes), Moves::Copied);
        for cut in cuts(bytes) {
            let (one, two) = bytes.split_at(cut);
            let seen = run(&mut [one, two].into_iter(), Moves::Copied);
            assert_eq!(seen, whole, "{name} cut at {cut} in {world:?}");
        }
        for (size, moves) in [(1, Moves::Copied), (1, Moves::Spliced), (5, Moves::Spliced)] {
            let seen = run(&mut bytes.chunks(size), moves);
            assert_eq!(seen, whole, "{name} in pieces of {size}, {moves:?}, in {world:?}");
        }
    }
}

#[test]
fn responses_of_the_corpus_have_one_outcome_however_they_are_cut() {
    for (name, bytes) in inputs("framing") {
        for method in ["GET", "HEAD"] {
            responses_cut_do_not_matter(&name, method, &bytes);
            let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
            responses_cut_do_not_matter(&name, method, &[&chunked[..], &bytes].concat());
        }
    }
}
