//! Egret: a node-level egress proxy for Linux.
//!
//! This page is a guided tour: it walks one connection through the modules, each in the place
//! where the connection meets it. `README.md` and `docs/` say how to run Egret, `ARCHITECTURE.md`
//! how it works, `docs/decisions.md` why it is built so.
//!
//! **Before the connection.** `main` reads the command line and hands over to [`app`], which
//! binds every address, starts one pinned thread per processor and the control plane, waits, and
//! takes them down again. What the threads decide by was read by [`load`]: it finds the files and
//! puts the parts of one generation together. [`yaml`] turns text into values that know their
//! line, [`config`] is the schema of the configuration, and what is wrong is reported in
//! [`diagnostics`], with file and line.
//!
//! **Accepted.** A workload has opened a connection and netfilter has redirected it. A [`worker`]
//! takes it: one thread, one ring, one loop. `worker/listener.rs` reads the two addresses that
//! matter, the source and the original destination, through [`sys`], which stands between the
//! workers and the kernel and is the only module with unsafe code. Above it the kernel is a
//! trait, [`sys::kernel::Kernel`], of operations that complete later with a token
//! (`worker/token.rs`).
//!
//! **Admitted.** [`admission`] says whether it may have a slot at all: there is a limit, each
//! source has a share of it (`worker/shares.rs`), and a connection that would come back to Egret (a
//! self-call) is refused.
//!
//! **A connection acts.** From here on the worker only loops: it gives each completion to its
//! connection as an event, and `worker/connection.rs` does what follows with what all connections
//! share (`worker/context.rs`). A handler returns what is to happen next.
//!
//! **Inspected.** Every connection has a [`gate`], which is shown the bytes before they pass and
//! says how many may. It is pure, and all rules about what may pass are in it. Whether a name could
//! change the decision, the current snapshot of the [`registry`] says. If so, `gate/detect.rs`
//! holds the first bytes, and nothing is connected yet: [`sniff`] says what they are (TLS, HTTP/1,
//! HTTP/2, opaque) and reads a ClientHello's name. If not, the same detection only observes, for a
//! label. `worker/connection/time.rs` ends the wait at `names.deadline`.
//!
//! **Decided.** The snapshot gives the verdict: a service entry, passthrough or blackhole.
//! `registry/service_entry.rs` holds Istio's language, `registry/snapshot.rs` the lookup, by exact
//! address, by longest [`prefix`], by name, by port; it says as well what vouches for a name. The
//! snapshot also says who the source is, its [`workload`]. Both answers carry an [`identity`], so
//! that of all labels only the name is looked at when `worker/account.rs` finds the connection's
//! series in [`metrics`].
//!
//! **Connected.** `worker/connection/upstream.rs` says where the upstream connection goes, and
//! `attempts.rs` beside it makes it: to addresses that the [`upstream_guard`] permits, those that
//! have just failed ([`failed_addresses`]) last. A blackholed connection never comes here:
//! `worker/connection/reply.rs` sends it a local reply (502, a TLS alert), or just FIN or RST, and
//! it lingers until it has closed.
//!
//! **Relayed.** A connection is two halves, one per direction. [`relay`] is a half as a state
//! machine: it says what comes next and touches nothing. `worker/connection/transfer.rs` does it:
//! it receives into a buffer that the kernel picks, and sends from it; `splice.rs` beside it uses a
//! pipe when the half moves bulk. `direction.rs` is a half with what it holds and waits for, and
//! with the bytes that may not pass yet.
//!
//! **Asked again.** A kept HTTP connection makes many requests, and where names decide, each is
//! judged by its own host. [`http1`] finds where each request and response begins and ends;
//! `gate/http1.rs` lets one request at a time pass to where its host leads (`gate/route.rs`), so
//! that the upstream can be changed between two. [`http2`] finds each stream's authority;
//! `gate/http2.rs` lets those pass that may go where the connection goes, and answers the others.
//! `worker/connection/inspect.rs` does what the gate says.
//!
//! **Ended.** `worker/connection/close.rs` meets FIN, reset and death. Every end has one
//! [`metrics::CloseReason`]: it is accounted once and told to the side that lives (a reset stays a
//! reset), and the sockets are closed when nothing is in flight. Time, too, ends connections:
//! `worker/sweep.rs` visits each of them now and then instead of keeping timers.
//!
//! **Told.** If the operator wants it, each HTTP/1 request and every other connection leaves one
//! line in the [`access_log`]: the worker queues a record, a thread of its own writes it.
//! A request's line is read from its head by `worker/account/line.rs`.
//!
//! **Seen from outside.** The [`control`] plane serves scrapes, health probes and the admin
//! pages, takes signals, asks DNS for the addresses of the registry's names, and makes changed
//! files and addresses into the next snapshot. It reaches a worker by what both may read, by its
//! [`commands`], and by the [`drain`] switch that ends the process. [`check`] answers the same
//! questions without a running proxy: `egret check` and `egret explain`.
//!
//! A module imports from lower layers and its own; `ARCHITECTURE.md` has the table.
//!
//! What `main` does not use is private, so that the compiler finds what nothing uses; [`sys`] is
//! not, because [`app::App::start_on`] takes other rings than the kernel's. Tests, fuzz targets and
//! micro-benchmarks reach the rest through the feature `internals`.
#![deny(unsafe_code)]
#![cfg_attr(
    not(feature = "internals"),
    allow(unreachable_pub, reason = "`internals` reaches it, and the lint looks then")
)]

// What the simulation asks of everything below.
mod probe;

// From start to accept.
pub mod app;

mod worker;

pub mod sys;

// From accept to verdict.
mod admission;

mod registry;

mod upstream_guard;

mod failed_addresses;

mod prefix;

mod workload;

mod identity;

// From the first bytes to a name.
mod sniff;

mod judge;

mod http1;

mod http2;

// What may pass.
mod gate;

// From verdict to close.
mod relay;

mod metrics;

mod access_log;

// Beside the data path.
mod drain;

mod commands;

mod questions;

pub mod control;

// From files to a snapshot.
pub mod load;

pub mod config;

mod yaml;

mod diagnostics;

pub mod check;

/// What the crate keeps to itself, for its integration tests, fuzz targets and micro-benchmarks.
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod internals {
    macro_rules! reach {
        ($($module:ident)*) => {
            $(pub mod $module {
                pub use crate::$module::*;
            })*
        };
    }

    reach! {
        access_log admission commands diagnostics drain gate http1 http2 identity judge metrics
        questions registry relay sniff upstream_guard worker workload
    }

    #[cfg(feature = "probe")]
    reach! { probe }
}
