//! Protocol detection: what the first bytes of a connection are, and the name that they show.
//!
//! One reader in two modes. *Held*: a name can decide, so the bytes wait until the name is known,
//! or it is clear that there is none. *Observed*: the address has decided, so they pass, and the
//! name only labels what is counted.

use std::rc::Rc;

use super::{
    Action, Asker, Attribution, DecidedBy, HeldSnapshot, Http1, Http2, Leg, Mode, Outcome, Policy,
    Route, Tables, Tls,
};
use crate::access_log::Protocol;
use crate::http2::{FrameStep, PREFACE, RequestFrames};
use crate::metrics::Detected;
use crate::probe::planted;
use crate::relay::Side;
use crate::sniff::{ClientHello, Host, NameError, OpaqueReason, Sni, Sniff, Sniffer};

/// The most that is kept of what has passed, to find the first request of HTTP/2 in it.
const PASSED_BYTES_MAX: usize = 64 * 1024;

/// A connection whose protocol is not known yet.
#[derive(Debug)]
pub(crate) struct Detect {
    /// Observed: what has decided, and what the labels come from. `None`: the bytes are held.
    decided: Option<HeldSnapshot>,
    /// Once a first piece has not been enough.
    begun: Option<Box<Begun>>,
    first: FirstSpeaker,
}

/// Who has sent the first bytes that were seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FirstSpeaker {
    Workload,
    /// Servers of HTTP/2 do that, too: what the workload replies tells the protocol.
    Server,
}

#[derive(Debug, Default)]
struct Begun {
    sniffer: Sniffer,
    /// Held: bytes that the sniffer has been fed; they are shown again.
    fed: usize,
    /// Observed: what has passed, as far as another reader may need it.
    passed: Vec<u8>,
    /// Observed: HTTP/2, whose first request has not come.
    frames: Option<RequestFrames>,
}

/// What has come of looking.
pub(super) enum Found {
    /// It is not known yet.
    Nothing(Outcome),
    /// All that will ever be known.
    Labels(Action),
    Http1(Box<Http1>),
    Http2(Box<Http2>),
    /// TLS with a name, which decides.
    Tls(Box<Tls>, Action),
}

/// What the bytes of an observed connection are.
enum Seen {
    Nothing,
    Tls(ClientHello),
    /// HTTP/1, and what has passed of it.
    Http1(Vec<u8>),
    /// The first request of HTTP/2, with its authority.
    Http2(Option<Host>),
    Opaque(OpaqueReason),
}

impl Detect {
    /// The bytes are held: a name can decide.
    pub(crate) fn held() -> Self {
        Self { decided: None, begun: None, first: FirstSpeaker::Workload }
    }

    /// The bytes pass: the address has decided, by this snapshot.
    pub(crate) fn observed(snapshot: HeldSnapshot) -> Self {
        Self { decided: Some(snapshot), begun: None, first: FirstSpeaker::Workload }
    }

    pub(super) fn is_observing(&self) -> bool {
        self.decided.is_some()
    }

    /// See [`super::Gate::unseen`]: what a server says that has spoken first tells nothing.
    pub(super) fn unseen(&self, side: Side) -> u64 {
        match (side, self.first, &self.decided) {
            (Side::Upstream, FirstSpeaker::Server, Some(_)) => u64::MAX,
            (Side::Upstream | Side::Downstream, _, _) => 0,
        }
    }

    pub(super) fn inspect(
        &mut self,
        side: Side,
        bytes: &[u8],
        policy: &Policy<'_>,
        tables: &mut Tables,
    ) -> Found {
        match (&self.decided, side) {
            // The workload has been silent for so long that it was connected to where it meant to
            // go. What it says is judged as ever.
            (None, Side::Downstream) if policy.leg != Leg::None && !planted!(LateNameIgnored) => {
                Found::Nothing(Outcome::Act(Action::Disconnect))
            }
            (None, Side::Downstream) => self.hold(bytes, policy),
            // The server has spoken instead: there is no name to wait for.
            (None, Side::Upstream) => {
                self.decided = Some(Rc::clone(policy.snapshot));
                self.first = FirstSpeaker::Server;
                Found::Nothing(Outcome::Pass(bytes.len()))
            }
            (Some(_), Side::Downstream) => self.observe(bytes, policy, tables),
            (Some(_), Side::Upstream) => {
                if self.begun.is_none() {
                    self.first = FirstSpeaker::Server;
                }
                Found::Nothing(Outcome::Pass(bytes.len()))
            }
        }
    }

    fn hold(&mut self, bytes: &[u8], policy: &Policy<'_>) -> Found {
        let begun = self.begun.get_or_insert_default();
        let sniff = begun.sniffer.feed(&bytes[begun.fed..]);
        let (name, protocol, found) = match sniff {
            Sniff::NeedMore => {
                begun.fed = bytes.len();
                return Found::Nothing(Outcome::Hold);
            }
            Sniff::Http1 => return Found::Http1(Box::new(Http1::gated(policy.rules()))),
            Sniff::Http2Preface => return Found::Http2(Box::new(Http2::gated(policy.rules()))),
            Sniff::Tls(hello) => (name_of(hello), Protocol::Tls, Detected::Tls),
            Sniff::Opaque(reason) => (Ok(None), Protocol::Tcp, Detected::from(*reason)),
        };
        let watch = match (&name, sniff) {
            (Ok(Some(Host::Name(name))), Sniff::Tls(hello)) => Some(Tls::new(name.clone(), hello)),
            _ => None,
        };
        let decide = Action::Decide(attribution(
            Rc::clone(policy.snapshot),
            DecidedBy::Name,
            name,
            protocol,
            found,
        ));
        match watch {
            Some(watch) => Found::Tls(Box::new(watch), decide),
            None => Found::Labels(decide),
        }
    }

