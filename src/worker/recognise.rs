//! Connections that a name can decide: their first bytes are held until the name is known, it is
//! clear that there is none, or the deadline has passed.

use crate::access_log::Protocol;
use crate::metrics::Recognised;
use crate::registry::Snapshot;
use crate::registry::snapshot::{Claim, Decision, NameSource, Standing};
use crate::relay::Side;
use crate::sniff::{ClientHello, Name, Sni, Sniff, Sniffer};
use crate::sys::buffers::Buffer;
use crate::sys::ring::{Errno, Ring, Sockets};
use crate::worker::Worker;
use crate::worker::connection::{Account, Guide, Micros, Phase};
use crate::worker::http1::{Http1, Mode};
use crate::worker::http2::Http2;
use crate::worker::token::Key;

/// What recognition knows and holds.
#[derive(Debug, Default)]
pub(super) struct Recognition {
    sniffer: Sniffer,
    /// What has come so far. In memory of its own, because whoever sends a byte per second must not
    /// keep a buffer from others.
    pub(super) held: Vec<u8>,
}

impl<R: Ring, S: Sockets> Worker<R, S> {
    /// Waits for the first bytes of a connection that a name can decide.
    pub(super) fn begin_recognition(&mut self, key: Key, snapshot: &Snapshot) {
        let wait = snapshot.config.names.deadline;
        let wait_us = u64::try_from(wait.as_micros()).unwrap_or(u64::MAX / 2);
        let deadline = self.now_us + wait_us;
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        connection.phase = Phase::Recognising { deadline };
        connection.guide = Guide::Recognition(Box::default());
        self.metrics.counters.recognising.add(1);
        self.advance(key, Side::Downstream);
    }

    /// A receive of the first bytes has completed.
    pub(super) fn on_first_bytes(&mut self, key: Key, result: Result<Option<Buffer>, Errno>) {
        match result {
            Ok(Some(buffer)) => {
                let Some(connection) = self.connections.get_mut(key.slot) else { return };
                let bytes = self.ring.bytes(&buffer);
                let count = u64::from(buffer.length());
                connection.directions[Side::Downstream as usize].bytes += count;
                connection.moved_at = self.now_us;
                self.metrics.counters.bytes_copied.add(count);
                match &mut connection.guide {
                    Guide::Recognition(recognition) => {
                        recognition.held.extend_from_slice(bytes);
                        recognition.sniffer.feed(bytes);
                        self.metrics.counters.recognising_bytes.add(count);
                        self.ring.release(buffer);
                        self.recognise(key);
                    }
                    Guide::Http2(http) => {
                        http.held.extend_from_slice(bytes);
                        self.ring.release(buffer);
                        self.first_stream(key);
                    }
                    _ => self.ring.release(buffer),
                }
            }
            Ok(None) => self.decide_nameless(key, Recognised::Ended),
            Err(error) => self.on_receive_failed(key, Side::Downstream, error),
        }
    }

    /// Goes on as the first bytes say.
    fn recognise(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        let Guide::Recognition(recognition) = &mut connection.guide else { return };
        match recognition.sniffer.answer() {
            Sniff::NeedMore => self.advance(key, Side::Downstream),
            Sniff::Tls(hello) => {
                let hello = hello.clone();
                self.metrics.counters.recognised(Recognised::Tls).add(1);
                self.decide_by_hello(key, &hello);
            }
            Sniff::Http1 => self.begin_http1(key),
            Sniff::Http2Preface => self.begin_http2(key),
            Sniff::Opaque(reason) => {
                let reason = Recognised::from(*reason);
                self.decide_nameless(key, reason);
            }
        }
    }

    fn begin_http1(&mut self, key: Key) {
        self.metrics.counters.recognised(Recognised::Http1).add(1);
        let held = self.take_held(key);
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        connection.guide = Guide::Http1(Box::new(Http1::new(Mode::Gated, held)));
        connection.account = Account::Requests;
        self.resume(key);
    }

    fn begin_http2(&mut self, key: Key) {
        self.metrics.counters.recognised(Recognised::Http2).add(1);
        let held = self.take_held(key);
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        connection.guide = Guide::Http2(Box::new(Http2::new(held)));
        self.first_stream(key);
    }

    /// A ClientHello decides by its name.
    fn decide_by_hello(&mut self, key: Key, hello: &ClientHello) {
        let name = self.name_of(hello);
        let snapshot = self.snapshot();
        let held = self.take_held(key);
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        let claim = name.as_ref().map(|name| Claim { name, by: NameSource::Sni });
        let decision = snapshot.decide(connection.original_destination, claim);
        connection.guide = Guide::Forward(held);
        self.follow(key, &snapshot, decision, claim, Protocol::Tls);
    }

    /// The server's name; what is none is counted.
    pub(super) fn name_of(&mut self, hello: &ClientHello) -> Option<Name> {
        match &hello.sni {
            Sni::Name(name) => Some(name.clone()),
            Sni::Absent | Sni::Address(_) => None,
            Sni::Junk(error) => {
                self.metrics.counters.junk_names(*error).add(1);
                None
            }
        }
    }

    /// There is no name, and there will be none: the address decides.
    pub(super) fn decide_nameless(&mut self, key: Key, why: Recognised) {
        let snapshot = self.snapshot();
        if let Some(Guide::Recognition(_)) = self.connections.get(key.slot).map(|c| &c.guide) {
            // Others were recognised before, and did not come to a name.
            self.metrics.counters.recognised(why).add(1);
        }
        let held = self.take_held(key);
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        let token = super::token::Target::Connection(key, Side::Downstream).encode();
        if let Some(operation) = connection.direction(Side::Downstream).operation {
            // What a receive may still bring is relayed when it has completed.
            self.ring.cancel(operation, token);
        }
        connection.guide = Guide::Forward(held);
        connection.account = Account::Unsettled;
        let decision = snapshot.decide(connection.original_destination, None);
        self.follow(key, &snapshot, decision, None, Protocol::Tcp);
    }

    /// Recognition is over: the connection goes where `decision` says.
    pub(super) fn follow(
        &mut self,
        key: Key,
        snapshot: &Snapshot,
        decision: Decision<'_>,
        claim: Option<Claim<'_>>,
        spoken: Protocol,
    ) {
        self.recognition_over(key);
        if decision.standing == Standing::Unverified {
            self.metrics.counters.unverified_names.add(1);
        }
        self.settle(key, snapshot, decision, claim, spoken);
        self.take_way(key, snapshot, decision.verdict, spoken);
    }

    /// It waits no more for its first bytes. To be called before its phase changes.
    pub(super) fn recognition_over(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        if let Phase::Recognising { .. } = connection.phase {
            self.metrics.counters.recognising.sub(1);
            // Decided; whoever goes on sets the phase that follows.
            connection.phase = Phase::Connecting { deadline: Micros::MAX, attempts: None };
        }
        if let Guide::Recognition(_) = connection.guide {
            self.take_held(key);
        }
    }

    /// The bytes of the downstream that are held.
    fn take_held(&mut self, key: Key) -> Vec<u8> {
        let Some(connection) = self.connections.get_mut(key.slot) else { return Vec::new() };
        match &mut connection.guide {
            Guide::Recognition(recognition) => {
                let held = std::mem::take(&mut recognition.held);
                self.metrics.counters.recognising_bytes.sub(held.len() as u64);
                held
            }
            Guide::Http1(http) => http.take_carried(Side::Downstream),
            Guide::Http2(http) => std::mem::take(&mut http.held),
            Guide::Nobody | Guide::Watch(_) | Guide::Forward(_) => Vec::new(),
        }
    }
}
