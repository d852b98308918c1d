//! What DNS has said to one question: the addresses of one family, if there are any that may be
//! used.

use std::net::IpAddr;
use std::time::Duration;

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
    /// Without IPv4 addresses in AAAA records: what they mean is told by A records (RFC 4291
    /// 2.5.5.2 is no wire format of DNS). Where an address may lead is asked when it is connected
    /// to ([`crate::upstream_guard`]).
    pub(in crate::control::dns) fn of_family(self, family: Family) -> Self {
        let Self::Addresses(mut addresses, ttl) = self else { return self };
        let is_plain = |ip: &IpAddr| Family::of(ip.to_canonical()) == family;
        addresses.retain(is_plain);
        match addresses.is_empty() {
            true => Self::Absent("no address of its family"),
            false => Self::Addresses(addresses, ttl),
        }
    }
}
