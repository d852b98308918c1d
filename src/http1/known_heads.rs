//! Heads that were read before, so that they need not be read again.
//!
//! Clients repeat themselves, and so do servers: most heads on a kept connection, and many from one
//! connection to the next, are byte for byte what came before. What a head means depends on its
//! bytes alone (a response's: on them and on what was asked), and where it ends on nothing behind
//! them. So bytes that begin with all of a head that was accepted begin with that head, and mean
//! the same. What could not be read is never kept; what there is against a head is kept with it.
//!
//! One for each worker: it is as large whatever the number of connections, and a new connection
//! finds what others have asked.

use std::rc::Rc;

use super::request_head::RequestHead;
use super::response_head::ResponseHead;
use super::response_stream::ExpectedResponse;

/// Heads have one of so many places, of two each: a few dozen hosts and their responses.
const PLACES: usize = 32;

/// Longer heads are not kept: most have something in them that never comes again.
const KEPT_BYTES_MAX: usize = 1024;

/// What decides about the place: a request's line and most of its Host.
const PLACED_BYTES: usize = 64;

/// The heads that one worker has read last.
#[derive(Debug, Default)]
pub struct KnownHeads {
    pub(super) requests: Heads<Rc<RequestHead>>,
    /// With what was asked.
    pub(super) responses: Heads<(ExpectedResponse, ResponseHead)>,
}

/// Heads of one kind, with what they were read as.
#[derive(Debug)]
pub(super) struct Heads<T> {
    /// In each place the newer head first.
    places: Box<[[Option<Known<T>>; 2]]>,
}

#[derive(Debug)]
struct Known<T> {
    head: Vec<u8>,
    read: T,
}

/// Where the head is kept that some bytes begin with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place(usize);

impl<T> Default for Heads<T> {
    fn default() -> Self {
        Self { places: (0..PLACES).map(|_| [None, None]).collect() }
    }
}

impl<T> Heads<T> {
    /// What the head was read as that `bytes` begin with, of those that `fit`.
    pub(super) fn find(&self, place: Place, bytes: &[u8], fits: impl Fn(&T) -> bool) -> Option<&T> {
        let same = |known: &&Known<T>| bytes.starts_with(&known.head) && fits(&known.read);
        self.places[place.0].iter().flatten().find(same).map(|known| &known.read)
    }

    /// Keeps `head`, which is all of one that was accepted.
    pub(super) fn keep(&mut self, place: Place, head: &[u8], read: T) {
        if head.len() > KEPT_BYTES_MAX {
            return;
        }
        let [newer, older] = &mut self.places[place.0];
        std::mem::swap(newer, older);
        match newer {
            Some(known) => {
                known.head.clear();
                known.head.extend_from_slice(head);
                known.read = read;
            }
            None => *newer = Some(Known { head: head.into(), read }),
        }
    }
}

