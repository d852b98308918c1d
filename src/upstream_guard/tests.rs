//! Every spelling of every address that must not be reached, and what may be.

use proptest::prelude::*;

use super::Refused::*;
use super::*;
use crate::prefix;

/// 192.0.2.1 and 2001:db8::1 are its interfaces', 15000 is Egret's.
fn host() -> ThisHost {
    let addresses = ["192.0.2.1", "2001:db8::1"].map(|ip| ip.parse().unwrap());
    ThisHost::new(addresses, vec![15000])
}

fn rules(allow: &[IpNet]) -> Rules<'_> {
    Rules { allow, private_addresses: PrivateAddresses::Allow }
}

fn allow(prefixes: &[&str]) -> Vec<IpNet> {
    let parse = |text: &&str| match text.parse::<IpAddr>() {
        Ok(ip) => IpNet::from(ip),
        Err(_) => text.parse().unwrap(),
    };
    prefixes.iter().map(parse).map(prefix::canonical).collect()
}

/// The address on port 80; one with a zone is written as in a socket address.
fn address(text: &str) -> SocketAddr {
    match text.parse() {
        Ok(ip) => SocketAddr::new(ip, 80),
        Err(_) => format!("[{text}]:80").parse().unwrap(),
    }
}

fn checked(text: &str) -> Result<Permitted, Refused> {
    check(address(text), LedBy::File, rules(&[]), &host())
}

#[test]
fn no_spelling_of_a_forbidden_address_is_connected_to() {
    let table: &[(Refused, &[&str])] = &[
        (Unspecified, &["0.0.0.0", "0.0.0.1", "0.255.255.255", "::", "::ffff:0.0.0.0"]),
        (Unspecified, &["::2", "64:ff9b::", "64:ff9b:1::", "2002::", "::ffff:0:0.0.0.0"]),
        (Loopback, &["127.0.0.1", "127.0.0.2", "127.255.255.255", "::1", "::ffff:127.0.0.1"]),
        (LinkLocal, &["169.254.169.254", "169.254.0.1", "::ffff:169.254.170.2"]),
        (LinkLocal, &["fe80::1", "fe80::1%1", "fe80::a9fe:a9fe", "febf:ffff::1"]),
        (Multicast, &["224.0.0.1", "239.255.255.255", "ff02::1", "ff02::1%2", "ff0e::1"]),
        (Broadcast, &["255.255.255.255", "::ffff:255.255.255.255"]),
        (Metadata, &["168.63.129.16", "100.100.100.200", "192.0.0.192"]),
        (Metadata, &["::ffff:168.63.129.16", "::ffff:6464:64c8"]),
        (Metadata, &["fd00:ec2::254", "fd00:ec2::254%3", "fd00:ec2::23", "fd20:ce::254"]),
        (Metadata, &["fd00:c1::a9fe:a9fe", "fd00:a9fe:a9fe::1", "fd00:42::42"]),
        (OwnAddress, &["192.0.2.1", "::ffff:192.0.2.1", "2001:db8::1", "2001:db8::1%1"]),
    ];
    for (why, spellings) in table {
        for spelling in *spellings {
            assert_eq!(checked(spelling), Err(*why), "{spelling}");
        }
    }
}

