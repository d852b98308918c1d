//! The ClientHello: the names in a TLS connection's first message, read as a stream.
//!
//! Two layers, each of which may be cut anywhere: records (RFC 8446 5.1) around a handshake message
//! (RFC 8446 4.1.2). Every field has a length in front of it, so the reader only ever collects a
//! small number, skips a run of bytes, or collects the one extension that it wants. Each length is
//! checked against what is left of the message before anything of it is read. Nothing is allocated
//! before this extension begins.
//!
//! It does not judge versions, suites or the values of other extensions (so GREASE passes, RFC
//! 8701), and it does not look into an encrypted inner hello (RFC 9849): the name is the outer one.

use std::net::IpAddr;

use super::name::{Host, Name, NameError};
use super::{OpaqueReason, Sniff};

mod records;

use records::Records;

/// The longest ClientHello, without its header. The large ones of today, with post-quantum key
/// shares and session tickets, have 2 to 4 KiB.
pub const MESSAGE_BYTES_MAX: u32 = 16 * 1024;

/// The longest body of the extension that is collected. A name needs 260 at most.
const COLLECTED_BYTES_MAX: u32 = 512;

const CLIENT_HELLO: u32 = 1;
const EXTENSION_SERVER_NAME: u32 = 0;
const NAME_TYPE_HOST: u8 = 0;

/// What a ClientHello says about its destination.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClientHello {
    /// The server's name; with ECH the outer one.
    pub sni: Sni,
    /// How many of the connection's bytes it takes, with the headers of its records.
    pub wire_bytes: usize,
    /// What follows it.
    pub follows: Follows,
}

/// What stands behind a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Follows {
    /// Its last record ends with it.
    #[default]
    Record,
    /// Another message, or a part of one, in the same record.
    Message,
}

/// The server name indication (RFC 6066 3).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Sni {
    /// None was sent.
    #[default]
    Absent,
    /// A name.
    Name(Name),
    /// An IP literal, which is no name (and not allowed here).
    Address(IpAddr),
    /// Something that is neither.
    Junk(NameError),
}

/// Reads one ClientHello.
#[derive(Debug)]
pub(super) struct ClientHelloReader {
    records: Records,
    /// Bytes of the connection that were read.
    read_bytes: usize,
    step: Step,
    /// Bytes of the present step that have not come.
    step_left: u32,
    /// Bytes of the message that belong to no step yet.
    message_left: u32,
    /// The number that the present step collects.
    number: u32,
    /// The extension that the present step collects.
    collected: Vec<u8>,
    hello: ClientHello,
    /// The extension may not come twice (RFC 8446 4.2).
    has_server_name: bool,
}

/// The field that is being read, in the order of the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Type and length of the message.
    MessageHeader,
    /// Version and random.
    Preamble,
    SessionIdLength,
    SessionId,
    SuitesLength,
    Suites,
    CompressionsLength,
    Compressions,
    ExtensionsLength,
    /// Type and length of an extension.
    ExtensionHeader,
    ServerName,
    OtherExtension,
}

/// Where reading ends.
enum End {
    /// The message is complete. So many bytes of the payload are behind it.
    Complete { behind: usize },
    /// It cannot be, or is not wanted.
    Opaque(OpaqueReason),
}

const BAD_TLS: End = End::Opaque(OpaqueReason::BadTls);

impl Default for ClientHelloReader {
    fn default() -> Self {
        Self {
            records: Records::default(),
            read_bytes: 0,
            step: Step::MessageHeader,
            step_left: 4,
            message_left: 0,
            number: 0,
            collected: Vec::new(),
            hello: ClientHello::default(),
            has_server_name: false,
        }
    }
}

