//! The fuzz targets' corpus, checked with a stable compiler: see `tests/fuzz/README.md`.

use std::path::Path;

#[path = "fuzz/properties.rs"]
mod properties;

/// The most parts of one input that are checked.
const PARTS_MAX: usize = 64;

/// Checks each input of `target`, whole and parts of it that begin it.
fn replay(target: &str, property: fn(&[u8])) {
    replay_parts(target, PARTS_MAX, property);
}

fn replay_parts(target: &str, parts_max: usize, property: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let inputs = std::fs::read_dir(&corpus).expect("the corpus is in the repository");
    let mut replayed = 0;
    for input in inputs {
        let path = input.expect("the corpus can be listed").path();
        let bytes = std::fs::read(&path).expect("an input is a file");
        // The test's output is shown only when the property fails.
        println!("{}", path.display());
        property(&bytes);
        for end in (0..bytes.len()).step_by(bytes.len().div_ceil(parts_max).max(1)) {
            property(&bytes[..end]);
        }
        replayed += 1;
    }
    assert!(replayed >= 10, "{replayed} inputs in {}", corpus.display());
}

#[test]
fn the_corpus_of_first_bytes_holds_no_surprise() {
    replay("client_hello", properties::client_hello);
}

#[test]
fn the_corpus_of_request_heads_holds_no_surprise() {
    replay("request_head", properties::request_head);
}

#[test]
fn the_corpus_of_framing_holds_no_surprise() {
    replay("framing", properties::framing);
}

#[test]
fn the_corpus_of_names_holds_no_surprise() {
    replay("name", properties::name);
}

#[test]
fn the_corpus_of_files_holds_no_surprise() {
    replay("yaml", properties::yaml);
}

#[test]
fn the_corpus_of_http2_holds_no_surprise() {
    replay("http2", properties::http2);
}

#[test]
fn the_corpus_of_the_gate_holds_no_surprise() {
    replay("gate", properties::gate);
    // What its readers are shown; the gate's unit tests cut these at every byte.
    for target in ["client_hello", "request_head", "framing", "http2"] {
        replay_parts(target, 4, properties::gate);
    }
}
