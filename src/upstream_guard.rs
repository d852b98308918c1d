//! Where Egret may connect: one question, asked before every connect(2).
//!
//! Netfilter has seen the destination that stood in the packet. What is connected to may be another
//! address: an endpoint of an entry, a DNS answer, or the same address as another notation leads
//! it (`::ffff:127.0.0.1`, `0.0.0.0`). On behalf of a workload Egret reaches neither this host nor
//! what only this host may ask, unless `upstream.allow` lists the address; and never its own ports.
//!
//! Pure. The self-call guard of [`crate::admission`] takes from here what this host's addresses
//! are; it judges what comes in, this module what goes out.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use strum::{EnumCount, IntoStaticStr, VariantArray};

use crate::config::{PrivateAddresses, Upstream};

/// What leads to an upstream address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LedBy {
    /// The workload: it is the original destination.
    Workload,
    /// A file: a service entry lists it as an endpoint.
    File,
    /// DNS: a name of a service entry has resolved to it.
    Dns,
}

/// Why an address is not connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EnumCount, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum Refused {
    /// `0.0.0.0/8` and `::`, which Linux takes for this host.
    Unspecified,
    /// `127.0.0.0/8`, `::1`.
    Loopback,
    /// `169.254.0.0/16`, `fe80::/10`: what answers there trusts its neighbours.
    LinkLocal,
    /// `224.0.0.0/4`, `ff00::/8`.
    Multicast,
    /// `255.255.255.255`.
    Broadcast,
    /// A metadata service of a cloud, which answers with this host's credentials.
    Metadata,
    /// An address of this host.
    OwnAddress,
    /// A port of Egret on an address of this host.
    OwnPort,
    /// A private address that DNS gave, and `upstream.privateAddresses` is `block`.
    Private,
}

impl Refused {
    /// As it stands in the `why` label and in the log.
    #[must_use]
    pub fn label(self) -> &'static str {
        self.into()
    }
}

/// What an address may be connected to as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permitted {
    /// Nothing speaks against it.
    Plainly,
    /// A private address that DNS gave: worth counting.
    PrivateFromDns,
}

/// What the configuration says about it.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    /// `upstream.allow`, in the form that [`crate::prefix::canonical`] gives.
    pub allow: &'a [IpNet],
    /// `upstream.privateAddresses`.
    pub private_addresses: PrivateAddresses,
}

impl<'a> From<&'a Upstream> for Rules<'a> {
    fn from(upstream: &'a Upstream) -> Self {
        Self { allow: &upstream.allow, private_addresses: upstream.private_addresses }
    }
}

/// The host that Egret runs on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ThisHost {
    addresses: HashSet<IpAddr, foldhash::fast::RandomState>,
    egret_ports: Vec<u16>,
}

impl ThisHost {
    /// A host with these addresses on its interfaces, on which Egret listens on these ports.
    #[must_use]
    pub fn new(addresses: impl IntoIterator<Item = IpAddr>, egret_ports: Vec<u16>) -> Self {
        let addresses = addresses.into_iter().map(|ip| ip.to_canonical()).collect();
        Self { addresses, egret_ports }
    }

    /// The same ports on other addresses.
    #[must_use]
    pub fn with_addresses(&self, addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        Self::new(addresses, self.egret_ports.clone())
    }

    /// `ip` belongs to this host.
    #[must_use]
    pub fn is_own(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        ip.is_loopback() || ip.is_unspecified() || self.addresses.contains(&ip)
    }

    /// Egret itself listens there.
    #[must_use]
    pub fn is_egret(&self, address: SocketAddr) -> bool {
        self.egret_ports.contains(&address.port()) && self.is_own(address.ip())
    }
}