    fn observe(&mut self, bytes: &[u8], policy: &Policy<'_>, tables: &mut Tables) -> Found {
        let seen = match &mut self.begun {
            Some(begun) => begun.observe(bytes),
            None => {
                let mut begun = Begun::default();
                let seen = begun.observe(bytes);
                if let Seen::Nothing = seen {
                    self.begun = Some(Box::new(begun));
                }
                seen
            }
        };
        let Some(snapshot) = &self.decided else { return Found::Nothing(Outcome::Hold) };
        let labels = |host, protocol, found| {
            let attribution =
                attribution(Rc::clone(snapshot), DecidedBy::Address, host, protocol, found);
            Found::Labels(Action::Attribute(attribution))
        };
        match seen {
            Seen::Nothing => Found::Nothing(Outcome::Pass(bytes.len())),
            Seen::Tls(hello) => labels(name_of(&hello), Protocol::Tls, Detected::Tls),
            Seen::Http2(host) => labels(Ok(host), Protocol::Http2, Detected::Http2),
            // The server spoke the first word of a protocol in which that is its part: FTP, SMTP.
            Seen::Opaque(_) | Seen::Http1(_) if self.first == FirstSpeaker::Server => {
                Found::Labels(Action::AttributeNameless(Rc::clone(snapshot), Detected::ServerFirst))
            }
            Seen::Opaque(reason) => Found::Labels(Action::AttributeNameless(
                Rc::clone(snapshot),
                Detected::from(reason),
            )),
            Seen::Http1(passed) => {
                let asker = Asker {
                    generation: snapshot.generation,
                    mode: Mode::Observed,
                    source: policy.source,
                    destination: policy.destination,
                };
                let verdict = snapshot.lookup(policy.destination);
                let decide = || Route::of(snapshot, asker, verdict);
                let route = tables.routes.find(asker, None, decide);
                Found::Http1(Box::new(Http1::observed(route, passed)))
            }
        }
    }

    /// An observed connection shows no name, for this reason.
    pub(super) fn nameless(&self, why: Detected) -> Option<Box<Attribution>> {
        let snapshot = Rc::clone(self.decided.as_ref()?);
        let why = match self.first {
            FirstSpeaker::Server => Detected::ServerFirst,
            FirstSpeaker::Workload => why,
        };
        Some(attribution(snapshot, DecidedBy::Address, Ok(None), Protocol::Tcp, why))
    }
}

impl Begun {
    fn observe(&mut self, bytes: &[u8]) -> Seen {
        if self.frames.is_some() {
            self.passed.extend_from_slice(bytes);
            return self.find_stream();
        }
        match self.sniffer.feed(bytes) {
            Sniff::NeedMore => {
                self.passed.extend_from_slice(bytes);
                Seen::Nothing
            }
            Sniff::Tls(hello) => Seen::Tls(hello.clone()),
            // These bytes are shown to the reader of HTTP/1 again.
            Sniff::Http1 => Seen::Http1(std::mem::take(&mut self.passed)),
            Sniff::Http2Preface => {
                self.passed.extend_from_slice(bytes);
                self.frames = Some(RequestFrames::default());
                self.passed.drain(..PREFACE.len());
                self.find_stream()
            }
            Sniff::Opaque(reason) => Seen::Opaque(*reason),
        }
    }

    /// The first request of HTTP/2 names the connection.
    fn find_stream(&mut self) -> Seen {
        let Some(frames) = &mut self.frames else { return Seen::Nothing };
        let host = loop {
            match frames.next(&self.passed) {
                FrameStep::NeedMore if self.passed.len() > PASSED_BYTES_MAX => break None,
                FrameStep::NeedMore => return Seen::Nothing,
                FrameStep::Pass { bytes }
                | FrameStep::SettingsAck { bytes }
                | FrameStep::Settings { bytes }
                | FrameStep::Ping { bytes, .. } => {
                    self.passed.drain(..bytes);
                }
                FrameStep::Request { authority, .. } => break Some(authority.host),
                FrameStep::Malformed { .. }
                | FrameStep::Drop { .. }
                | FrameStep::Reset { .. }
                | FrameStep::Refused(_) => break None,
            }
        };
        Seen::Http2(host)
    }
}

/// The server's name.
fn name_of(hello: &ClientHello) -> Result<Option<Host>, NameError> {
    match &hello.sni {
        Sni::Name(name) => Ok(Some(Host::Name(name.clone()))),
        Sni::Absent | Sni::Address(_) => Ok(None),
        Sni::Junk(error) => Err(*error),
    }
}

fn attribution(
    snapshot: HeldSnapshot,
    decided_by: DecidedBy,
    host: Result<Option<Host>, NameError>,
    protocol: Protocol,
    found: Detected,
) -> Box<Attribution> {
    let (host, junk) = match host {
        Ok(host) => (host, None),
        Err(error) => (None, Some(error)),
    };
    Box::new(Attribution { snapshot, decided_by, host, protocol, found: Some(found), junk })
}
