//! Frames as peers write them, for tests: written apart from what Egret itself says.

/// A frame (RFC 9113 4.1).
///
/// # Panics
/// When the payload is longer than 32 bits can say.
#[must_use]
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("it is short").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Adds a field to a header block that no table keeps (RFC 7541 6.2.2).
///
/// # Panics
/// When its name or value is longer than 255 bytes.
pub fn field(block: &mut Vec<u8>, name: &str, value: &str) {
    block.push(0);
    for text in [name, value] {
        block.push(u8::try_from(text.len()).expect("it is short"));
        block.extend_from_slice(text.as_bytes());
    }
}