/// All the ways by which IPv6 leads to an IPv4 address.
fn carried_by_v6(v4: Ipv4Addr) -> Vec<(&'static str, Ipv6Addr)> {
    let (bits, [a, b, c, d]) = (u128::from(v4.to_bits()), v4.octets());
    let below = |prefix: &str| prefix.parse::<Ipv6Addr>().unwrap().to_bits();
    let octets = |places: [u8; 10]| {
        let mut all = [0; 16];
        all[..6].copy_from_slice(&[0, 0x64, 0xff, 0x9b, 0, 1]);
        all[6..].copy_from_slice(&places);
        Ipv6Addr::from(all)
    };
    let at = |prefix: &str| Ipv6Addr::from_bits(below(prefix) | bits);
    vec![
        ("mapped", at("::ffff:0:0")),
        ("compatible", at("::")),
        ("translated", at("::ffff:0:0:0")),
        ("NAT64", at("64:ff9b::")),
        ("local NAT64 /48", octets([a, b, 0, c, d, 0, 0, 0, 0, 0])),
        ("local NAT64 /56", octets([7, a, 0, b, c, d, 0, 0, 0, 0])),
        ("local NAT64 /64", octets([7, 7, 0, a, b, c, d, 0, 0, 0])),
        ("local NAT64 /96", octets([7, 7, 0, 7, 7, 7, a, b, c, d])),
        ("6to4", Ipv6Addr::from_bits(below("2002::7") | bits << 80)),
        ("Teredo server", Ipv6Addr::from_bits(below("2001::f7f7:f7f7") | bits << 64)),
        ("Teredo client", Ipv6Addr::from_bits(below("2001:0:808:808::") | (bits ^ 0xffff_ffff))),
        ("ISATAP", at("2001:db8:7:7:0:5efe::")),
        ("ISATAP, global", at("2001:db8:7:7:200:5efe::")),
    ]
}

#[test]
fn what_leads_ipv4_in_ipv6_leads_nowhere_else() {
    let forbidden = ["127.0.0.1", "169.254.169.254", "168.63.129.16", "100.100.100.200"];
    for text in forbidden.into_iter().chain(["192.0.0.192", "192.0.2.1", "224.0.0.1"]) {
        let plain = checked(text).unwrap_err();
        for (way, carrier) in carried_by_v6(text.parse().unwrap()) {
            let found =
                check(SocketAddr::new(carrier.into(), 80), LedBy::File, rules(&[]), &host());
            assert!(found.is_err(), "{way} {carrier} of {text}");
            // `64:ff9b:1:...` may be read in several ways.
            if !way.starts_with("local") {
                assert_eq!(found, Err(plain), "{way} {carrier} of {text}");
            }
        }
    }
}

#[test]
fn what_is_public_may_be_reached_in_all_its_spellings() {
    for text in ["203.0.113.10", "8.8.8.8", "10.0.0.1", "240.0.0.1", "2001:4860:4860::8888"] {
        assert_eq!(checked(text), Ok(Permitted::Plainly), "{text}");
    }
    for text in ["8.8.8.8", "203.0.113.10", "1.1.1.1", "10.0.0.1"] {
        for (way, carrier) in carried_by_v6(text.parse().unwrap()) {
            let found =
                check(SocketAddr::new(carrier.into(), 80), LedBy::File, rules(&[]), &host());
            assert_eq!(found, Ok(Permitted::Plainly), "{way} {carrier} of {text}");
        }
    }
}

#[test]
fn what_the_operator_lists_may_be_reached_whatever_led_there() {
    let listed = allow(&["127.0.0.0/8", "::ffff:169.254.169.254", "fd00:ec2::/32", "192.0.2.1"]);
    for led_by in [LedBy::Workload, LedBy::File, LedBy::Dns] {
        let found = |text| check(address(text), led_by, rules(&listed), &host()).map(|_| ());
        for text in ["127.0.0.1", "::ffff:127.9.9.9", "169.254.169.254", "fd00:ec2::254"] {
            assert_eq!(found(text), Ok(()), "{text}");
        }
        assert_eq!(found("192.0.2.1"), Ok(()));
        // Another address, though it leads to the same place.
        assert_eq!(found("64:ff9b::7f00:1"), Err(Loopback));
        assert_eq!(found("169.254.169.253"), Err(LinkLocal));
        assert_eq!(found("::1"), Err(Loopback));
    }
}

