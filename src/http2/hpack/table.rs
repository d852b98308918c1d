//! The two tables that an index names (RFC 7541 2.3): one that never changes, and behind it the
//! fields of earlier blocks, the newest first.

use std::collections::VecDeque;

use super::HpackError;

/// What an entry counts beside its name and value (RFC 7541 4.1).
pub(super) const ENTRY_OVERHEAD_BYTES: usize = 32;

/// The size before anything is announced (RFC 9113 6.5.2).
const INITIAL_BYTES_MAX: usize = 4096;

/// The table of one connection.
#[derive(Debug)]
pub(super) struct Table {
    /// The newest first.
    entries: VecDeque<Entry>,
    size_bytes: usize,
    size_bytes_max: usize,
}

/// A field of the table.
#[derive(Debug)]
pub(super) struct Entry {
    /// The name, and behind it the value.
    text: Box<[u8]>,
    name_bytes: usize,
}

impl Default for Table {
    fn default() -> Self {
        Self { entries: VecDeque::new(), size_bytes: 0, size_bytes_max: INITIAL_BYTES_MAX }
    }
}

impl Table {
    /// The name and value at `index`; the first is 1.
    pub(super) fn get(&self, index: usize) -> Result<(&[u8], &[u8]), HpackError> {
        let index = index.checked_sub(1).ok_or(HpackError::BadIndex)?;
        if let Some(field) = STATIC.get(index) {
            return Ok(*field);
        }
        let entry = self.entries.get(index - STATIC.len()).ok_or(HpackError::BadIndex)?;
        Ok(entry.text.split_at(entry.name_bytes))
    }

    /// Adds `entry` and drops the oldest until all fit. One that is larger than the table empties
    /// it, and is not an error (RFC 7541 4.4).
    pub(super) fn insert(&mut self, entry: Entry) {
        self.size_bytes += entry.size_bytes();
        self.entries.push_front(entry);
        self.evict();
    }

    /// Sets the size that the entries must fit into.
    pub(super) fn resize(&mut self, size_bytes_max: usize) {
        self.size_bytes_max = size_bytes_max;
        self.evict();
    }

    #[cfg(test)]
    pub(super) fn size_bytes(&self) -> usize {
        self.size_bytes
    }

    fn evict(&mut self) {
        while self.size_bytes > self.size_bytes_max {
            let Some(oldest) = self.entries.pop_back() else { break };
            self.size_bytes -= oldest.size_bytes();
        }
    }
}

impl Entry {
    pub(super) fn new(name: &[u8], value: &[u8]) -> Self {
        Self { text: [name, value].concat().into(), name_bytes: name.len() }
    }

    fn size_bytes(&self) -> usize {
        self.text.len() + ENTRY_OVERHEAD_BYTES
    }
}

/// RFC 7541 appendix A.
const STATIC: [(&[u8], &[u8]); 61] = [
    (b":authority", b""),
    (b":method", b"GET"),
    (b":method", b"POST"),
    (b":path", b"/"),
    (b":path", b"/index.html"),
    (b":scheme", b"http"),
    (b":scheme", b"https"),
    (b":status", b"200"),
    (b":status", b"204"),
    (b":status", b"206"),
    (b":status", b"304"),
    (b":status", b"400"),
    (b":status", b"404"),
    (b":status", b"500"),
    (b"accept-charset", b""),
    (b"accept-encoding", b"gzip, deflate"),
    (b"accept-language", b""),
    (b"accept-ranges", b""),
    (b"accept", b""),
    (b"access-control-allow-origin", b""),
    (b"age", b""),
    (b"allow", b""),
    (b"authorization", b""),
    (b"cache-control", b""),
    (b"content-disposition", b""),
    (b"content-encoding", b""),
    (b"content-language", b""),
    (b"content-length", b""),
    (b"content-location", b""),
    (b"content-range", b""),
    (b"content-type", b""),
    (b"cookie", b""),
    (b"date", b""),
    (b"etag", b""),
    (b"expect", b""),
    (b"expires", b""),
    (b"from", b""),
    (b"host", b""),
    (b"if-match", b""),
    (b"if-modified-since", b""),
    (b"if-none-match", b""),
    (b"if-range", b""),
    (b"if-unmodified-since", b""),
    (b"last-modified", b""),
    (b"link", b""),
    (b"location", b""),
    (b"max-forwards", b""),
    (b"proxy-authenticate", b""),
    (b"proxy-authorization", b""),
    (b"range", b""),
    (b"referer", b""),
    (b"refresh", b""),
    (b"retry-after", b""),
    (b"server", b""),
    (b"set-cookie", b""),
    (b"strict-transport-security", b""),
    (b"transfer-encoding", b""),
    (b"user-agent", b""),
    (b"vary", b""),
    (b"via", b""),
    (b"www-authenticate", b""),
];
