//! A record as a line of text, in the default format of Istio's Envoy, so that what parses those
//! lines parses these.
//!
//! The format is `EnvoyTextLogFormat` of Istio's `pilot/pkg/model/telemetry_logging.go`:
//!
//! ```text
//! [%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" %RESPONSE_CODE%
//! %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS%
//! "%UPSTREAM_TRANSPORT_FAILURE_REASON%" %BYTES_RECEIVED% %BYTES_SENT% %DURATION%
//! %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "%REQ(X-FORWARDED-FOR)%" "%REQ(USER-AGENT)%"
//! "%REQ(X-REQUEST-ID)%" "%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%" %UPSTREAM_CLUSTER_RAW%
//! %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS%
//! %REQUESTED_SERVER_NAME% %ROUTE_NAME%
//! ```
//!
//! What it has no place for (workload, verdict, what decided) stands in the JSON format only.
//!
//! Envoy writes what peers sent as it came. Here nothing can end a line, a word or a pair of quotes
//! but the format itself: see [`push_escaped`].

use std::fmt::{self, Write};

use super::record::{Excerpt, Record, Request};

/// What Envoy writes where there is nothing.
const NOTHING: &str = "-";

/// Adds the line of `record`, with its line end, to `out`.
pub(super) fn write(record: &Record, out: &mut String) {
    line(record, out).expect("writing to a string does not fail");
}

fn line(record: &Record, out: &mut String) -> fmt::Result {
    let request = record.request.as_ref();
    write!(out, "[{}] \"", super::timestamp(record.start))?;
    match request {
        None => out.push_str("- - -"),
        Some(request) => {
            excerpt(Some(&request.method), Place::Word, out);
            out.push(' ');
            excerpt(Some(&request.target), Place::Word, out);
            write!(out, " {}", request.version)?;
        }
    }
    let (status, details) = request.map_or((0, ""), |request| (request.status, request.details));
    write!(out, "\" {status} {} ", record.flags.label())?;
    words([Some(details), record.termination_details()], out);
    write!(out, "\"{}\" ", record.transport_failure().unwrap_or(NOTHING))?;
    let milliseconds = record.duration.as_millis();
    write!(out, "{} {} {milliseconds} ", record.bytes_received, record.bytes_sent)?;
    displayed(request.and_then(Request::service_time_ms), out)?;
    out.push_str(" \"");
    excerpt(request.and_then(|r| r.forwarded_for.as_ref()), Place::List, out);
    out.push_str("\" \"");
    excerpt(request.and_then(|r| r.user_agent.as_ref()), Place::Quotes, out);
    out.push_str("\" \"");
    excerpt(request.and_then(|r| r.request_id.as_ref()), Place::Quotes, out);
    out.push_str("\" \"");
    excerpt(request.and_then(|r| r.authority.as_ref()), Place::Word, out);
    out.push_str("\" \"");
    displayed(record.upstream, out)?;
    out.push_str("\" ");
    words([record.upstream_cluster().as_deref()], out);
    displayed(record.upstream_local, out)?;
    write!(out, " {} {} ", record.original_destination, record.source)?;
    words([record.requested_server_name(), record.route_name()], out);
    // The blank after the last word becomes the end of the line.
    out.pop();
    out.push('\n');
    Ok(())
}

/// Each word with a blank behind it.
fn words<const N: usize>(words: [Option<&str>; N], out: &mut String) {
    for word in words {
        match word {
            None | Some("") => out.push_str(NOTHING),
            Some(word) => push_escaped(word.as_bytes(), Place::Word, out),
        }
        out.push(' ');
    }
}

fn displayed(value: Option<impl fmt::Display>, out: &mut String) -> fmt::Result {
    match value {
        Some(value) => write!(out, "{value}"),
        None => out.write_str(NOTHING),
    }
}

fn excerpt<const N: usize>(value: Option<&Excerpt<N>>, place: Place, out: &mut String) {
    let is_written = |byte: &u8| *byte != b' ' || place != Place::List;
    match value {
        Some(value) if value.bytes().iter().any(is_written) => {
            push_escaped(value.bytes(), place, out);
            out.push_str(value.ellipsis());
        }
        _ => out.push_str(NOTHING),
    }
}

/// Where a value stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Between quotes: blanks may stand in it.
    Quotes,
    /// Between blanks.
    Word,
    /// Between quotes, where readers of Istio's format expect no blank: those of a list, which say
    /// nothing (RFC 9110 5.6.1), are left out.
    List,
}

/// Adds `bytes`, as nginx escapes them: a quote, a backslash, whatever else could end a line or
/// steer a terminal (control characters, Unicode's line ends), and what is no UTF-8 become `\xNN`,
/// byte by byte; so does a blank in a word. So a parser that looks for the next quote or blank is
/// right.
fn push_escaped(bytes: &[u8], place: Place, out: &mut String) {
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            // Readers of words know the spaces of Unicode, too.
            let ends_word = character.is_whitespace() && place != Place::Quotes;
            if character == ' ' && place == Place::List {
                continue;
            }
            if ends_word || matches!(character, '"' | '\\') || super::is_unprintable(character) {
                push_hex(character.encode_utf8(&mut [0; 4]).as_bytes(), out);
            } else {
                out.push(character);
            }
        }
        push_hex(chunk.invalid(), out);
    }
}

fn push_hex(bytes: &[u8], out: &mut String) {
    for byte in bytes {
        write!(out, "\\x{byte:02X}").expect("writing to a string does not fail");
    }
}
