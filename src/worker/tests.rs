//! A whole worker on real sockets, one step at a time: random peers that end anywhere, and an
//! oracle of who may receive which byte.

mod draw;
mod http1;
mod http2;
mod lab;
mod ring;
