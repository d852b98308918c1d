//! What ends is counted once: whatever it was doing, and whatever it ends by.

use std::collections::HashMap;

use strum::VariantArray;

use super::attempts::Dead;
use super::lab::{End, Lab};
use crate::config::Mode;
use crate::http2::PREFACE;
use crate::metrics::CloseReason;

const HTTP: &[u8] = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n";

/// What a connection is doing when it ends.
#[derive(Debug, Clone, Copy)]
enum Doing {
    /// It has sent nothing, and a name can decide.
    Waiting,
    /// It has sent some of a name.
    Recognised,
    /// Its upstream does not answer.
    Connecting,
    /// It is relayed, and known to be no HTTP.
    Relaying,
    /// It is relayed, and has shown nothing yet.
    Unlabelled,
    /// A scrape has shown it.
    Shown,
    /// It is blocked, and its workload has not closed yet.
    Lingering,
    /// HTTP/1, with a request that is not answered.
    Asking,
    /// HTTP/1 between two requests.
    Answered,
    /// HTTP/2 without a request.
    Greeted,
}

const ALL: [Doing; 10] = [
    Doing::Waiting,
    Doing::Recognised,
    Doing::Connecting,
    Doing::Relaying,
    Doing::Unlabelled,
    Doing::Shown,
    Doing::Lingering,
    Doing::Asking,
    Doing::Answered,
    Doing::Greeted,
];

/// A connection that does this, and a dead address that it may be connecting to.
fn begin(doing: Doing) -> (Lab, End, Option<Dead>) {
    let dead = matches!(doing, Doing::Connecting).then(Dead::new);
    let mut lab = match (doing, &dead) {
        (_, Some(dead)) => Lab::with_endpoints(|_| vec![dead.address()]),
        (Doing::Relaying | Doing::Unlabelled | Doing::Shown, _) => Lab::new(Mode::AllowAny, true),
        _ => Lab::new(Mode::RegistryOnly, false),
    };
    let mut client = lab.connect();
    let (sent, answer): (&[u8], &[u8]) = match doing {
        Doing::Waiting | Doing::Unlabelled => (b"", b""),
        Doing::Recognised => (b"\x16\x03", b""),
        Doing::Connecting => (b"hello", b""),
        Doing::Relaying | Doing::Shown | Doing::Lingering => (b"SSH-2.0-x\r\n", b""),
        Doing::Asking => (HTTP, b""),
        Doing::Answered => (HTTP, b"HTTP/1.1 204 No Content\r\n\r\n"),
        Doing::Greeted => (PREFACE, b""),
    };
    client.send(sent);
    lab.settle();
    if !answer.is_empty() {
        lab.upstreams[0].end.send(answer);
        lab.settle();
    }
    (lab, client, dead)
}

/// A metric's values by labels.
fn lines(scrape: &str, name: &str) -> HashMap<String, u64> {
    let lines = scrape.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('{'));
    let parts = lines.map(|line| line.rsplit_once(' ').unwrap());
    parts.map(|(labels, value)| (labels.to_owned(), value.parse().unwrap())).collect()
}

#[test]
fn whatever_is_counted_as_closed_was_counted_as_opened_with_the_same_labels() {
    for doing in ALL {
        for &reason in CloseReason::VARIANTS {
            let (mut lab, client, _dead) = begin(doing);
            if let Doing::Shown = doing {
                let open: u64 =
                    lines(&lab.scrape(), "istio_tcp_connections_opened_total").values().sum();
                assert_eq!(open, 1);
            }
            lab.end(reason);
            lab.close(client);
            let scrape = lab.scrape();
            let of = |name: &str| lines(&scrape, name);
            let opened = of("istio_tcp_connections_opened_total");
            let closed = of("istio_tcp_connections_closed_total");
            assert_eq!(opened, closed, "{doing:?} {reason:?}");
            let requests = of("istio_requests_total");
            let sum = |lines: &HashMap<String, u64>| lines.values().sum::<u64>();
            match doing {
                Doing::Asking | Doing::Answered => {
                    assert_eq!((sum(&closed), sum(&requests)), (0, 1), "{doing:?} {reason:?}");
                }
                _ => assert_eq!((sum(&closed), sum(&requests)), (1, 0), "{doing:?} {reason:?}"),
            }
            let received = sum(&of("istio_tcp_received_bytes_total"));
            let passed = match doing {
                Doing::Relaying | Doing::Shown => 11,
                _ => 0,
            };
            assert_eq!(received, passed, "{doing:?} {reason:?}");
            let flags = match doing {
                Doing::Shown => "-",
                Doing::Lingering => "UH",
                _ => reason.response_flags().label(),
            };
            let flags = format!("response_flags=\"{flags}\"");
            let ended = closed.iter().find(|(_, count)| **count == 1);
            assert!(ended.is_none_or(|(labels, _)| labels.contains(&flags)), "{doing:?} {ended:?}");
        }
    }
}
