//! The control plane's way to ask a worker something, without sharing its connections.
//!
//! A command is queued, the worker is woken through its eventfd and answers between two loop turns.
//! Nothing on the data path waits: the queue is unbounded, but only the control plane, which waits
//! for each answer or gives one for each question of a worker, and the watchdog write to it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use ipnet::IpNet;

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
    /// Reset the connections that `filter` means, of a bounded number from slot `from` on.
    Close {
        /// Which ones.
        filter: Arc<ConnectionFilter>,
        /// The slot to begin with: 0, then [`ClosedPage::next`].
        from: usize,
        /// Where the answer goes.
        reply: tokio::sync::oneshot::Sender<ClosedPage>,
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

/// What has come of [`Command::Close`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClosedPage {
    /// Connections that were reset.
    pub closed: u64,
    /// The slot to go on from; `None` at the end.
    pub next: Option<usize>,
}

/// Some of the connections: those that have everything which is set here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConnectionFilter {
    /// The workload's address is in this prefix.
    pub source: Option<IpNet>,
    /// The original destination's address is in this prefix.
    pub destination: Option<IpNet>,
    /// The original destination has this port.
    pub port: Option<u16>,
    /// `destination_service_name`.
    pub service: Option<Box<str>>,
    /// The name that it has shown last.
    pub name: Option<Name>,
}

impl ConnectionFilter {
    /// Whether it takes a connection from the first to the second of `ends`, which is accounted to
    /// `service` and has shown this name.
    #[must_use]
    pub fn takes(&self, ends: (SocketAddr, SocketAddr), service: &str, name: Option<&str>) -> bool {
        let (source, destination) = ends;
        let holds = |prefix: &IpNet, address: IpAddr| prefix.contains(&address.to_canonical());
        self.source.as_ref().is_none_or(|prefix| holds(prefix, source.ip()))
            && self.destination.as_ref().is_none_or(|prefix| holds(prefix, destination.ip()))
            && self.port.is_none_or(|port| port == destination.port())
            && self.service.as_ref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(service))
            && self.name.as_ref().is_none_or(|wanted| name == Some(wanted.as_str()))
    }
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
