//! The whole proxy in this process, on loopback: real rings, real sockets, real HTTP endpoints.
//!
//! Only the original destination is told by the test instead of netfilter (`support::proxy`), so
//! neither root nor a network namespace is needed. What netfilter adds is tested in `tests/netns`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod blackhole;
mod connect;
mod drain;
mod faults;
mod guard;
mod late;
mod names;
mod open_connections;
mod panic;
mod relay;
mod services;
mod shares;
mod startup;
mod support;