/// Whether Egret may connect to `address`, which `led_by` leads to.
///
/// # Errors
/// Why it may not.
pub fn check(
    address: SocketAddr,
    led_by: LedBy,
    rules: Rules<'_>,
    host: &ThisHost,
) -> Result<Permitted, Refused> {
    let ip = address.ip().to_canonical();
    if host.is_egret(address) {
        return Err(Refused::OwnPort);
    }
    let is_listed = || rules.allow.iter().any(|prefix| prefix.contains(&ip));
    match never(ip).or_else(|| own(ip, host)) {
        Some(why) if !is_listed() => return Err(why),
        _ => {}
    }
    if led_by != LedBy::Dns || !is_private(ip) {
        return Ok(Permitted::Plainly);
    }
    match rules.private_addresses {
        PrivateAddresses::Allow => Ok(Permitted::PrivateFromDns),
        PrivateAddresses::Block if is_listed() => Ok(Permitted::PrivateFromDns),
        PrivateAddresses::Block => Err(Refused::Private),
    }
}

/// Why no host connects to `ip` on behalf of a workload, whichever host it is.
#[must_use]
pub fn never(ip: IpAddr) -> Option<Refused> {
    let ip = ip.to_canonical();
    ranges(ip).or_else(|| embedded(ip).find_map(|v4| ranges(v4.into())))
}

/// Why no address of `prefix` is connected to, whichever host this is.
#[must_use]
pub fn leads_nowhere(prefix: &IpNet, rules: Rules<'_>) -> Option<Refused> {
    // Each range that is refused is contiguous: what holds at both ends holds between them.
    let why = never(prefix.network()).filter(|why| never(prefix.broadcast()) == Some(*why))?;
    let meets = |listed: &IpNet| listed.contains(prefix) || prefix.contains(listed);
    (!rules.allow.iter().any(meets)).then_some(why)
}

fn own(ip: IpAddr, host: &ThisHost) -> Option<Refused> {
    let is_own = host.is_own(ip) || embedded(ip).any(|v4| host.is_own(v4.into()));
    is_own.then_some(Refused::OwnAddress)
}

fn ranges(ip: IpAddr) -> Option<Refused> {
    match ip {
        IpAddr::V4(v4) => ranges_v4(v4),
        IpAddr::V6(v6) => ranges_v6(v6),
    }
}

fn ranges_v4(ip: Ipv4Addr) -> Option<Refused> {
    match ip.octets() {
        // RFC 1122 3.2.1.3: "this host on this network". Linux delivers only 0.0.0.0 to itself.
        [0, ..] => Some(Refused::Unspecified),
        [127, ..] => Some(Refused::Loopback),
        [169, 254, ..] => Some(Refused::LinkLocal),
        [224..=239, ..] => Some(Refused::Multicast),
        [255, 255, 255, 255] => Some(Refused::Broadcast),
        _ => METADATA_V4.contains(&ip).then_some(Refused::Metadata),
    }
}

fn ranges_v6(ip: Ipv6Addr) -> Option<Refused> {
    match ip.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => Some(Refused::Unspecified),
        [0, 0, 0, 0, 0, 0, 0, 1] => Some(Refused::Loopback),
        [0xfe80..=0xfebf, ..] => Some(Refused::LinkLocal),
        [0xff00..=0xffff, ..] => Some(Refused::Multicast),
        _ => METADATA_V6.contains(&ip).then_some(Refused::Metadata),
    }
}

/// RFC 1918, RFC 6598 (shared address space) and RFC 4193 (unique local), also as IPv6 leads them.
fn is_private(ip: IpAddr) -> bool {
    let v4_is_private = |v4: Ipv4Addr| {
        v4.is_private() || (v4.octets()[0] == 100 && v4.octets()[1] & 0b1100_0000 == 64)
    };
    match ip {
        IpAddr::V4(v4) => v4_is_private(v4),
        IpAddr::V6(v6) => v6.is_unique_local() || embedded(ip).any(v4_is_private),
    }
}

/// Where clouds serve a host's metadata and credentials outside the link-local ranges, which are
/// refused as a whole (`169.254.169.254` of most clouds, `169.254.170.2` and `.23` of ECS and EKS).
const METADATA_V4: [Ipv4Addr; 3] = [
    // Azure's WireServer and DNS: Microsoft, "What is IP address 168.63.129.16?".
    Ipv4Addr::new(168, 63, 129, 16),
    // Alibaba Cloud ECS, "View instance metadata".
    Ipv4Addr::new(100, 100, 100, 200),
    // Oracle Cloud Infrastructure Classic, "Retrieving instance metadata".
    Ipv4Addr::new(192, 0, 0, 192),
];

