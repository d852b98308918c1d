//! Connections that the address has decided: recognition looks at the first bytes as they pass, so
//! that they are accounted by name, and holds nothing up.
//!
//! Their labels are settled when the name is known, when it is clear that there is none (a server
//! that speaks first, opaque bytes), or at the latest after `names.deadline`.

use crate::access_log::Protocol;
use crate::http2::{FrameStep, PREFACE, RequestFrames};
use crate::metrics::Recognised;
use crate::registry::snapshot::{Claim, Decision, NameSource, Standing};
use crate::relay::Side;
use crate::sniff::{ClientHello, Name, OpaqueReason, Sniff, Sniffer};
use crate::sys::ring::{Ring, Sockets};
use crate::worker::connection::{Account, Connection, Guide};
use crate::worker::direction::Held;
use crate::worker::http1::{Http1, Mode};
use crate::worker::route::{Asker, Route};
use crate::worker::token::Key;
use crate::worker::{HeldSnapshot, Worker};

/// The most that is kept of what has passed, to find the first request of HTTP/2 in it.
const SEEN_BYTES_MAX: usize = 64 * 1024;

/// A connection whose first bytes are looked at.
#[derive(Debug)]
pub(super) struct Watch {
    /// What decided, and what the labels come from.
    snapshot: HeldSnapshot,
    /// Once a first piece has not been enough.
    begun: Option<Box<Begun>>,
}

#[derive(Debug, Default)]
struct Begun {
    sniffer: Sniffer,
    /// What has passed.
    seen: Vec<u8>,
    /// HTTP/2, whose first request has not come.
    frames: Option<RequestFrames>,
}

/// What has come of looking.
enum Seen {
    Nothing,
    Tls(ClientHello),
    /// With what has passed and what will; `None`: nothing has passed before.
    Http1(Option<Vec<u8>>),
    /// The first request of HTTP/2, with its authority.
    Http2(Option<Name>),
    Opaque(OpaqueReason),
}

impl Watch {
    pub(super) fn new(snapshot: HeldSnapshot) -> Self {
        Self { snapshot, begun: None }
    }
}

impl<R: Ring, S: Sockets> Worker<R, S> {
    /// Looks at the bytes that have come from `side` and will pass.
    pub(super) fn look_at(&mut self, key: Key, side: Side) {
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        if side == Side::Upstream {
            if connection.directions[Side::Downstream as usize].bytes == 0 {
                self.settle_nameless(key, Recognised::ServerFirst);
            }
            return;
        }
        match self.look(key) {
            Seen::Nothing => {}
            Seen::Tls(hello) => {
                self.metrics.counters.recognised(Recognised::Tls).add(1);
                let name = self.name_of(&hello);
                self.settle_watched(key, name.as_ref(), NameSource::Sni, Protocol::Tls);
            }
            Seen::Http2(name) => {
                self.metrics.counters.recognised(Recognised::Http2).add(1);
                self.settle_watched(key, name.as_ref(), NameSource::Host, Protocol::Http2);
            }
            Seen::Opaque(reason) => self.settle_nameless(key, reason.into()),
            Seen::Http1(seen) => {
                self.metrics.counters.recognised(Recognised::Http1).add(1);
                self.observe_from_now(key, seen);
            }
        }
    }

    fn look(&mut self, key: Key) -> Seen {
        let Some(connection) = self.connections.get_mut(key.slot) else { return Seen::Nothing };
        let Connection { guide: Guide::Watch(watch), directions, .. } = connection else {
            return Seen::Nothing;
        };
        let Held::Buffer(buffer) = &directions[Side::Downstream as usize].held else {
            return Seen::Nothing;
        };
        let bytes = self.ring.bytes(buffer);
        let Some(begun) = &mut watch.begun else {
            let mut begun = Begun::default();
            let seen = begun.look(bytes);
            if let Seen::Nothing = seen {
                watch.begun = Some(Box::new(begun));
            }
            return seen;
        };
        begun.look(bytes)
    }

    /// The labels of a watched connection are known: nobody looks at it any more.
    pub(super) fn settle_watched(
        &mut self,
        key: Key,
        name: Option<&Name>,
        by: NameSource,
        spoken: Protocol,
    ) {
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        let Guide::Watch(watch) = std::mem::take(&mut connection.guide) else { return };
        let verdict = watch.snapshot.lookup(connection.original_destination);
        let decision = Decision { verdict, standing: Standing::NotNeeded };
        let claim = name.map(|name| Claim { name, by });
        self.settle(key, &watch.snapshot, decision, claim, spoken);
    }

    /// `names.deadline` has passed, or the connection ends, before its name was known.
    pub(super) fn settle_nameless(&mut self, key: Key, why: Recognised) {
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        if let Guide::Watch(_) = connection.guide {
            self.metrics.counters.recognised(why).add(1);
            self.settle_watched(key, None, NameSource::Host, Protocol::Tcp);
        }
    }

    /// It is HTTP/1, from `seen` on, which ends with the bytes that are about to pass; `None`:
    /// these are all.
    fn observe_from_now(&mut self, key: Key, seen: Option<Vec<u8>>) {
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        let Guide::Watch(watch) = std::mem::take(&mut connection.guide) else { return };
        let (snapshot, destination) = (&watch.snapshot, connection.original_destination);
        let asker = Asker {
            generation: snapshot.generation,
            mode: Mode::Observed,
            source: connection.source.ip(),
            destination,
        };
        let decide = || Route::of(snapshot, asker, snapshot.lookup(destination));
        let mut http = Box::new(Http1::new(Mode::Observed, Vec::new()));
        http.route = Some(self.routes.find(asker, None, decide));
        connection.guide = Guide::Http1(http);
        connection.account = Account::Requests;
        match seen {
            Some(seen) => self.observe_requests_in(key, &seen),
            None => self.observe_requests(key),
        }
    }
}

impl Begun {
    fn look(&mut self, bytes: &[u8]) -> Seen {
        if self.frames.is_some() {
            self.seen.extend_from_slice(bytes);
            return self.find_stream();
        }
        let sniff = self.sniffer.feed(bytes).clone();
        if sniff == Sniff::Http1 && self.seen.is_empty() {
            return Seen::Http1(None);
        }
        if matches!(sniff, Sniff::NeedMore | Sniff::Http1 | Sniff::Http2Preface) {
            // Whoever goes on reads from the first byte.
            self.seen.extend_from_slice(bytes);
        }
        match sniff {
            Sniff::NeedMore => Seen::Nothing,
            Sniff::Tls(hello) => Seen::Tls(hello),
            Sniff::Http1 => Seen::Http1(Some(std::mem::take(&mut self.seen))),
            Sniff::Http2Preface => {
                self.frames = Some(RequestFrames::default());
                self.seen.drain(..PREFACE.len());
                self.find_stream()
            }
            Sniff::Opaque(reason) => Seen::Opaque(reason),
        }
    }

    /// The first request of HTTP/2 names the connection.
    fn find_stream(&mut self) -> Seen {
        let Some(frames) = &mut self.frames else { return Seen::Nothing };
        let name = loop {
            match frames.next(&self.seen) {
                FrameStep::NeedMore if self.seen.len() > SEEN_BYTES_MAX => break None,
                FrameStep::NeedMore => return Seen::Nothing,
                FrameStep::Pass { bytes } | FrameStep::SettingsAck { bytes } => {
                    self.seen.drain(..bytes);
                }
                FrameStep::Request { authority, .. } => break authority.name,
                FrameStep::Refused(_) => break None,
            }
        };
        Seen::Http2(name)
    }
}