#[test]
fn egrets_own_ports_are_never_reached() {
    let all = allow(&["0.0.0.0/0", "::/0"]);
    for ip in ["127.0.0.1", "0.0.0.0", "::1", "192.0.2.1", "::ffff:192.0.2.1", "2001:db8::1"] {
        let on = |port| {
            let address = SocketAddr::new(ip.parse().unwrap(), port);
            check(address, LedBy::File, rules(&all), &host())
        };
        assert_eq!(on(15000), Err(OwnPort), "{ip}");
        assert_eq!(on(15001), Ok(Permitted::Plainly), "{ip}");
    }
    let elsewhere = "192.0.2.2:15000".parse().unwrap();
    assert_eq!(check(elsewhere, LedBy::File, rules(&[]), &host()), Ok(Permitted::Plainly));
}

#[test]
fn private_addresses_are_dnss_to_give_only_if_the_operator_says_so() {
    let block = |allow| Rules { allow, private_addresses: PrivateAddresses::Block };
    let host = host();
    let private = ["10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1", "fd12::1"];
    for text in private.into_iter().chain(["::ffff:10.1.2.3", "64:ff9b::a01:203", "2002:a01:203::"])
    {
        let found = |led_by, rules| check(address(text), led_by, rules, &host);
        assert_eq!(found(LedBy::Dns, block(&[])), Err(Private), "{text}");
        assert_eq!(found(LedBy::Dns, rules(&[])), Ok(Permitted::PrivateFromDns), "{text}");
        for led_by in [LedBy::Workload, LedBy::File] {
            assert_eq!(found(led_by, block(&[])), Ok(Permitted::Plainly), "{text}");
        }
    }
    for text in ["100.128.0.1", "172.32.0.1", "203.0.113.10", "2001:4860::1"] {
        let found = check(address(text), LedBy::Dns, block(&[]), &host);
        assert_eq!(found, Ok(Permitted::Plainly), "{text}");
    }
    let listed = allow(&["10.0.0.0/8"]);
    let found = check(address("10.1.2.3"), LedBy::Dns, block(&listed), &host);
    assert_eq!(found, Ok(Permitted::PrivateFromDns));
}

proptest! {
    /// The mapped form is the same address, whatever is asked about it.
    #[test]
    fn an_ipv4_address_and_its_mapped_form_are_one(bits: u32, port: u16) {
        let v4 = Ipv4Addr::from_bits(bits);
        let asked = |ip: IpAddr| check(SocketAddr::new(ip, port), LedBy::Dns, rules(&[]), &host());
        prop_assert_eq!(asked(v4.into()), asked(v4.to_ipv6_mapped().into()));
    }

    /// What IPv4 does not reach, no carrier reaches.
    #[test]
    fn no_carrier_reaches_more_than_the_address_itself(bits: u32) {
        let v4 = Ipv4Addr::from_bits(bits);
        let asked = |ip: IpAddr| check(SocketAddr::new(ip, 80), LedBy::File, rules(&[]), &host());
        if asked(v4.into()).is_err() {
            for (way, carrier) in carried_by_v6(v4) {
                // A longer prefix of the local NAT64 may begin where this one's address is zero.
                let is_zero_network = way.starts_with("local") && v4.octets()[0] == 0;
                prop_assert!(asked(carrier.into()).is_err() || is_zero_network, "{way} {carrier}");
            }
        }
    }
}

#[test]
fn a_prefix_leads_nowhere_if_it_lies_in_one_refused_range() {
    let found = |text: &str, listed: &[IpNet]| leads_nowhere(&allow(&[text])[0], rules(listed));
    assert_eq!(found("127.0.0.0/8", &[]), Some(Loopback));
    assert_eq!(found("169.254.169.254", &[]), Some(LinkLocal));
    assert_eq!(found("::ffff:127.0.0.0/112", &[]), Some(Loopback));
    assert_eq!(found("fd00:ec2::254", &[]), Some(Metadata));
    for text in ["0.0.0.0/0", "::/0", "10.0.0.0/8", "168.63.129.16/31", "126.0.0.0/7"] {
        assert_eq!(found(text, &[]), None, "{text}");
    }
    for listed in ["127.0.0.0/8", "127.0.0.1", "0.0.0.0/0"] {
        assert_eq!(found("127.0.0.0/16", &allow(&[listed])), None, "{listed}");
    }
}
