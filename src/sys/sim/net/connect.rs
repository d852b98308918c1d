//! How two ends come to be one connection.

use std::collections::VecDeque;
use std::net::SocketAddr;

use super::{Backlog, Connecting, End, EndId, Event, Fin, Link, ListenerId, Net, Outcome, Owner};
use crate::sys::kernel::Errno;

impl Net {
    /// A listener of the worker.
    pub fn add_listener(&mut self) -> ListenerId {
        self.backlogs.push(Backlog::default());
        ListenerId(self.backlogs.len() - 1)
    }

    /// What connects to `address` meet from now on.
    pub fn serve(&mut self, address: SocketAddr, outcome: Outcome, link: Link) {
        self.servers.insert(address, (outcome, link));
    }

    /// A client's connection to the worker; `None`: refused.
    pub fn connect(
        &mut self,
        listener: ListenerId,
        from: SocketAddr,
        meant: Option<SocketAddr>,
        link: Link,
    ) -> Option<EndId> {
        let backlog = &self.backlogs[listener.0];
        if backlog.refuses || backlog.is_closed {
            return None;
        }
        let door = SocketAddr::new(self.worker_address, 15001);
        let client = self.add_end(Owner::Outside, from, door, link);
        let accepted = self.add_end(Owner::Worker, meant.unwrap_or(door), from, link);
        self.join(client, accepted);
        self.ends[accepted.0].meant = meant;
        self.ends[accepted.0].has_descriptor = false;
        self.backlogs[listener.0].queued.push_back(accepted);
        Some(client)
    }

    /// The next connection that a server has accepted, and its address.
    pub fn take_arrival(&mut self) -> Option<(SocketAddr, EndId)> {
        self.arrivals.pop_front()
    }

    pub(super) fn add_end(
        &mut self,
        owner: Owner,
        local: SocketAddr,
        remote: SocketAddr,
        link: Link,
    ) -> EndId {
        self.ends.push(End {
            owner,
            local,
            remote,
            peer: None,
            meant: None,
            link,
            is_connected: false,
            received: VecDeque::new(),
            sending: VecDeque::new(),
            unacknowledged: 0,
            fin: Fin::No,
            peer_fin: false,
            error: None,
            is_dead: false,
            has_descriptor: true,
            has_port: false,
            resets_on_close: false,
            is_delivering: false,
        });
        EndId(self.ends.len() - 1)
    }

    pub(super) fn join(&mut self, one: EndId, other: EndId) {
        for (id, peer) in [(one, other), (other, one)] {
            let end = &mut self.ends[id.0];
            (end.peer, end.is_connected) = (Some(peer), true);
        }
    }

    pub(super) fn take_descriptor(&mut self) -> Result<(), Errno> {
        if self.descriptors >= self.descriptors_max {
            return Err(Errno::EMFILE);
        }
        self.descriptors += 1;
        Ok(())
    }

    pub(in crate::sys::sim) fn open(&mut self, address: &SocketAddr) -> Result<EndId, Errno> {
        self.take_descriptor()?;
        let unbound = SocketAddr::new(self.worker_address, 0);
        let link = Link { delay_us: 0, jitter_us: 0, send_bytes: 1, receive_bytes: 1 };
        Ok(self.add_end(Owner::Worker, unbound, *address, link))
    }

    pub(in crate::sys::sim) fn begin_connect(&mut self, id: EndId, address: SocketAddr) {
        if self.ports >= self.ports_max {
            let error = Connecting::Done(Err(Errno::EADDRNOTAVAIL));
            self.connects.insert(id, error);
            return;
        }
        self.ports += 1;
        self.ends[id.0].has_port = true;
        self.ends[id.0].local = SocketAddr::new(self.worker_address, self.next_port());
        self.connects.insert(id, Connecting::Waits);
        let Some(&(outcome, link)) = self.servers.get(&address) else {
            return self.schedule(0, Event::Fail(id, Errno::ECONNREFUSED as i32));
        };
        self.ends[id.0].link = link;
        let round_trip = self.travel(id) + self.travel(id);
        match outcome {
            Outcome::Accepted => self.schedule(round_trip, Event::Connect(id, address)),
            Outcome::Fails(errno, after) => self.schedule(after, Event::Fail(id, errno as i32)),
            Outcome::SeemsAccepted => self.schedule(round_trip, Event::SeemsConnected(id)),
        }
    }

    fn next_port(&mut self) -> u16 {
        self.port =
            if self.port < 32_768 || self.port == u16::MAX { 32_768 } else { self.port + 1 };
        self.port
    }

    pub(super) fn arrive(&mut self, id: EndId, address: SocketAddr) {
        let end = &self.ends[id.0];
        if !end.has_descriptor {
            return;
        }
        let (local, link) = (end.local, end.link);
        let server = self.add_end(Owner::Outside, address, local, link);
        self.join(id, server);
        self.connects.insert(id, Connecting::Done(Ok(())));
        self.arrivals.push_back((address, server));
    }

    pub(in crate::sys::sim) fn connected(&mut self, id: EndId) -> Option<Result<(), Errno>> {
        match self.connects.get(&id)? {
            Connecting::Waits => None,
            Connecting::Done(result) => {
                let result = *result;
                self.connects.remove(&id);
                Some(result)
            }
        }
    }
}