impl ClientHelloReader {
    /// Reads the next bytes of the connection.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Sniff {
        match self.records(bytes) {
            Ok(()) => Sniff::NeedMore,
            Err(End::Complete { behind }) => {
                self.hello.wire_bytes = self.read_bytes - behind;
                if behind > 0 || self.records.is_within_payload() {
                    self.hello.follows = Follows::Message;
                }
                Sniff::Tls(std::mem::take(&mut self.hello))
            }
            Err(End::Opaque(reason)) => Sniff::Opaque(reason),
        }
    }

    fn records(&mut self, mut bytes: &[u8]) -> Result<(), End> {
        while !bytes.is_empty() {
            let (payload, rest) = self.records.split(bytes).map_err(End::Opaque)?;
            self.read_bytes += bytes.len() - rest.len();
            self.message(payload)?;
            bytes = rest;
        }
        Ok(())
    }

    /// Reads the next bytes of the message.
    fn message(&mut self, mut bytes: &[u8]) -> Result<(), End> {
        loop {
            while self.step_left == 0 {
                self.complete_step(bytes.len())?;
            }
            if bytes.is_empty() {
                return Ok(());
            }
            let wanted = usize::try_from(self.step_left).unwrap_or(usize::MAX);
            let (piece, rest) = bytes.split_at(bytes.len().min(wanted));
            self.take(piece);
            self.step_left -= u32::try_from(piece.len()).unwrap_or(self.step_left);
            bytes = rest;
        }
    }

    fn take(&mut self, piece: &[u8]) {
        match self.step {
            Step::Preamble
            | Step::SessionId
            | Step::Suites
            | Step::Compressions
            | Step::OtherExtension => {}
            Step::ServerName => self.collected.extend_from_slice(piece),
            _ => {
                for byte in piece {
                    self.number = self.number << 8 | u32::from(*byte);
                }
            }
        }
    }

    /// The present step is complete, `behind` bytes before the end of what has come of the payload.
    fn complete_step(&mut self, behind: usize) -> Result<(), End> {
        let number = std::mem::take(&mut self.number);
        match self.step {
            Step::MessageHeader => self.begin_message(number),
            Step::Preamble => self.begin(Step::SessionIdLength, 1),
            Step::SessionIdLength if number <= 32 => self.begin(Step::SessionId, number),
            Step::SessionId => self.begin(Step::SuitesLength, 2),
            Step::SuitesLength if number >= 2 && number.is_multiple_of(2) => {
                self.begin(Step::Suites, number)
            }
            Step::Suites => self.begin(Step::CompressionsLength, 1),
            Step::CompressionsLength if number >= 1 => self.begin(Step::Compressions, number),
            // TLS 1.2 and before may end here.
            Step::Compressions if self.message_left == 0 => Err(End::Complete { behind }),
            Step::Compressions => self.begin(Step::ExtensionsLength, 2),
            Step::ExtensionsLength if number == self.message_left => self.next_extension(behind),
            Step::ExtensionHeader => self.begin_extension(number >> 16, number & 0xffff),
            Step::ServerName => {
                self.hello.sni = server_name(&self.collected).ok_or(BAD_TLS)?;
                self.next_extension(behind)
            }
            Step::OtherExtension => self.next_extension(behind),
            Step::SessionIdLength
            | Step::SuitesLength
            | Step::CompressionsLength
            | Step::ExtensionsLength => Err(BAD_TLS),
        }
    }

    /// Begins a step, if the message has so many bytes left.
    fn begin(&mut self, step: Step, length: u32) -> Result<(), End> {
        self.message_left = self.message_left.checked_sub(length).ok_or(BAD_TLS)?;
        self.step = step;
        self.step_left = length;
        Ok(())
    }

    fn begin_message(&mut self, header: u32) -> Result<(), End> {
        let (kind, length) = (header >> 24, header & 0x00ff_ffff);
        if kind != CLIENT_HELLO {
            return Err(BAD_TLS);
        }
        if length > MESSAGE_BYTES_MAX {
            return Err(End::Opaque(OpaqueReason::TooLarge));
        }
        self.message_left = length;
        self.begin(Step::Preamble, 34)
    }

    fn next_extension(&mut self, behind: usize) -> Result<(), End> {
        match self.message_left {
            0 => Err(End::Complete { behind }),
            _ => self.begin(Step::ExtensionHeader, 4),
        }
    }

    fn begin_extension(&mut self, kind: u32, length: u32) -> Result<(), End> {
        if kind != EXTENSION_SERVER_NAME {
            return self.begin(Step::OtherExtension, length);
        }
        if std::mem::replace(&mut self.has_server_name, true) {
            return Err(BAD_TLS);
        }
        if length > COLLECTED_BYTES_MAX {
            self.hello.sni = Sni::Junk(NameError::TooLong);
            return self.begin(Step::OtherExtension, length);
        }
        self.begin(Step::ServerName, length)
    }
}

/// The body of the extension. `None`: it is malformed, or has two host names, which RFC 6066
/// forbids.
fn server_name(body: &[u8]) -> Option<Sni> {
    let mut rest = split_vector_u16(body).filter(|list| !list.is_empty())?;
    let mut sni = Sni::Absent;
    while let Some((kind, after)) = rest.split_first() {
        let (length, after) = after.split_first_chunk()?;
        let (name, after) = after.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        rest = after;
        if *kind != NAME_TYPE_HOST {
            continue;
        }
        if sni != Sni::Absent {
            return None;
        }
        sni = match Host::parse(name) {
            Ok(Host::Name(name)) => Sni::Name(name),
            Ok(Host::Address(address)) => Sni::Address(address),
            Err(error) => Sni::Junk(error),
        };
    }
    Some(sni)
}

/// A vector with its length in two bytes, that is all of `bytes`.
fn split_vector_u16(bytes: &[u8]) -> Option<&[u8]> {
    let (length, vector) = bytes.split_first_chunk()?;
    (vector.len() == usize::from(u16::from_be_bytes(*length))).then_some(vector)
}
