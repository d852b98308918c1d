//! The operations that the micro-benchmarks measure: the pure parts of Egret that every connection
//! or every reload pays for, and a whole worker on a ring that plays a script (`traffic`).
//!
//! `cargo bench -p egret-micro` says how long they take here; `perf/instructions.sh` counts their
//! instructions, which do not depend on what else the machine does, and holds them to bounds.
//!
//! An operation is prepared for a number of calls beforehand, so that only the calls are measured:
//! inputs are made, and outputs dropped, outside.

#![forbid(unsafe_code)]

mod names;
mod registry;
mod traffic;

use traffic::{Counted, Names, Sent, run};

/// Something that can be done many times.
#[derive(Debug, Clone, Copy)]
pub struct Operation {
    /// What it is called in tables and on the command line.
    pub name: &'static str,
    prepare: fn(usize) -> Box<dyn FnMut()>,
}

impl Operation {
    /// Make all that `calls` calls of the result need.
    #[must_use]
    pub fn prepare(&self, calls: usize) -> Box<dyn FnMut()> {
        (self.prepare)(calls)
    }

    /// The operation of this name.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        OPERATIONS.into_iter().find(|operation| operation.name == name)
    }
}

/// All of them; `_10` and so on is the number of service entries.
pub const OPERATIONS: [Operation; 22] = [
    Operation { name: "lookup_10", prepare: |_| registry::lookup(10) },
    Operation { name: "lookup_1000", prepare: |_| registry::lookup(1_000) },
    Operation { name: "lookup_100000", prepare: |_| registry::lookup(100_000) },
    Operation { name: "lookup_name_1000", prepare: |_| registry::lookup_name(1_000) },
    Operation { name: "lookup_name_100000", prepare: |_| registry::lookup_name(100_000) },
    Operation { name: "build_10", prepare: |calls| registry::build(10, calls) },
    Operation { name: "build_1000", prepare: |calls| registry::build(1_000, calls) },
    Operation { name: "build_100000", prepare: |calls| registry::build(100_000, calls) },
    Operation { name: "parse_1000", prepare: |_| registry::parse(1_000) },
    Operation { name: "client_hello", prepare: |_| names::client_hello() },
    Operation { name: "client_hello_in_records", prepare: |_| names::client_hello_in_records() },
    Operation { name: "request_head", prepare: |_| names::request_head() },
    Operation { name: "request_head_of_browser", prepare: |_| names::request_head_of_browser() },
    Operation { name: "exchange", prepare: |calls| exchange(calls, Names::Off, Sent::Http) },
    Operation {
        name: "exchange_observed",
        prepare: |calls| exchange(calls, Names::Watched, Sent::Http),
    },
    Operation {
        name: "exchange_observed_fresh",
        prepare: |calls| exchange(calls, Names::Watched, Sent::HttpFresh),
    },
    Operation {
        name: "exchange_gated",
        prepare: |calls| exchange(calls, Names::Gated, Sent::Http),
    },
    Operation {
        name: "exchange_gated_fresh",
        prepare: |calls| exchange(calls, Names::Gated, Sent::HttpFresh),
    },
    Operation { name: "connection", prepare: |calls| connection(calls, Names::Off, Sent::Opaque) },
    Operation {
        name: "connection_opaque",
        prepare: |calls| connection(calls, Names::Watched, Sent::Opaque),
    },
    Operation {
        name: "connection_observed",
        prepare: |calls| connection(calls, Names::Watched, Sent::Http),
    },
    Operation {
        name: "connection_gated",
        prepare: |calls| connection(calls, Names::Gated, Sent::Http),
    },
];

/// An exchange on a kept connection, through a whole worker.
fn exchange(calls: usize, names: Names, sent: Sent) -> Box<dyn FnMut()> {
    run(calls, names, Counted::Exchange, sent)
}

/// A connection with one exchange, through a whole worker.
fn connection(calls: usize, names: Names, sent: Sent) -> Box<dyn FnMut()> {
    run(calls, names, Counted::Connection, sent)
}
