//! Bytes of TLS for tests.

/// A ClientHello for `name`, in one record.
pub(crate) fn hello(name: &str) -> Vec<u8> {
    record(22, &message(name))
}

/// The handshake message of [`hello`].
pub(crate) fn message(name: &str) -> Vec<u8> {
    let size = |length: usize| u16::try_from(length).unwrap().to_be_bytes();
    let list = [&[0], &size(name.len())[..], name.as_bytes()].concat();
    let extension = [&[0, 0], &size(list.len() + 2)[..], &size(list.len()), &list].concat();
    let fixed = [&[3, 3], &[7; 32][..], &[0, 0, 2, 0x13, 1, 1, 0]].concat();
    let body = [&fixed[..], &size(extension.len()), &extension].concat();
    [&[1, 0], &size(body.len())[..], &body].concat()
}

/// A record of TLS.
pub(crate) fn record(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    [&[kind, 3, 3], &length[..], payload].concat()
}
