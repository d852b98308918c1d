//! What DNS has said to one question: the addresses of one family, if there are any that may be
//! used.

use std::net::IpAddr;
use std::time::Duration;

use crate::control::LoopbackAnswers;

/// The reply to the question for the addresses of one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::control::dns) enum Reply {
    /// Addresses, and how long they hold.
    Addresses(Vec<IpAddr>, Duration),
    /// There are none; why.
    Absent(&'static str),
    /// Nobody answered, or nobody with an answer.
    Failed(String),
}

/// Which of the two questions about a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::control::dns) enum Family {
    /// For A records.
    V4,
    /// For AAAA records.
    V6,
}

impl Family {
    pub(in crate::control::dns) const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    pub(in crate::control::dns) fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// The records that have its addresses.
    pub(in crate::control::dns) fn record(self) -> &'static str {
        match self {
            Self::V4 => "A",
            Self::V6 => "AAAA",
        }
    }
}

impl Reply {
    /// Without the addresses that Egret must not connect to. IPv4 addresses in AAAA records are
    /// among them: what they mean is told by A records (RFC 4291 2.5.5.2 is no wire format of DNS).
    pub(super) fn usable(self, family: Family, loopback: LoopbackAnswers) -> Self {
        let Self::Addresses(mut addresses, ttl) = self else { return self };
        let is_plain = |ip: &IpAddr| Family::of(ip.to_canonical()) == family;
        addresses.retain(|ip| is_plain(ip) && is_usable(*ip, loopback));
        match addresses.is_empty() {
            true => Self::Absent("no address that a workload may be led to"),
            false => Self::Addresses(addresses, ttl),
        }
    }
}

/// Whether connections on behalf of workloads may go to what a name's owner says. Not where only
/// this node's own processes can go: to its loopback servers (Linux takes the unspecified address
/// for loopback, too, and filtering resolvers answer with it) and to link-local ones, the clouds'
/// metadata service among them. The redirect rules leave both alone for the same reason.
fn is_usable(ip: IpAddr, loopback: LoopbackAnswers) -> bool {
    match ip.to_canonical() {
        ip if ip.is_loopback() => loopback == LoopbackAnswers::Accepted,
        ip if ip.is_unspecified() || ip.is_multicast() => false,
        IpAddr::V4(v4) => !(v4.is_link_local() || v4.is_broadcast()),
        IpAddr::V6(v6) => !v6.is_unicast_link_local(),
    }
}
