//! A whole worker on real sockets, one step at a time: random peers that end anywhere, and an
//! oracle of who may receive which byte.

mod accounts;
mod attempts;
mod http1;
mod http2;
mod lab;
mod resolve;
mod review;
mod ring;
mod seeds;
mod waits;

/// User memory of an idle connection is mostly this (see docs/limits.md).
#[test]
fn a_connection_is_no_larger_than_it_was() {
    use crate::sys::uring::Uring;
    use crate::worker::connection::Connection;
    let bytes = size_of::<Connection<Uring>>();
    assert!(bytes <= 400, "{bytes}");
}
