//! The normaliser's table of spellings and its properties.

use proptest::prelude::*;

use super::*;

/// What a spelling of Host means.
enum Is {
    /// This name, without a port.
    Name(&'static str),
    /// This name and this port.
    Port(&'static str, u16),
    /// This address.
    Address(&'static str),
    /// Refused.
    Bad(NameError),
}

fn label(bytes: usize) -> String {
    "a".repeat(bytes)
}

#[test]
fn each_spelling_of_host_has_one_meaning() {
    use Is::{Address, Bad, Name, Port};
    use NameError as E;
    let table: &[(&str, Is)] = &[
        // Names, in their spellings.
        ("example.com", Name("example.com")),
        ("EXAMPLE.com", Name("example.com")),
        ("eXaMpLe.CoM", Name("example.com")),
        ("example.com.", Name("example.com")),
        ("EXAMPLE.COM.:80", Port("example.com", 80)),
        ("example.com:", Name("example.com")),
        ("example.com:80", Port("example.com", 80)),
        ("example.com:1", Port("example.com", 1)),
        ("example.com:65535", Port("example.com", 65535)),
        ("example.com:00080", Port("example.com", 80)),
        ("localhost", Name("localhost")),
        ("a", Name("a")),
        ("a.b.c.d.e.f", Name("a.b.c.d.e.f")),
        ("_dmarc.example.com", Name("_dmarc.example.com")),
        ("my_bucket.s3.example.com", Name("my_bucket.s3.example.com")),
        ("-leading.example.com", Name("-leading.example.com")),
        ("r3---sn-4g5e.example.com", Name("r3---sn-4g5e.example.com")),
        ("1.example.com", Name("1.example.com")),
        ("1.2.3.4.example", Name("1.2.3.4.example")),
        ("3com", Name("3com")),
        ("0xdead.example", Name("0xdead.example")),
        ("xn--bcher-kva.example", Name("xn--bcher-kva.example")),
        ("XN--BCHER-KVA.EXAMPLE", Name("xn--bcher-kva.example")),
        ("example.xn--p1ai", Name("example.xn--p1ai")),
        ("xn--4ca0bs.example:8080", Port("xn--4ca0bs.example", 8080)),
        // Addresses.
        ("192.0.2.1", Address("192.0.2.1")),
        ("192.0.2.1.", Address("192.0.2.1")),
        ("192.0.2.1:8080", Address("192.0.2.1")),
        ("0.0.0.0", Address("0.0.0.0")),
        ("[::1]", Address("::1")),
        ("[2001:DB8::1]:443", Address("2001:db8::1")),
        ("[::ffff:192.0.2.1]", Address("::ffff:192.0.2.1")),
        // What parsers disagree on.
        ("127.1", Bad(E::BadAddress)),
        ("2130706433", Bad(E::BadAddress)),
        ("0x7f000001", Bad(E::BadAddress)),
        ("0x7f.1", Bad(E::BadAddress)),
        ("0177.0.0.1", Bad(E::BadAddress)),
        ("1.2.3.4.5", Bad(E::BadAddress)),
        ("256.0.0.1", Bad(E::BadAddress)),
        ("example.0x", Bad(E::BadAddress)),
        ("example.1", Bad(E::BadAddress)),
        ("[::1", Bad(E::BadAddress)),
        ("[]", Bad(E::BadAddress)),
        ("[example.com]", Bad(E::BadAddress)),
        ("[fe80::1%25eth0]", Bad(E::BadAddress)),
        ("[v1.a]", Bad(E::BadAddress)),
        ("[::1]80", Bad(E::BadAddress)),
        ("::1", Bad(E::BadPort)),
        // Empty parts.
        ("", Bad(E::Empty)),
        (".", Bad(E::Empty)),
        (":80", Bad(E::Empty)),
        ("..", Bad(E::EmptyLabel)),
        ("example.com..", Bad(E::EmptyLabel)),
        ("a..b", Bad(E::EmptyLabel)),
        (".example.com", Bad(E::EmptyLabel)),
        // Bytes that no host has.
        ("user@example.com", Bad(E::BadByte)),
        ("user:secret@example.com", Bad(E::BadPort)),
        ("example.com, evil.example", Bad(E::BadByte)),
        ("example.com evil.example", Bad(E::BadByte)),
        (" example.com", Bad(E::BadByte)),
        ("example.com\t", Bad(E::BadByte)),
        ("example.com\0", Bad(E::BadByte)),
        ("exam\0ple.com", Bad(E::BadByte)),
        ("example.com\x1b[31m", Bad(E::BadByte)),
        ("example.com\x7f", Bad(E::BadByte)),
        ("example.com/", Bad(E::BadByte)),
        ("example.com/path", Bad(E::BadByte)),
        ("example.com?q", Bad(E::BadByte)),
        ("example.com#f", Bad(E::BadByte)),
        ("example.com\\evil", Bad(E::BadByte)),
        ("%65xample.com", Bad(E::BadByte)),
        ("*.example.com", Bad(E::BadByte)),
        ("(example.com)", Bad(E::BadByte)),
        ("http://example.com", Bad(E::BadPort)),
        // International names.
        ("bücher.example", Bad(E::NotAscii)),
        ("example。com", Bad(E::NotAscii)),
        ("ｅxample.com", Bad(E::NotAscii)),
        ("xn--", Bad(E::BadPunycode)),
        ("xn--abc-.example", Bad(E::BadPunycode)),
        ("xn--99999999.example", Bad(E::BadPunycode)),
        // Ports.
        ("example.com:0", Bad(E::BadPort)),
        ("example.com:65536", Bad(E::BadPort)),
        ("example.com:000080", Bad(E::BadPort)),
        ("example.com:+80", Bad(E::BadPort)),
        ("example.com:-1", Bad(E::BadPort)),
        ("example.com:80a", Bad(E::BadPort)),
        ("example.com: 80", Bad(E::BadPort)),
        ("example.com:80:80", Bad(E::BadPort)),
    ];
    for (text, meaning) in table {
        let parsed = Authority::parse(text.as_bytes());
        match meaning {
            Name(name) => {
                let parsed = parsed.unwrap();
                assert_eq!(parsed.port, None, "{text}");
                assert_eq!(parsed.host.into_name().unwrap().as_str(), *name, "{text}");
            }
            Port(name, port) => {
                let parsed = parsed.unwrap();
                assert_eq!(parsed.port, Some(*port), "{text}");
                assert_eq!(parsed.host.into_name().unwrap().as_str(), *name, "{text}");
            }
            Address(address) => {
                let address: IpAddr = address.parse().unwrap();
                assert_eq!(parsed.unwrap().host, Host::Address(address), "{text}");
            }
            Bad(error) => assert_eq!(parsed, Err(*error), "{text}"),
        }
    }
}

#[test]
fn lengths_are_counted_without_the_trailing_dot() {
    let longest = [label(63), label(63), label(63), label(61)].join(".");
    assert_eq!(longest.len(), NAME_BYTES_MAX);
    assert_eq!(Name::parse(longest.as_bytes()).unwrap().as_str(), longest);
    assert_eq!(Name::parse(format!("{longest}.").as_bytes()).unwrap().as_str(), longest);
    assert_eq!(Name::parse(format!("{longest}a").as_bytes()), Err(NameError::TooLong));
    let label_64 = format!("{}.example", label(64));
    assert_eq!(Name::parse(label_64.as_bytes()), Err(NameError::LabelTooLong));
}

#[test]
fn a_bare_ipv6_address_is_an_address_where_no_port_can_follow() {
    assert_eq!(Host::parse(b"2001:db8::1"), Ok(Host::Address("2001:db8::1".parse().unwrap())));
    assert_eq!(Name::parse(b"::1"), Err(NameError::BadAddress));
    assert_eq!(Name::parse(b"192.0.2.1"), Err(NameError::BadAddress));
    assert_eq!(Host::parse(b"example.com:443"), Err(NameError::BadByte));
}

#[test]
fn a_labels_in_use_are_names() {
    for label in ["bcher-kva", "mnchen-3ya", "fsqu00a", "p1ai", "ls8h", "maana-pta", "4ca0bs"] {
        let name = format!("xn--{label}.example");
        assert_eq!(Name::parse(name.as_bytes()).unwrap().as_str(), name);
    }
}

#[test]
fn what_merely_begins_like_an_a_label_is_junk() {
    let longest = "z".repeat(LABEL_BYTES_MAX - 4);
    for label in
        ["", "-", "abc-", "-abc", "99999999999", "abc-zz_", "zzzzzzzzzzzzzzzzzzzz", &longest]
    {
        let name = format!("xn--{label}.example");
        assert_eq!(Name::parse(name.as_bytes()), Err(NameError::BadPunycode), "{label}");
    }
}

/// Texts that are names more often than not.
fn nearly_a_name() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        8 => "[a-zA-Z0-9_-]{1,20}",
        1 => "[0-9]{1,4}",
        1 => "(xn|XN)--[a-z0-9-]{1,12}",
        1 => "[ -~]{0,3}",
    ];
    (prop::collection::vec(part, 1..6), "(|\\.|:|:80|:[0-9]{0,6})")
        .prop_map(|(parts, tail)| format!("{}{tail}", parts.join(".")).into_bytes())
}

proptest! {
    #[test]
    fn a_name_in_normal_form_is_its_own_normal_form(text in nearly_a_name()) {
        if let Ok(name) = Name::parse(&text) {
            prop_assert_eq!(Name::parse(name.as_str().as_bytes()), Ok(name));
        }
    }

    #[test]
    fn host_and_sni_agree_on_every_text_without_a_port(text in nearly_a_name()) {
        prop_assume!(!text.contains(&b':'));
        let authority = Authority::parse(&text);
        prop_assert_eq!(authority.map(|authority| authority.host), Host::parse(&text));
    }

    #[test]
    fn a_name_holds_only_the_bytes_of_a_host(text in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(name) = Name::parse(&text) {
            let is_clean = |byte: u8| {
                matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.')
            };
            prop_assert!(name.as_str().bytes().all(is_clean));
            prop_assert!(name.as_str().len() <= NAME_BYTES_MAX);
        }
    }

    #[test]
    fn case_and_one_trailing_dot_do_not_matter(
        text in "[a-z][a-z0-9_-]{0,20}(\\.[a-z][a-z0-9-]{0,20}){0,4}",
    ) {
        let name = Name::parse(text.as_bytes());
        prop_assert_eq!(&Name::parse(text.to_uppercase().as_bytes()), &name);
        prop_assert_eq!(&Name::parse(format!("{text}.").as_bytes()), &name);
    }
}
