//! Protocol detection: real hellos, made-up hellos, first lines, and that no cut changes an answer.

use proptest::prelude::*;

use super::*;

/// Real ClientHellos, as these clients sent them.
const REAL: &[(&str, &[u8])] = &[
    ("curl_h2", include_bytes!("../../tests/fuzz/corpus/client_hello/curl_h2")),
    ("curl_http11", include_bytes!("../../tests/fuzz/corpus/client_hello/curl_http11")),
    ("java", include_bytes!("../../tests/fuzz/corpus/client_hello/java")),
    ("node", include_bytes!("../../tests/fuzz/corpus/client_hello/node")),
    ("openssl_alpn", include_bytes!("../../tests/fuzz/corpus/client_hello/openssl_alpn")),
    ("openssl_default", include_bytes!("../../tests/fuzz/corpus/client_hello/openssl_default")),
    ("openssl_tls10", include_bytes!("../../tests/fuzz/corpus/client_hello/openssl_tls10_only")),
    ("openssl_tls12", include_bytes!("../../tests/fuzz/corpus/client_hello/openssl_tls12_only")),
    ("openssl_tls13", include_bytes!("../../tests/fuzz/corpus/client_hello/openssl_tls13_only")),
    ("openssl_dot", include_bytes!("../../tests/fuzz/corpus/client_hello/openssl_trailing_dot")),
    ("python_ssl", include_bytes!("../../tests/fuzz/corpus/client_hello/python_ssl")),
];

const GREASE: u16 = 0x2a2a;

/// A ClientHello in the making.
struct Hello {
    suites: Vec<u8>,
    extensions: Vec<u8>,
}

impl Hello {
    fn new() -> Self {
        Self { suites: vec![0x13, 0x01], extensions: Vec::new() }
    }

    fn extension(mut self, kind: u16, body: &[u8]) -> Self {
        self.extensions.extend(kind.to_be_bytes());
        self.extensions.extend(vector_u16(body));
        self
    }

    fn sni(self, name: &[u8]) -> Self {
        self.extension(0, &vector_u16(&[&[0], &*vector_u16(name)].concat()))
    }

    fn message(&self) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend(vector_u8(&[9; 32]));
        body.extend(vector_u16(&self.suites));
        body.extend(vector_u8(&[0]));
        body.extend(vector_u16(&self.extensions));
        message(1, &body)
    }

    fn wire(&self) -> Vec<u8> {
        records(&self.message(), usize::from(u16::MAX))
    }
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut message = u32::try_from(body.len()).unwrap().to_be_bytes().to_vec();
    message[0] = kind;
    message.extend(body);
    message
}

fn vector_u8(bytes: &[u8]) -> Vec<u8> {
    [&[u8::try_from(bytes.len()).unwrap()], bytes].concat()
}

fn vector_u16(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
}

/// `message` in records of at most `payload_bytes`.
fn records(message: &[u8], payload_bytes: usize) -> Vec<u8> {
    let pieces = message.chunks(payload_bytes.min(1 << 14));
    pieces.flat_map(|piece| [&[22, 3, 1], &*vector_u16(piece)].concat()).collect()
}

/// The payloads of the records in `wire`, joined.
fn unrecorded(wire: &[u8]) -> Vec<u8> {
    let mut rest = wire;
    let mut message = Vec::new();
    while let Some((header, after)) = rest.split_first_chunk::<5>() {
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        message.extend(&after[..length]);
        rest = &after[length..];
    }
    message
}

fn sniff(bytes: &[u8]) -> Sniff {
    let mut sniffer = Sniffer::default();
    sniffer.feed(bytes).clone()
}

/// Feeds the pieces between the `cuts`.
fn sniff_cut(bytes: &[u8], cuts: &[usize]) -> Sniff {
    let mut sniffer = Sniffer::default();
    let mut from = 0;
    for cut in cuts.iter().copied().chain([bytes.len()]) {
        sniffer.feed(&bytes[from..cut]);
        from = cut;
    }
    sniffer.answer().clone()
}

fn hello_of(sniff: Sniff) -> ClientHello {
    match sniff {
        Sniff::Tls(hello) => hello,
        other => panic!("not TLS but {other:?}"),
    }
}

fn name_of(hello: &ClientHello) -> &str {
    match &hello.sni {
        Sni::Name(name) => name.as_str(),
        other => panic!("no name but {other:?}"),
    }
}

const BAD_TLS: Sniff = Sniff::Opaque(OpaqueReason::BadTls);
const TOO_LARGE: Sniff = Sniff::Opaque(OpaqueReason::TooLarge);
const UNKNOWN_PROTOCOL: Sniff = Sniff::Opaque(OpaqueReason::UnknownProtocol);

