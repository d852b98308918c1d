//! The operating system, and all unsafe code; knows no proxy words.
//!
//! Everything above is safe Rust and talks to the kernel through this module alone. What is allowed
//! here and nowhere else:
//!
//! - `unsafe` blocks, each with the callee's requirement and why it holds at that place;
//! - raw descriptors: above, a descriptor is an owned [`socket::Socket`], [`socket::Listener`] or
//!   [`pipe::Pipe`];
//! - the memory that the kernel writes to asynchronously ([`buffers::BufferPool`]): it is mapped
//!   once per ring and outlives every operation on it, so a mistake above can mix up bytes but not
//!   memory.
#![allow(unsafe_code)]

pub mod buffers;
pub mod instance;
pub mod kernel;
pub mod pipe;
#[cfg(any(test, feature = "internals"))]
pub mod sim;
pub mod socket;
pub mod thread;
pub mod uring;
pub mod waker;
mod writable;

#[cfg(test)]
mod tests;
