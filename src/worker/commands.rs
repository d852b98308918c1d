//! The worker's end of its command channel: what the control plane asks.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::commands::{CONNECTIONS_PER_PAGE, Command, ConnectionInfo, ConnectionPage};
use crate::relay::Side;
use crate::sys::kernel::Kernel;
use crate::worker::Worker;
use crate::worker::connection::{Connection, Event};
use crate::worker::token::{Key, Target};

impl<K: Kernel> Worker<K> {
    /// The control plane has sent commands.
    pub(super) fn on_commands(&mut self) {
        self.cx.kernel.clear_waker(&self.waker);
        while let Ok(command) = self.inbox.try_recv() {
            match command {
                Command::Connections { from, reply } => {
                    // The asker may have gone away.
                    let _ = reply.send(self.page_of_connections(from));
                }
                Command::Close { filter, from, reply } => {
                    let _ = reply.send(self.close_some(from, &filter));
                }
                Command::Resolved { name, connection, found } => {
                    self.with(Key::from_bits(connection), Event::Resolved { name, found });
                }
                // The turn that this ends looks at the switch.
                Command::Drain => {}
                Command::SignOfLife { question, answer } => {
                    answer.store(question, Ordering::Relaxed);
                }
                Command::Hang => loop {
                    std::thread::park();
                },
                Command::Panic => panic!("asked to panic by the debug endpoint"),
            }
        }
        self.cx.kernel.poll_waker(&self.waker, Target::Commands.encode());
    }

    fn page_of_connections(&self, from: usize) -> ConnectionPage {
        let mut connections = Vec::new();
        for (slot, connection) in self.connections.iter().filter(|(slot, _)| *slot >= from) {
            if connections.len() == CONNECTIONS_PER_PAGE {
                return ConnectionPage { connections, next: Some(slot) };
            }
            connections.push(self.describe(connection));
        }
        ConnectionPage { connections, next: None }
    }

    fn describe(&self, connection: &Connection<K>) -> ConnectionInfo {
        let age = self.cx.now.saturating_sub(connection.accepted_at);
        ConnectionInfo {
            worker: self.id,
            downstream: connection.source,
            original_destination: connection.original_destination,
            cluster: connection.cluster_name(&self.cx).to_owned(),
            phase: connection.phase_name(),
            age: Duration::from_micros(age),
            received_bytes: connection.directions[Side::Downstream as usize].bytes,
            sent_bytes: connection.directions[Side::Upstream as usize].written,
        }
    }
}