#[test]
fn real_clients_are_named() {
    for (client, wire) in REAL {
        assert_eq!(name_of(&hello_of(sniff(wire))), "www.example.com", "{client}");
    }
    let nameless: &[&[u8]] = &[
        include_bytes!("../../tests/fuzz/corpus/client_hello/curl_ip_literal"),
        include_bytes!("../../tests/fuzz/corpus/client_hello/openssl_no_name"),
    ];
    for wire in nameless {
        assert_eq!(hello_of(sniff(wire)).sni, Sni::Absent);
    }
}

#[test]
fn a_hello_cut_at_any_byte_gives_the_same_answer() {
    for (client, wire) in REAL {
        let whole = sniff(wire);
        for cut in 0..wire.len() {
            assert_eq!(sniff(&wire[..cut]), Sniff::NeedMore, "{client}: a part of {cut} bytes");
            assert_eq!(sniff_cut(wire, &[cut]), whole, "{client}: cut at {cut}");
        }
        let each: Vec<usize> = (1..wire.len()).collect();
        assert_eq!(sniff_cut(wire, &each), whole, "{client}: byte by byte");
    }
}

#[test]
fn a_hello_in_records_of_any_size_gives_the_same_answer() {
    for (client, wire) in REAL {
        let message = unrecorded(wire);
        for payload_bytes in 1..message.len() {
            let cut = records(&message, payload_bytes);
            let expected = ClientHello { wire_bytes: cut.len(), ..hello_of(sniff(wire)) };
            let hello = hello_of(sniff(&cut));
            assert_eq!(hello, expected, "{client}: records of {payload_bytes} bytes");
        }
    }
}

#[test]
fn a_large_hello_with_a_late_name_is_read() {
    // What a post-quantum key share and a long ticket make of it; and the longest there may be.
    let with_padding = |bytes: usize| {
        let hello = Hello::new().extension(51, &vec![1; bytes]).sni(b"late.example.com");
        (hello.message().len(), hello.wire())
    };
    let (small, _) = with_padding(0);
    let most = usize::try_from(client_hello::MESSAGE_BYTES_MAX).unwrap() + 4 - small;
    for padding in [1_216, 4_000, most] {
        let (_, wire) = with_padding(padding);
        assert_eq!(name_of(&hello_of(sniff(&wire))), "late.example.com");
        assert!(wire.len() <= SNIFF_BYTES_MAX);
    }
    assert_eq!(sniff(&with_padding(most + 1).1), TOO_LARGE);
}

#[test]
fn too_many_tiny_records_are_too_large() {
    let hello = Hello::new().extension(51, &[1; 8_000]).sni(b"example.com");
    let wire = records(&hello.message(), 1);
    assert!(wire.len() > SNIFF_BYTES_MAX);
    assert_eq!(sniff(&wire), TOO_LARGE);
    assert_eq!(sniff(&wire[..SNIFF_BYTES_MAX - 1]), Sniff::NeedMore);
    assert_eq!(sniff(&wire[..SNIFF_BYTES_MAX]), TOO_LARGE);
}

#[test]
fn grease_ech_and_every_record_version_are_no_obstacle() {
    let mut hello = Hello::new()
        .extension(GREASE, b"")
        .extension(0xfe0d, &[5; 200])
        .sni(b"public.example.com")
        .extension(GREASE, b"x");
    hello.suites.splice(0..0, GREASE.to_be_bytes());
    let mut wire = hello.wire();
    for version in 0..=4 {
        wire[2] = version;
        let hello = hello_of(sniff(&wire));
        assert_eq!(name_of(&hello), "public.example.com");
    }
    wire[2] = 5;
    assert_eq!(sniff(&wire), UNKNOWN_PROTOCOL);
}

