//! Targets: where an authority in one ends, and whether a path is taken for one.

use super::{RequestError, is_same};
use crate::sniff::Authority;

/// The authority and the path of an absolute `http` target. Other schemes have no business on a
/// connection that is not encrypted.
///
/// Parsers differ about an authority that a query or a fragment follows: some read on to the next
/// slash (Varnish, hertz). So it ends with a slash, or with the target.
pub(crate) fn absolute_form(target: &[u8]) -> Result<(&[u8], &[u8]), RequestError> {
    let (scheme, rest) = target.split_at_checked("http://".len()).ok_or(RequestError::BadTarget)?;
    if !scheme.eq_ignore_ascii_case(b"http://") {
        return Err(RequestError::BadTarget);
    }
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#' | b'\\'));
    match end {
        None => Ok((rest, b"")),
        Some(end) if rest[end] == b'/' => Ok(rest.split_at(end)),
        Some(_) => Err(RequestError::BadTarget),
    }
}

/// Whether `path`, of a request to `host`, is a path to every server.
///
/// fasthttp and Apache HttpCore take the first segment behind `//` for the host. Careless joins
/// (`//api/v1`) are common, so it may stand there if it is no host, or the same one. URL parsers
/// of browsers and of Node.js take a backslash for a slash.
pub(crate) fn path(path: &[u8], host: Option<&Authority>, port: u16) -> Result<(), RequestError> {
    if path.contains(&b'#') {
        return Err(RequestError::BadTarget);
    }
    let [b'/', b'/' | b'\\', behind @ ..] = path else { return Ok(()) };
    if behind.windows(3).any(|text| text == b"://") {
        return Err(RequestError::BadTarget);
    }
    let segment = behind.split(|byte| matches!(byte, b'/' | b'\\' | b'?')).next().unwrap_or(b"");
    let has_host = segment.iter().any(|byte| matches!(byte, b'.' | b':' | b'@' | b'[' | b']'));
    let is_own = || match (Authority::parse(segment), host) {
        (Ok(named), Some(host)) => is_same(&named, host, port),
        _ => false,
    };
    match has_host && !is_own() {
        true => Err(RequestError::BadTarget),
        false => Ok(()),
    }
}
