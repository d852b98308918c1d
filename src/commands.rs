//! The control plane's way to ask a worker something, without sharing its connections.
//!
//! A command is queued, the worker is woken through its eventfd and answers between two loop turns.
//! Nothing on the data path waits: the queue is unbounded, but only the control plane, which waits
//! for each answer or gives one for each question of a worker, and the watchdog write to it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use crate::questions::Found;
use crate::sniff::Name;
use crate::sys::waker::Waker;

/// What the control plane may ask.
#[derive(Debug)]
pub enum Command {
    /// Up to [`CONNECTIONS_PER_PAGE`] connections, from slot `from` on.
    Connections {
        /// The slot to begin with: 0, then [`ConnectionPage::next`].
        from: usize,
        /// Where the answer goes.
        reply: tokio::sync::oneshot::Sender<ConnectionPage>,
    },
    /// The answer to a [`Question`](crate::questions::Question).
    Resolved {
        /// The name that was asked for.
        name: Name,
        /// The connection that waits.
        connection: u64,
        /// What was found.
        found: Found,
    },
    /// Look at the drain switch.
    Drain,
    /// Show that turns go on, by this number.
    SignOfLife {
        /// The number of the question.
        question: u64,
        /// Where the number goes.
        answer: Arc<AtomicU64>,
    },
    /// End the worker by a panic (debug trigger for tests of the supervision).
    Panic,
    /// Never end the turn (the same).
    Hang,
}

/// Connections in one answer: bounds how long a worker is busy with it (about 50 microseconds).
pub const CONNECTIONS_PER_PAGE: usize = 256;

/// A part of a worker's connections.
#[derive(Debug, Default)]
pub struct ConnectionPage {
    /// The connections, in slot order.
    pub connections: Vec<ConnectionInfo>,
    /// The slot to go on from; `None` at the end.
    pub next: Option<usize>,
}

/// One live connection, as the admin server shows it.
#[derive(Debug, Clone, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionInfo {
    /// Which worker relays it.
    pub worker: usize,
    /// The workload's address.
    pub downstream: SocketAddr,
    /// Where the workload meant to go.
    pub original_destination: SocketAddr,
    /// `destination_service_name`.
    pub cluster: String,
    /// `waiting`, `recognising`, `resolving`, `connecting`, `relaying`, `retiring`, `answering`,
    /// `lingering`, `resetting` or `closing`.
    pub phase: &'static str,
    /// Since the accept.
    #[serde(with = "crate::commands::millis")]
    pub age: Duration,
    /// Bytes read from the downstream.
    pub received_bytes: u64,
    /// Bytes written to the downstream.
    pub sent_bytes: u64,
}

/// A duration as whole milliseconds.
pub(crate) mod millis {
    pub(crate) fn serialize<S: serde::Serializer>(
        value: &std::time::Duration,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(value.as_millis()).unwrap_or(u64::MAX))
    }
}

/// The control plane's end.
#[derive(Debug, Clone)]
pub struct CommandSender {
    sender: Sender<Command>,
    waker: Waker,
}

impl CommandSender {
    /// A channel that wakes its worker through `waker`, and the end that the worker reads.
    #[must_use]
    pub fn new(waker: Waker) -> (Self, Receiver<Command>) {
        let (sender, receiver) = channel();
        (Self { sender, waker }, receiver)
    }

    /// Queues `command` and wakes the worker; returns whether there is one. A worker that has ended
    /// drops it.
    pub fn send(&self, command: Command) -> bool {
        let is_queued = self.sender.send(command).is_ok();
        if is_queued {
            self.waker.wake();
        }
        is_queued
    }
}
