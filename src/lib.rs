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
//! **Recognised.** Whether a name could change the decision, the current snapshot of the
//! [`registry`] says. If so, `worker/recognise.rs` holds the first bytes, and connects nowhere
//! yet: [`sniff`] says what they are (TLS, HTTP/1, HTTP/2, opaque) and reads a ClientHello's
//! name. If not, the connection goes on at once, and `worker/watch.rs` asks [`sniff`] about the
//! bytes as they pass, for a label. `worker/sweep.rs` ends the waiting at `names.deadline`.
//!
//! **Decided.** The snapshot gives the verdict: a service entry, passthrough or blackhole.
//! `registry/service_entry.rs` holds Istio's language, `registry/snapshot.rs` the lookup, by exact
//! address, by longest [`prefix`], by name, by port; it says as well what vouches for a name. The
//! snapshot also says who the source is, its [`workload`]. Both answers carry an [`identity`], so
//! that of all labels only the name is looked at when `worker/account.rs` finds the connection's
//! series in [`metrics`].
//!
//! **Connected.** `worker/connect.rs` opens the upstream connection, one attempt after the other.
//! A blackholed connection never comes here: `worker/last_words.rs` tells it so (502, a TLS alert,
//! or just FIN or RST), and it lingers until it has closed.
//!
//! **Relayed.** A connection is two halves, one per direction. [`relay`] is a half as a state
//! machine: it says what comes next and touches nothing. `worker/transfer.rs` does it: receives
//! into a buffer that the kernel picks and sends from it; `worker/splice.rs` does it through a
//! pipe when the half moves bulk. `worker/direction.rs` is a half with what it holds and waits
//! for, and with what came before it could take it up. `worker/connection.rs` holds what belongs to
//! one connection, with a picture of its life, and its `Guide`: who looks at bytes before they
//! pass.
//!
//! **Asked again.** A kept HTTP connection makes many requests, and where names decide, each is
//! judged by its own. [`http1`] finds where each request and answer begins and ends;
//! `worker/http1.rs` keeps what is asked and unanswered, `worker/requests.rs` lets a request pass
//! to where its host leads (`worker/route.rs`), and `worker/answers.rs` follows the answers, so
//! that the upstream can be changed between two. `worker/observe.rs` only counts, where the
//! address has decided. [`http2`] finds each stream's authority; `worker/http2.rs` lets those pass
//! that may go where the connection goes, and `worker/streams.rs` answers the others.
//!
//! **Ended.** `worker/ending.rs` meets FIN, reset and death. Every end has one
//! [`metrics::CloseReason`]. `worker/close.rs` accounts it once, tells the side that lives (a reset
//! stays a reset), and closes when nothing is in flight. Time, too, ends connections:
//! `worker/sweep.rs` looks at each of them now and then instead of keeping timers.
//!
//! **Told.** If the operator wants it, each HTTP/1 request and every other connection leaves one
//! line in the [`access_log`]: the worker queues a record, a thread of its own writes it.
//! A request's line is read from its head by `worker/line.rs`.
//!
//! **Seen from outside.** The [`control`] plane serves scrapes, health probes and the admin
//! pages, takes signals, asks DNS for the addresses of the registry's names, and makes changed
//! files and addresses into the next snapshot. It reaches a worker by what both may read, by its
//! [`mailbox`], and by the [`drain`] switch that ends the process (`worker/stop.rs` is the worker's
//! end of both). [`check`] answers the same questions without a running proxy: `egret check` and
//! `egret explain`.
//!
//! A module imports from lower layers and its own; `ARCHITECTURE.md` has the table.
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
