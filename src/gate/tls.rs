//! TLS that a name has decided, until no other name can come.
//!
//! A server may ask for a second ClientHello (HelloRetryRequest, RFC 8446 4.1.4), which is in plain
//! text like the first one, and some servers go by the name in the second. So the downstream's
//! bytes are followed, record by record, up to its next handshake message: a ClientHello must name
//! the same server. The watch ends with that message, or earlier, with a ServerHello that asks for
//! none.

use super::{Action, Note, Outcome};
use crate::metrics::CloseReason;
use crate::sniff::{
    ClientHello, Follows, Name, Retry, ServerHelloReader, Sni, Sniff, Sniffer, TLS_HANDSHAKE,
};

const RECORD_HEADER_BYTES: usize = 5;
const CLIENT_HELLO: u8 = 1;

/// See the module.
#[derive(Debug)]
pub(crate) struct Tls {
    /// The name that has decided.
    name: Name,
    follows: Follows,
    /// So many of the downstream's next bytes may pass: the rest of a record.
    allowed: usize,
    second: Option<Box<Second>>,
    server: ServerHelloReader,
    is_refused: bool,
}

/// The second ClientHello.
#[derive(Debug, Default)]
struct Second {
    sniffer: Sniffer,
    /// Bytes that the sniffer has been fed; they are shown again.
    fed: usize,
}

/// What a side's next bytes are.
pub(super) enum Watched {
    Outcome(Outcome),
    /// All of them pass, and whatever follows.
    Over,
}

/// What a record may be, as far as it has come.
enum Record {
    Partial,
    /// So many bytes that are no handshake message.
    Other(usize),
    ClientHello,
    OtherHandshake,
    /// Without a byte, which TLS does not allow (RFC 8446 5.1).
    Empty,
}

impl Tls {
    /// A connection that `hello` has decided by `name`, and of which nothing has passed.
    pub(super) fn new(name: Name, hello: &ClientHello) -> Self {
        Self {
            name,
            follows: hello.follows,
            allowed: hello.wire_bytes,
            second: None,
            server: ServerHelloReader::default(),
            is_refused: false,
        }
    }

    pub(super) fn requested(&mut self, bytes: &[u8]) -> Watched {
        if self.is_refused {
            return Watched::Outcome(Outcome::Act(Action::End(CloseReason::BadRequest)));
        }
        if self.allowed > 0 && !bytes.is_empty() {
            let passing = self.allowed.min(bytes.len());
            self.allowed -= passing;
            return Watched::Outcome(Outcome::Pass(passing));
        }
        match Record::of(bytes) {
            _ if self.follows == Follows::Message => self.refuse(),
            Record::Partial => Watched::Outcome(Outcome::Hold),
            Record::Other(length) => {
                let passing = length.min(bytes.len());
                self.allowed = length - passing;
                Watched::Outcome(Outcome::Pass(passing))
            }
            Record::OtherHandshake => Watched::Over,
            Record::ClientHello => self.second_hello(bytes),
            Record::Empty => self.refuse(),
        }
    }

    fn second_hello(&mut self, bytes: &[u8]) -> Watched {
        let second = self.second.get_or_insert_default();
        let sniff = second.sniffer.feed(&bytes[second.fed..]);
        second.fed = bytes.len();
        match sniff {
            Sniff::NeedMore => Watched::Outcome(Outcome::Hold),
            Sniff::Tls(ClientHello { sni: Sni::Name(name), follows: Follows::Record, .. })
                if *name == self.name =>
            {
                Watched::Over
            }
            Sniff::Tls(_) | Sniff::Http1 | Sniff::Http2Preface | Sniff::Opaque(_) => self.refuse(),
        }
    }

    /// The downstream names another server, or what it names cannot be told.
    fn refuse(&mut self) -> Watched {
        self.is_refused = true;
        Watched::Outcome(Outcome::Note(Note::NameConflict))
    }

    pub(super) fn responded(&mut self, bytes: &[u8]) -> Watched {
        match self.server.feed(bytes) {
            Retry::Unknown | Retry::Possible => Watched::Outcome(Outcome::Pass(bytes.len())),
            Retry::Excluded => Watched::Over,
        }
    }
}

impl Record {
    /// The record that `bytes` begin with.
    fn of(bytes: &[u8]) -> Self {
        let Some([kind, _, _, high, low]) = bytes.first_chunk::<RECORD_HEADER_BYTES>() else {
            return Self::Partial;
        };
        let payload_bytes = usize::from(u16::from_be_bytes([*high, *low]));
        match (*kind, payload_bytes, bytes.get(RECORD_HEADER_BYTES)) {
            (TLS_HANDSHAKE, 0, _) => Self::Empty,
            (TLS_HANDSHAKE, _, None) => Self::Partial,
            (TLS_HANDSHAKE, _, Some(&CLIENT_HELLO)) => Self::ClientHello,
            (TLS_HANDSHAKE, _, Some(_)) => Self::OtherHandshake,
            _ => Self::Other(RECORD_HEADER_BYTES + payload_bytes),
        }
    }
}