#[test]
fn sni_is_read_by_the_normaliser_of_host() {
    let junk = |error| Sni::Junk(error);
    let name = |text: &str| Sni::Name(Name::parse(text.as_bytes()).unwrap());
    let longest =
        format!("{}.{}.{}.{}", "a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(61));
    let table: Vec<(Vec<u8>, Sni)> = vec![
        (b"example.com".to_vec(), name("example.com")),
        (b"EXAMPLE.com.".to_vec(), name("example.com")),
        (b"my_host.example".to_vec(), name("my_host.example")),
        (longest.clone().into_bytes(), name(&longest)),
        (format!("{longest}.").into_bytes(), name(&longest)),
        (format!("{longest}d").into_bytes(), junk(NameError::TooLong)),
        (vec![b'a'; 400], junk(NameError::TooLong)),
        (vec![b'a'; 4_000], junk(NameError::TooLong)),
        (b"".to_vec(), junk(NameError::Empty)),
        (b"a..b".to_vec(), junk(NameError::EmptyLabel)),
        (b"exam\0ple.com".to_vec(), junk(NameError::BadByte)),
        (b"example.com:443".to_vec(), junk(NameError::BadByte)),
        ("bücher.example".into(), junk(NameError::NotAscii)),
        (b"192.0.2.1".to_vec(), Sni::Address("192.0.2.1".parse().unwrap())),
        (b"2001:db8::1".to_vec(), Sni::Address("2001:db8::1".parse().unwrap())),
    ];
    for (text, sni) in table {
        let hello = hello_of(sniff(&Hello::new().sni(&text).wire()));
        assert_eq!(hello.sni, sni, "{:?}", String::from_utf8_lossy(&text));
    }
}

#[test]
fn names_of_other_types_are_skipped() {
    let list = [&[7], &*vector_u16(b"other"), &[0], &*vector_u16(b"example.com")].concat();
    let hello = Hello::new().extension(0, &vector_u16(&list));
    assert_eq!(name_of(&hello_of(sniff(&hello.wire()))), "example.com");
}

#[test]
fn a_malformed_hello_is_bad_tls() {
    let name = [&[0], &*vector_u16(b"example.com")].concat();
    let two_names = vector_u16(&[&*name, &*name].concat());
    let table = [
        ("two names", Hello::new().extension(0, &two_names).wire()),
        ("two SNI extensions", Hello::new().sni(b"a.example").sni(b"b.example").wire()),
        ("no list of names", Hello::new().extension(0, b"").wire()),
        ("an empty list of names", Hello::new().extension(0, &[0, 0]).wire()),
        ("a list longer than its extension", Hello::new().extension(0, &[0, 9, 0, 0, 1]).wire()),
        ("a name longer than its list", Hello::new().extension(0, &[0, 4, 0, 0, 9, 97]).wire()),
        ("bytes behind the list", Hello::new().extension(0, &[0, 4, 0, 0, 1, 97, 0]).wire()),
        ("no suites", Hello { suites: vec![], extensions: vec![] }.wire()),
        ("half a suite", Hello { suites: vec![1; 3], extensions: vec![] }.wire()),
        ("half an extension", Hello { suites: vec![1; 2], extensions: vec![0, 0, 0] }.wire()),
        ("a ServerHello", records(&message(2, &[0; 40]), 9_999)),
        ("a short hello", records(&message(1, &[0; 33]), 9_999)),
        ("an empty record", vec![22, 3, 1, 0, 0]),
        ("a record that is too long", vec![22, 3, 1, 0x40, 1]),
        ("an alert within", [&[22, 3, 1, 0, 2, 1, 0][..], &[21, 3, 1, 0, 2]].concat()),
    ];
    for (what, wire) in table {
        assert_eq!(sniff(&wire), BAD_TLS, "{what}");
    }
}

#[test]
fn a_hello_without_extensions_has_no_name() {
    let mut body = vec![3, 1];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0, 47, 1, 0]);
    let hello = hello_of(sniff(&records(&message(1, &body), 9_999)));
    assert_eq!(hello, ClientHello { wire_bytes: 50, ..ClientHello::default() });
}

#[test]
fn what_stands_behind_a_hello_in_its_record_is_told() {
    for (client, wire) in REAL {
        let message = unrecorded(wire);
        let longer = records(&[&message[..], b"x"].concat(), 9_999);
        let expected = ClientHello {
            wire_bytes: longer.len() - 1,
            follows: Follows::Message,
            ..hello_of(sniff(wire))
        };
        for cut in 1..longer.len() {
            assert_eq!(hello_of(sniff_cut(&longer, &[cut])), expected, "{client}: cut at {cut}");
        }
    }
}

