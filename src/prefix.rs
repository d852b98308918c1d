//! IP prefixes: one written form for each, and the longest one that holds an address.
//!
//! Used for the addresses of service entries and of workloads. IPv4 addresses written as IPv6
//! (`::ffff:192.0.2.1`) are IPv4 here, on both sides of a comparison. It does not know ports.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;

use crate::diagnostics::Finding;
use crate::yaml::{Node, values};

/// A value per prefix, found by the longest prefix that holds an address.
#[derive(Debug, Clone)]
pub(crate) struct Prefixes<T> {
    v4: PrefixMap<Ipv4Net, T>,
    v6: PrefixMap<Ipv6Net, T>,
}

impl<T> Default for Prefixes<T> {
    fn default() -> Self {
        Self { v4: PrefixMap::new(), v6: PrefixMap::new() }
    }
}

impl<T> Prefixes<T> {
    /// The value of exactly `prefix`.
    #[must_use]
    pub(crate) fn get(&self, prefix: &IpNet) -> Option<&T> {
        match prefix {
            IpNet::V4(prefix) => self.v4.get(prefix),
            IpNet::V6(prefix) => self.v6.get(prefix),
        }
    }

    /// The value of exactly `prefix`, for a change; made if there is none. `prefix` must be in the
    /// form that [`canonical`] gives.
    pub(crate) fn entry(&mut self, prefix: IpNet) -> &mut T
    where
        T: Default,
    {
        match prefix {
            IpNet::V4(prefix) => self.v4.entry(prefix).or_default(),
            IpNet::V6(prefix) => self.v6.entry(prefix).or_default(),
        }
    }

    /// Sets the value of `prefix`, which must be in the form that [`canonical`] gives.
    pub(crate) fn insert(&mut self, prefix: IpNet, value: T) {
        match prefix {
            IpNet::V4(prefix) => self.v4.insert(prefix, value),
            IpNet::V6(prefix) => self.v6.insert(prefix, value),
        };
    }

    /// The longest prefix that holds `address`, and its value. `address` must be canonical
    /// ([`IpAddr::to_canonical`]).
    #[must_use]
    pub(crate) fn longest(&self, address: IpAddr) -> Option<(IpNet, &T)> {
        match address {
            IpAddr::V4(address) => {
                self.v4.get_lpm(&address.into()).map(|(prefix, value)| (prefix.into(), value))
            }
            IpAddr::V6(address) => {
                self.v6.get_lpm(&address.into()).map(|(prefix, value)| (prefix.into(), value))
            }
        }
    }

    /// What `pick` makes of the longest prefix that holds `address` and of which it makes anything.
    /// `address` must be canonical.
    #[must_use]
    pub(crate) fn longest_that<R>(
        &self,
        address: IpAddr,
        pick: impl Fn(IpNet, &T) -> Option<R>,
    ) -> Option<R> {
        let (longest, value) = self.longest(address)?;
        if let Some(picked) = pick(longest, value) {
            return Some(picked);
        }
        // Rare: the shorter ones are met before the longer ones.
        match address {
            IpAddr::V4(address) => {
                self.v4.cover(&address.into()).filter_map(|(p, v)| pick(p.into(), v)).last()
            }
            IpAddr::V6(address) => {
                self.v6.cover(&address.into()).filter_map(|(p, v)| pick(p.into(), v)).last()
            }
        }
    }
}

/// The one written form of a prefix: host bits zero, IPv4-mapped IPv6 as IPv4.
#[must_use]
pub(crate) fn canonical(prefix: IpNet) -> IpNet {
    /// `::ffff:0:0/96` holds the mapped addresses.
    const MAPPED_BITS: u8 = 96;
    let prefix = prefix.trunc();
    let mapped = prefix.prefix_len().checked_sub(MAPPED_BITS);
    match (prefix.addr().to_canonical(), prefix, mapped) {
        (IpAddr::V4(address), IpNet::V6(_), Some(length)) => {
            Ipv4Net::new(address, length).map_or(prefix, IpNet::V4)
        }
        _ => prefix,
    }
}

/// Whether `prefix` is a single address (`/32`, `/128`).
#[must_use]
pub(crate) fn is_single(prefix: &IpNet) -> bool {
    prefix.prefix_len() == prefix.max_prefix_len()
}

/// As people write it: a single address without `/32`.
#[must_use]
pub(crate) fn display(prefix: &IpNet) -> String {
    if is_single(prefix) { prefix.addr().to_string() } else { prefix.to_string() }
}

/// Reads an address or a prefix.
///
/// # Errors
/// When the node is anything else.
pub(crate) fn parse(node: &Node<'_>) -> Result<IpNet, Finding> {
    let text = values::text(node)?;
    from_text(text).ok_or_else(|| {
        let message = format!("`{}` is not an IP address or CIDR", values::shortened(text));
        Finding::at(node.line, message).fix("write it as 192.0.2.1, 192.0.2.0/24 or 2001:db8::/32")
    })
}

/// The prefix, or single address, that `text` spells.
pub(crate) fn from_text(text: &str) -> Option<IpNet> {
    let prefix = match text.parse::<IpAddr>() {
        Ok(address) => Some(IpNet::from(address)),
        Err(_) => text.parse().ok(),
    };
    prefix.map(canonical)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        canonical(text.parse().unwrap())
    }

    #[test]
    fn host_bits_and_mapped_addresses_have_one_form() {
        assert_eq!(net("10.1.2.3/8"), net("10.0.0.0/8"));
        assert_eq!(net("::ffff:10.0.0.0/104"), net("10.0.0.0/8"));
        assert_eq!(net("::ffff:10.0.0.1/128"), net("10.0.0.1/32"));
        assert_eq!(net("::/0").to_string(), "::/0");
        assert_eq!(display(&net("2001:db8::1/128")), "2001:db8::1");
    }

    #[test]
    fn the_longest_prefix_wins_in_each_family() {
        let mut prefixes = Prefixes::default();
        for text in ["0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "::/0", "2001:db8::/32"] {
            prefixes.insert(net(text), text);
        }
        let longest = |address: &str| *prefixes.longest(address.parse().unwrap()).unwrap().1;
        assert_eq!(longest("10.1.9.9"), "10.1.0.0/16");
        assert_eq!(longest("10.2.9.9"), "10.0.0.0/8");
        assert_eq!(longest("192.0.2.1"), "0.0.0.0/0");
        assert_eq!(longest("2001:db8::1"), "2001:db8::/32");
        assert_eq!(longest("2001:db9::1"), "::/0");
    }
}