impl Place {
    /// By how `bytes` begin, and how many came: mostly the whole message, so that responses which
    /// begin alike have different places.
    pub(super) fn of(bytes: &[u8]) -> Self {
        // Odd, with bits everywhere (the golden ratio's). Heads that collide are read,
        // as they would be anyway. foldhash takes 25 instructions more per head.
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let begin = &bytes[..bytes.len().min(PLACED_BYTES)];
        let words = begin.chunks_exact(8).filter_map(|word| word.first_chunk());
        let mixed = words.fold(bytes.len() as u64, |hash, word| {
            (hash.rotate_left(5) ^ u64::from_le_bytes(*word)).wrapping_mul(STEP)
        });
        #[expect(clippy::cast_possible_truncation, reason = "it is below PLACES")]
        Self((mixed >> (u64::BITS - PLACES.ilog2())) as usize)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{RequestStep, RequestStream, ResponseStep, ResponseStream};
    use super::*;
    use crate::judge::Rules;

    const REQUESTS: [&str; 6] = [
        "GET /v1/orders HTTP/1.1\r\nHost: api.example.com\r\nAccept: */*\r\n\r\n",
        "GET /v1/orders HTTP/1.1\r\nHost: web.example.com\r\nAccept: */*\r\n\r\n",
        "\r\nPOST /a HTTP/1.1\r\nHost: a:80\r\nContent-Length: 3\r\n\r\n",
        "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n",
    ];

    const ANSWERS: [&str; 6] = [
        "HTTP/1.1 200 OK\r\nServer: nginx\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 200 OK\nServer: nginx\nContent-Length: 3\n\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.0 404 Not Found\r\n\r\n",
    ];

    /// Changes to a text: the byte at a place becomes another one, is left out or comes twice.
    type Change = (prop::sample::Index, prop::sample::Index, u8);

    fn changed(text: &str, changes: &[Change]) -> Vec<u8> {
        let mut bytes = text.as_bytes().to_vec();
        for (at, from, how) in changes {
            let (at, from) = (at.index(bytes.len()), from.index(bytes.len()));
            match how % 4 {
                0 => bytes[at] = bytes[from],
                1 => bytes[at] ^= 1 << (how >> 5),
                2 if bytes.len() > 1 => drop(bytes.remove(at)),
                _ => bytes.insert(at, bytes[from]),
            }
        }
        bytes
    }

    fn texts(count: usize) -> impl Strategy<Value = Vec<(usize, Vec<Change>, Vec<u8>)>> {
        let change = (any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>());
        // Most come again as they are.
        let changes = prop_oneof![
            2 => Just(Vec::new()),
            1 => prop::collection::vec(change, 1..4),
        ];
        let behind = prop::collection::vec(any::<u8>(), 0..4);
        prop::collection::vec((0..count, changes, behind), 1..40)
    }

    #[test]
    fn a_head_that_comes_again_is_known_and_is_the_same_value() {
        let mut known = KnownHeads::default();
        let mut read = |request: &str| match RequestStream::new(None)
            .next_known(request.as_bytes(), &mut known)
        {
            RequestStep::Head(head) => head,
            other => panic!("{other:?}"),
        };
        let first = REQUESTS.map(&mut read);
        let again = REQUESTS.map(&mut read);
        for (first, again) in first.iter().zip(&again) {
            assert!(Rc::ptr_eq(first, again), "{first:?}");
        }
        // Of all that have come since, two in a place are left.
        for number in 0..1_000 {
            read(&format!("GET /{number} HTTP/1.1\r\nHost: a\r\n\r\n"));
        }
        assert_eq!(first, REQUESTS.map(&mut read));
    }

    proptest! {
        #[test]
        fn what_is_known_is_what_would_be_read(
            texts in texts(REQUESTS.len()),
            is_judged: bool,
        ) {
            let rules = is_judged.then(Rules::default);
            let mut known = KnownHeads::default();
            for (text, changes, behind) in texts {
                let mut bytes = changed(REQUESTS[text], &changes);
                bytes.extend_from_slice(&behind);
                let (mut one, mut other) = (RequestStream::new(rules), RequestStream::new(rules));
                for _ in 0..3 {
                    let step = one.next(&bytes);
                    prop_assert_eq!(&other.next_known(&bytes, &mut known), &step);
                    let RequestStep::Head(head) = step else { break };
                    prop_assert_eq!(one.request_bytes(), other.request_bytes());
                    bytes.drain(..head.head_len);
                }
                prop_assert_eq!(format!("{one:?}"), format!("{other:?}"));
            }
        }

        #[test]
        fn answers_that_are_known_are_what_would_be_read(
            texts in texts(ANSWERS.len()),
            asked in prop::collection::vec((any::<bool>(), any::<bool>()), 40),
        ) {
            let mut known = KnownHeads::default();
            for ((text, changes, behind), (is_head, wants_upgrade)) in texts.into_iter().zip(asked)
            {
                let mut bytes = changed(ANSWERS[text], &changes);
                bytes.extend_from_slice(&behind);
                let (mut one, mut other) = <(ResponseStream, ResponseStream)>::default();
                for stream in [&mut one, &mut other] {
                    stream.asked(ExpectedResponse { is_head, wants_upgrade }, ());
                    stream.asked(ExpectedResponse { is_head: false, wants_upgrade: false }, ());
                }
                for _ in 0..3 {
                    let step = one.next(&bytes);
                    prop_assert_eq!(&other.next_known(&bytes, &mut known), &step);
                    let ResponseStep::Head(head) = step else { break };
                    prop_assert_eq!(one.response_bytes(), other.response_bytes());
                    bytes.drain(..head.head_len);
                }
                prop_assert_eq!(format!("{one:?}"), format!("{other:?}"));
            }
        }
    }
}