/// The same of IPv6.
const METADATA_V6: [Ipv6Addr; 6] = [
    // AWS EC2, "Use the Instance Metadata Service", and EKS, "EKS Pod Identity considerations".
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23),
    // Google Compute Engine, "About VM metadata".
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
    // Oracle Cloud Infrastructure, "Getting instance metadata".
    Ipv6Addr::new(0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe),
    // Akamai (Linode), "Overview of the Metadata service".
    Ipv6Addr::new(0xfd00, 0xa9fe, 0xa9fe, 0, 0, 0, 0, 1),
    // Scaleway, "Use the instance metadata API".
    Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42),
];

/// The IPv4 addresses that a translator or a tunnel takes an IPv6 address for.
fn embedded(ip: IpAddr) -> impl Iterator<Item = Ipv4Addr> {
    let found = match ip {
        IpAddr::V4(_) => [None; EMBEDDED_MAX],
        IpAddr::V6(v6) => embedded_v4(v6),
    };
    found.into_iter().flatten()
}

const EMBEDDED_MAX: usize = 4;

fn embedded_v4(ip: Ipv6Addr) -> [Option<Ipv4Addr>; EMBEDDED_MAX] {
    let bits = ip.to_bits();
    // The 32 bits that end so many bits before the address' own end.
    #[expect(clippy::cast_possible_truncation, reason = "32 bits are what is wanted")]
    let at = |from_end: u32| Ipv4Addr::from_bits((bits >> from_end) as u32);
    let last = at(0);
    match ip.segments() {
        // No tunnel: these two are what they are.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => [None; EMBEDDED_MAX],
        // RFC 4291 2.5.5.1: IPv4-compatible. RFC 2765 2.1: IPv4-translated. RFC 6052: NAT64.
        [0, 0, 0, 0, 0, 0, ..] | [0, 0, 0, 0, 0xffff, 0, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => {
            [Some(last), None, None, None]
        }
        // RFC 8215: NAT64 of a network's own, with a prefix of any length that RFC 6052 knows.
        [0x64, 0xff9b, 1, ..] => local_nat64(bits),
        // RFC 3056: 6to4.
        [0x2002, ..] => [Some(at(80)), None, None, None],
        // RFC 4380: Teredo, the server and the client, whose bits are turned.
        [0x2001, 0, ..] => [Some(at(64)), Some(Ipv4Addr::from_bits(!last.to_bits())), None, None],
        // RFC 5214: ISATAP, below any prefix.
        [_, _, _, _, 0 | 0x200, 0x5efe, ..] => [Some(last), None, None, None],
        _ => [None; EMBEDDED_MAX],
    }
}

/// The readings of an address in `64:ff9b:1::/48` (RFC 6052 2.2: prefixes of 48, 56, 64 and 96
/// bits; bits 64 to 71 are skipped, and what is behind the IPv4 address is zero). A reading in
/// `0.0.0.0/8` counts only if there is no other: it is where a longer one has its prefix.
fn local_nat64(bits: u128) -> [Option<Ipv4Addr>; EMBEDDED_MAX] {
    let octets = bits.to_be_bytes();
    let reading = |places: [usize; 4]| {
        let behind = &octets[places[3] + 1..];
        let v4 = Ipv4Addr::from(places.map(|place| octets[place]));
        behind.iter().all(|octet| *octet == 0).then_some(v4)
    };
    let readings = [[6, 7, 9, 10], [7, 9, 10, 11], [9, 10, 11, 12], [12, 13, 14, 15]].map(reading);
    let found = readings.map(|v4| v4.filter(|v4| v4.octets()[0] != 0));
    if found.iter().any(Option::is_some) { found } else { readings }
}

#[cfg(test)]
mod tests;
