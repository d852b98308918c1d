//! Egret: a node-level egress proxy for Linux.
//!
//! This page is a guided tour: it walks one connection through the modules, each in the place
//! where the connection meets it. `README.md` says how to run Egret, `ARCHITECTURE.md` why it is
//! built so.
//!
//! **Before the connection.** `main` reads the command line and hands over to [`app`], which
//! binds every address, starts one pinned thread per processor and the control plane, waits, and
//! takes them down again. What the threads decide by was read by [`load`]: it finds the files and
//! puts the parts of one generation together. [`yaml`] turns text into values that know their
//! line, [`config`] is the schema of the configuration, and whatever is wrong is a [`problem`]
//! with file and line.
//!
//! **Accepted.** A workload has opened a connection and netfilter has redirected it. A [`worker`]
//! takes it: one thread, one ring, one loop. `worker/accept.rs` reads the two addresses that
//! matter, the source and the original destination, through [`sys`], which stands between the
//! workers and the kernel and is the only module with unsafe code. Above it the kernel is a
//! trait, [`sys::ring::Ring`], of operations that complete later with a token
//! (`worker/token.rs`).
//!
//! **Admitted.** [`admission`] says whether it may have a slot at all: there is a limit, and a
//! connection that would come back to Egret (a self-call) is refused.
//!
//! **Decided.** The worker asks the current snapshot of the [`registry`] for the verdict: a
//! service entry, passthrough or blackhole. `registry/service_entry.rs` holds Istio's language,
//! `registry/snapshot.rs` the lookup, by exact address, by longest [`prefix`], by name, by port; it
//! says as well whether a name could change the verdict, and what vouches for one. The snapshot
//! also says who the source is, its [`workload`]. Both answers carry an [`identity`], by which the
//! worker finds the connection's series in [`metrics`] without hashing a string.
//!
//! **Connected.** `worker/connect.rs` opens the upstream connection, one attempt after the other.
//! A blackholed connection never comes here: it is told its end and lingers until it has closed.
//!
//! **Relayed.** A connection is two halves, one per direction. [`relay`] is a half as a state
//! machine: it says what comes next and touches nothing. `worker/transfer.rs` does it: receives
//! into a buffer that the kernel picks and sends from it, or splices through a pipe when the half
//! moves bulk. `worker/connection.rs` holds what belongs to one connection.
//!
//! **Named, later.** [`sniff`] recognises what the first bytes are and reads the name in them,
//! [`http1`] finds where each request and answer ends, and [`http2`] what each stream asks for. All
//! are complete and stand apart: no worker asks them yet, so every verdict is by address and port.
//!
//! **Ended.** Every end has one [`metrics::CloseReason`]. `worker/close.rs` accounts it once,
//! tells the side that lives (a reset stays a reset), and closes when nothing is in flight. Time,
//! too, ends connections: `worker/sweep.rs` looks at each of them now and then instead of keeping
//! timers.
//!
//! **Told.** If the operator wants it, each connection and each request leaves one line in the
//! [`access_log`]: the worker queues a record, a thread of the control plane formats and writes it.
//!
//! **Seen from outside.** The [`control`] plane serves scrapes, health probes and the admin
//! pages, takes signals, and reloads changed files into the next snapshot. It reaches a worker by
//! what both may read, by its [`mailbox`], and by the [`drain`] switch that ends the process
//! (`worker/stop.rs` is the worker's end of both). [`check`] answers the same questions without a
//! running proxy: `egret check` and `egret explain`.
//!
//! A module imports from lower layers only; `ARCHITECTURE.md` has the table.
#![deny(unsafe_code)]

// From start to accept.
pub mod app;

pub mod worker;

pub mod sys;

// From accept to verdict.
pub mod admission;

pub mod registry;

pub mod prefix;

pub mod workload;

pub mod identity;

// From the first bytes to a name.
pub mod sniff;

pub mod http1;

pub mod http2;

// From verdict to close.
pub mod relay;

pub mod metrics;

pub mod access_log;

// Beside the data path.
pub mod drain;

pub mod mailbox;

pub mod control;

// From files to a snapshot.
pub mod load;

pub mod config;

pub mod yaml;

pub mod problem;

pub mod check;