#[test]
fn each_first_line_has_one_meaning() {
    let long_target = format!("GET /{} HTTP/1.1\r\n", "a".repeat(16 * 1024));
    let endless = format!("GET /{}", "a".repeat(SNIFF_BYTES_MAX));
    let table: &[(&str, Sniff)] = &[
        ("GET / HTTP/1.1\r\n", Sniff::Http1),
        ("GET / HTTP/", Sniff::Http1),
        ("GET / HTTP", Sniff::NeedMore),
        ("POST http://example.com/ HTTP/1.0\r\n", Sniff::Http1),
        ("CONNECT example.com:443 HTTP/1.1", Sniff::Http1),
        ("OPTIONS * HTTP/1.1", Sniff::Http1),
        ("PURGE /x HTTP/1.1", Sniff::Http1),
        ("M-SEARCH * HTTP/1.1", Sniff::Http1),
        ("PRINT / HTTP/1.1", Sniff::Http1),
        ("PRI * HTTP/1.1", Sniff::Http1),
        ("\r\n\r\nGET / HTTP/1.1", Sniff::Http1),
        (&long_target, Sniff::Http1),
        // What only lenient servers take.
        ("\nGET / HTTP/1.1\n", Sniff::Http1),
        ("get / http/1.1", Sniff::Http1),
        ("GET  /  HTTP/1.1", Sniff::Http1),
        ("GET\t/\tHTTP/1.1", Sniff::Http1),
        ("GET /a b HTTP/1.1", Sniff::Http1),
        ("GET /\0 HTTP/1.1", Sniff::Http1),
        ("GET / HTTP/2.0", Sniff::Http1),
        // HTTP/2.
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Sniff::Http2Preface),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\u{12}\u{4}", Sniff::Http2Preface),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r", Sniff::NeedMore),
        ("PRI * HTTP/2.0\r\n\r\nXX", Sniff::Http1),
        // Others.
        ("GET /\r\n", UNKNOWN_PROTOCOL),
        ("GET key\r\n", UNKNOWN_PROTOCOL),
        ("get key\r\n", UNKNOWN_PROTOCOL),
        ("EHLO example.com\r\n", UNKNOWN_PROTOCOL),
        ("SSH-2.0-OpenSSH_9.6\r\n", UNKNOWN_PROTOCOL),
        ("INVITE sip:a@example.com SIP/2.0\r\n", UNKNOWN_PROTOCOL),
        ("OPTIONS rtsp://example.com RTSP/1.0\r\n", UNKNOWN_PROTOCOL),
        ("192.0.2.1 - - [1/Jan/2026] \"GET / HTTP/1.1\" 200\r\n", UNKNOWN_PROTOCOL),
        ("<14>Jan 1 host app: GET / HTTP/1.1\n", UNKNOWN_PROTOCOL),
        ("*1\r\n$4\r\nPING\r\n", UNKNOWN_PROTOCOL),
        ("{\"method\": 1}", UNKNOWN_PROTOCOL),
        ("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", UNKNOWN_PROTOCOL),
        ("\r\n\r\n\r\n\r\n\r\n", UNKNOWN_PROTOCOL),
        ("\0\0\0\u{8}\u{4}", UNKNOWN_PROTOCOL),
        (" GET / HTTP/1.1", UNKNOWN_PROTOCOL),
        (&endless, TOO_LARGE),
        ("", Sniff::NeedMore),
        ("\r\n", Sniff::NeedMore),
        ("G", Sniff::NeedMore),
    ];
    for (line, meaning) in table {
        let shown = &line[..line.len().min(60)];
        assert_eq!(&sniff(line.as_bytes()), meaning, "{shown:?}");
        let each: Vec<usize> = (1..line.len()).collect();
        assert_eq!(&sniff_cut(line.as_bytes(), &each), meaning, "{shown:?}, byte by byte");
    }
}

#[test]
fn bytes_after_the_answer_change_nothing() {
    let mut sniffer = Sniffer::default();
    let answer = sniffer.feed(REAL[0].1).clone();
    assert_eq!(sniffer.feed(b"GET / HTTP/1.1\r\n"), &answer);
    assert_eq!(sniffer.feed(&[22; 100]), &answer);
}

/// Bytes that begin like something known more often than not.
fn first_bytes() -> impl Strategy<Value = Vec<u8>> {
    let noise = prop::collection::vec(any::<u8>(), 0..80);
    let text =
        "(GET|POST|PRI|get|FOO)( |\t|  )[!-~]{0,9}( |\r\n)(HTTP/1\\.1|HTTP/2\\.0|x)?(\r\n|\n|)";
    let tls = (noise.clone(), 1..600usize).prop_map(|(noise, payload_bytes)| {
        let hello = Hello::new().extension(7, &noise).sni(b"example.com");
        records(&hello.message(), payload_bytes)
    });
    let broken = (tls.clone(), any::<prop::sample::Index>(), any::<u8>());
    let broken = broken.prop_map(|(mut wire, at, byte)| {
        let at = at.index(wire.len());
        wire[at] = byte;
        wire
    });
    prop_oneof![noise, text.prop_map(String::into_bytes), tls, broken]
}

proptest! {
    #[test]
    fn more_bytes_never_change_an_answer(bytes in first_bytes()) {
        let mut answer = Sniff::NeedMore;
        for end in 0..=bytes.len() {
            let now = sniff(&bytes[..end]);
            if answer != Sniff::NeedMore {
                prop_assert_eq!(&now, &answer);
            }
            answer = now;
        }
    }

    #[test]
    fn cuts_never_change_an_answer(
        bytes in first_bytes(),
        mut cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let mut cuts: Vec<usize> =
            cuts.drain(..).map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.sort_unstable();
        prop_assert_eq!(sniff_cut(&bytes, &cuts), sniff(&bytes));
    }
}
