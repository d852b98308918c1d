//! HTTP/2 with prior knowledge, by the authority of its requests.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use egret::config::Mode;

use super::{destination, entry, read_exactly, registry_only};
use crate::connect::Silent;
use crate::support::peer::expect_end;
use crate::support::{Proxy, Setup, eventually, nobody, reset};

pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub(super) const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
const ACK: [u8; 9] = [0, 0, 0, 4, 1, 0, 0, 0, 0];
/// What Egret says before anything else: SETTINGS with NO_RFC7540_PRIORITIES.
const GREETING: [u8; 15] = [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 1];
const PING: u8 = 6;
const GOAWAY: u8 = 7;

/// HEADERS that open and end a stream: a GET of `/` from `authority`, in literals only.
pub(super) fn get(stream: u8, authority: &str) -> Vec<u8> {
    // :method GET, :scheme http, :path / are in the static table; :authority is its first name.
    let mut block = vec![0x82, 0x86, 0x84, 0x01, u8::try_from(authority.len()).unwrap()];
    block.extend(authority.bytes());
    let mut frame = vec![0, 0, u8::try_from(block.len()).unwrap(), 1, 5, 0, 0, 0, stream];
    frame.extend(block);
    frame
}

/// A `:status` on `stream`, and the end.
fn answer(stream: u8, status: &[u8; 3]) -> Vec<u8> {
    [&[0, 0, 5, 1, 5, 0, 0, 0, stream, 8, 3], &status[..]].concat()
}

fn bad_gateway(stream: u8) -> Vec<u8> {
    answer(stream, b"502")
}

/// The last stream and the code of the GOAWAY that comes next; then FIN.
fn read_goaway(stream: &mut TcpStream) -> (u32, u32) {
    let mut frame = read_frame(stream);
    while frame[3] == PING {
        frame = read_frame(stream);
    }
    assert_eq!(frame[3], GOAWAY, "{frame:?}");
    expect_end(stream);
    let number = |at: usize| u32::from_be_bytes(frame[at..at + 4].try_into().unwrap());
    (number(9), number(13))
}

/// A client that waits is greeted, and its own SETTINGS are acknowledged.
fn read_greeting(client: &mut TcpStream) {
    assert_eq!([read_frame(client), read_frame(client)], [GREETING.to_vec(), ACK.to_vec()]);
}

fn read_frame(stream: &mut TcpStream) -> Vec<u8> {
    let mut frame = vec![0; 9];
    stream.read_exact(&mut frame).unwrap();
    let length = u32::from_be_bytes([0, frame[0], frame[1], frame[2]]) as usize;
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).unwrap();
    frame.extend(payload);
    frame
}

fn allowed(server: &TcpListener) -> Proxy {
    registry_only(&[entry("allowed.example.com", "HTTP2", server.local_addr().unwrap())], "")
}

#[test]
fn an_allowed_authority_passes_in_few_pieces() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = allowed(&server);
    let sent = [PREFACE, &SETTINGS, &get(1, "allowed.example.com")].concat();
    // `src/gate/tests/http2.rs` cuts at every byte.
    let sizes = [sent.len(), sent.len() - 1, 30, 10, 1];
    for size in sizes {
        let mut client = proxy.connect(destination());
        for piece in sent.chunks(size) {
            client.write_all(piece).unwrap();
        }
        let (mut upstream, _) = server.accept().unwrap();
        read_exactly(&mut upstream, &sent);
        upstream.write_all(&SETTINGS).unwrap();
        upstream.write_all(&[0, 0, 1, 0, 1, 0, 0, 0, 1, b'x']).unwrap();
        // Behind the greeting, if a pause was long enough for one.
        let mut frame = read_frame(&mut client);
        while frame[3] == SETTINGS[3] {
            frame = read_frame(&mut client);
        }
        assert_eq!(frame, [0, 0, 1, 0, 1, 0, 0, 0, 1, b'x']);
    }
    proxy.is_quiet();
    let labels = [("destination_service", "allowed.example.com")];
    let opened = proxy.sum("istio_tcp_connections_opened_total", &labels);
    assert_eq!(opened, sizes.len() as f64);
}

#[test]
fn who_waits_for_settings_is_greeted_and_the_acknowledgement_goes_no_further() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = allowed(&server);
    let mut client = proxy.connect(destination());
    client.write_all(&[PREFACE, &SETTINGS].concat()).unwrap();
    read_greeting(&mut client);
    let request = get(1, "allowed.example.com");
    client.write_all(&[&ACK[..], &request].concat()).unwrap();
    let (mut upstream, _) = server.accept().unwrap();
    read_exactly(&mut upstream, &[PREFACE, &SETTINGS, &request].concat());
    // The server's own SETTINGS are acknowledged by the client itself.
    upstream.write_all(&SETTINGS).unwrap();
    assert_eq!(read_frame(&mut client), SETTINGS);
    client.write_all(&ACK).unwrap();
    read_exactly(&mut upstream, &ACK);
}

#[test]
fn the_acknowledgement_is_kept_back_after_the_request_too() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = allowed(&server);
    let mut client = proxy.connect(destination());
    client.write_all(&[PREFACE, &SETTINGS].concat()).unwrap();
    read_greeting(&mut client);
    let (first, second) = (get(1, "allowed.example.com"), get(3, "allowed.example.com"));
    client.write_all(&first).unwrap();
    let (mut upstream, _) = server.accept().unwrap();
    read_exactly(&mut upstream, &[PREFACE, &SETTINGS, &first].concat());
    client.write_all(&[&ACK[..], &second, &ACK].concat()).unwrap();
    read_exactly(&mut upstream, &[&second[..], &ACK].concat());
}

#[test]
fn a_blocked_authority_is_answered_502_and_never_connected() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = allowed(&server);
    let mut client = proxy.connect(destination());
    client.write_all(&[PREFACE, &SETTINGS, &get(1, "blocked.example.com")].concat()).unwrap();
    assert_eq!(read_frame(&mut client), GREETING);
    assert_eq!(read_frame(&mut client), bad_gateway(1));
    assert_eq!(read_frame(&mut client)[3], GOAWAY);
    expect_end(&mut client);
    drop(client);
    proxy.is_quiet();
    server.set_nonblocking(true).unwrap();
    assert!(server.accept().is_err(), "nobody was connected");
    let labels = [
        ("destination_service_name", "BlackHoleCluster"),
        ("destination_service", "blocked.example.com"),
        ("response_code", "502"),
    ];
    assert_eq!(proxy.sum("istio_requests_total", &labels), 1.0);
}

#[test]
fn a_blocked_call_of_grpc_counts_with_its_status() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = allowed(&server);
    let mut client = proxy.connect(destination());
    let mut call = get(1, "blocked.example.com");
    // content-type is entry 31 of the static table.
    call.extend([0x0f, 16, 16]);
    call.extend(b"application/grpc");
    call[2] += 19;
    client.write_all(&[PREFACE, &SETTINGS, &call].concat()).unwrap();
    assert_eq!(read_frame(&mut client), GREETING);
    assert!(read_frame(&mut client).ends_with(b"no policy lets this host pass"));
    drop(client);
    proxy.is_quiet();
    let labels = [
        ("destination_service", "blocked.example.com"),
        ("request_protocol", "grpc"),
        ("response_code", "200"),
        ("grpc_response_status", "14"),
    ];
    assert_eq!(proxy.sum("istio_requests_total", &labels), 1.0);
}

#[test]
fn a_later_blocked_stream_is_answered_between_two_frames_and_the_others_end() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = allowed(&server);
    let mut client = proxy.connect(destination());
    let first = get(1, "allowed.example.com");
    client.write_all(&[PREFACE, &SETTINGS, &first].concat()).unwrap();
    let (mut upstream, _) = server.accept().unwrap();
    read_exactly(&mut upstream, &[PREFACE, &SETTINGS, &first].concat());
    // The server is in the middle of a frame.
    let data = [&[0, 0, 4, 0, 0, 0, 0, 0, 1][..], b"data"].concat();
    upstream.write_all(&[&SETTINGS[..], &data[..11]].concat()).unwrap();
    read_exactly(&mut client, &[&SETTINGS[..], &data[..11]].concat());
    client.write_all(&get(3, "blocked.example.com")).unwrap();
    eventually("it is seen", || proxy.sum("egret_http2_blocked_streams_total", &[]) == 1.0);
    let mut last = data.clone();
    last[4] = 1;
    upstream.write_all(&[&data[11..], &data, &last].concat()).unwrap();
    read_exactly(&mut client, &data[11..]);
    assert_eq!(read_frame(&mut client), bad_gateway(3));
    let goaway = read_frame(&mut client);
    assert_eq!((goaway[3], goaway[12]), (GOAWAY, 3));
    read_exactly(&mut client, &[&data[..], &last].concat());
    expect_end(&mut client);
    let mut rest = Vec::new();
    let _ = upstream.read_to_end(&mut rest);
    assert!(rest.is_empty(), "{rest:?}");
    drop((client, upstream));
    proxy.is_quiet();
    assert_eq!(proxy.sum("egret_http2_blocked_streams_total", &[]), 1.0);
    let labels = [("response_code", "502"), ("destination_service", "blocked.example.com")];
    assert_eq!(proxy.sum("istio_requests_total", &labels), 1.0);
}

#[test]
fn junk_behind_the_first_request_ends_with_goaway() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = allowed(&server);
    let mut client = proxy.connect(destination());
    let first = get(1, "allowed.example.com");
    client.write_all(&[PREFACE, &SETTINGS, &first].concat()).unwrap();
    let (mut upstream, _) = server.accept().unwrap();
    read_exactly(&mut upstream, &[PREFACE, &SETTINGS, &first].concat());
    // PUSH_PROMISE, which only servers send.
    client.write_all(&[0, 0, 4, 5, 4, 0, 0, 0, 1, 0, 0, 0, 2]).unwrap();
    assert_eq!(read_frame(&mut client), GREETING, "a server's first frame");
    assert_eq!(read_frame(&mut client)[3], GOAWAY);
    expect_end(&mut client);
    drop((client, upstream));
    proxy.is_quiet();
    let reason = [("reason", "push_promise")];
    assert_eq!(proxy.sum("egret_http2_refused_connections_total", &reason), 1.0);
}

#[test]
fn no_detection_is_left_after_a_block() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = allowed(&server);
    let mut client = proxy.connect(destination());
    client.write_all(&[PREFACE, &SETTINGS, &get(1, "blocked.example.com")].concat()).unwrap();
    let _ = client.read_to_end(&mut Vec::new());
    drop(client);
    proxy.is_quiet();
    assert_eq!(proxy.sum("egret_recognising_connections", &[]), 0.0);
}

#[test]
fn settings_come_before_the_answer_to_a_blocked_stream() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = allowed(&server);
    let mut client = proxy.connect(destination());
    let sent = [PREFACE, &SETTINGS, &get(1, "allowed.example.com"), &get(3, "b.example.com")];
    client.write_all(&sent.concat()).unwrap();
    let _up = server.accept().unwrap();
    assert_eq!(read_frame(&mut client), GREETING);
}

#[test]
fn streams_that_wait_for_an_upstream_are_answered_503_when_none_can_be_reached() {
    let proxy = registry_only(&[entry("dead.example.com", "HTTP2", nobody())], "");
    let (mut client, first) = (proxy.connect(destination()), get(1, "dead.example.com"));
    let body = [0, 0, 2, 0, 1, 0, 0, 0, 1, b'h', b'i'];
    let sent = [PREFACE, &SETTINGS, &first, &body, &get(3, "dead.example.com")].concat();
    client.write_all(&sent).unwrap();
    assert_eq!(read_frame(&mut client), GREETING);
    assert_eq!(read_frame(&mut client), answer(1, b"503"));
    assert_eq!(read_frame(&mut client), answer(3, b"503"));
    assert_eq!(read_goaway(&mut client), (3, 0));
    drop(client);
    proxy.is_quiet();
    let labels = [
        ("destination_service", "dead.example.com"),
        ("response_code", "503"),
        ("response_flags", "UF,URX"),
    ];
    assert_eq!(proxy.sum("istio_requests_total", &labels), 2.0);
    for metric in ["opened_total", "closed_total"] {
        assert_eq!(proxy.sum(&format!("istio_tcp_connections_{metric}"), &[]), 0.0, "{metric}");
    }
    assert_eq!(proxy.sum("istio_tcp_received_bytes_total", &[]), 0.0);
    let reason = [("reason", "connect_refused")];
    assert_eq!(proxy.sum("egret_connections_closed_total", &reason), 1.0);
}

#[test]
fn a_stream_that_waits_for_another_upstream_may_be_tried_again() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = registry_only(
        &[
            entry("dead.example.com", "HTTP2", nobody()),
            entry("allowed.example.com", "HTTP2", server.local_addr().unwrap()),
        ],
        "",
    );
    for behind in ["allowed.example.com", "blocked.example.com"] {
        let mut client = proxy.connect(destination());
        let streams = [get(1, "dead.example.com"), get(3, behind)].concat();
        client.write_all(&[PREFACE, &SETTINGS, &streams].concat()).unwrap();
        assert_eq!(read_frame(&mut client), GREETING);
        assert_eq!(read_frame(&mut client), answer(1, b"503"));
        assert_eq!(read_goaway(&mut client), (1, 0), "nothing was done for stream 3");
    }
    proxy.is_quiet();
    assert_eq!(proxy.sum("istio_requests_total", &[]), 2.0);
}

#[test]
fn of_very_many_waiting_streams_a_hundred_are_answered() {
    let proxy = registry_only(&[entry("d.example.com", "HTTP2", nobody())], "");
    let mut client = proxy.connect(destination());
    let streams: Vec<u8> = (0..120).flat_map(|index| get(2 * index + 1, "d.example.com")).collect();
    client.write_all(&[PREFACE, &SETTINGS, &streams].concat()).unwrap();
    assert_eq!(read_frame(&mut client), GREETING);
    for index in 0..100 {
        assert_eq!(read_frame(&mut client), answer(2 * index + 1, b"503"));
    }
    assert_eq!(read_goaway(&mut client), (199, 0));
}

#[test]
fn a_service_without_an_endpoint_is_answered_503_behind_the_greeting() {
    let entry = entry("unknown.example.com", "HTTP2", nobody());
    let (head, _) = entry.split_once("  resolution").unwrap();
    let proxy = Proxy::start(Setup {
        mode: Mode::RegistryOnly,
        registry: format!("{head}  resolution: DNS\n"),
        dns_servers: vec![nobody()],
        ..Setup::default()
    });
    let mut client = proxy.connect(destination());
    client.write_all(&[PREFACE, &SETTINGS].concat()).unwrap();
    read_greeting(&mut client);
    client.write_all(&get(1, "unknown.example.com")).unwrap();
    assert_eq!(read_frame(&mut client), answer(1, b"503"), "SETTINGS do not come twice");
    assert_eq!(read_goaway(&mut client), (1, 0));
    drop(client);
    proxy.is_quiet();
    let labels = [("response_code", "503"), ("response_flags", "UH")];
    assert_eq!(proxy.sum("istio_requests_total", &labels), 1.0);
}

#[test]
fn a_connection_that_ends_while_its_upstream_is_connected_counts_under_its_name() {
    let silent = Silent::new();
    let proxy = registry_only(&[entry("slow.example.com", "HTTP2", silent.address)], "");
    let mut client = proxy.connect(destination());
    let sent = [PREFACE, &SETTINGS, &get(1, "slow.example.com")].concat();
    client.write_all(&sent).unwrap();
    eventually("it is decided", || {
        proxy.sum("egret_recognised_connections_total", &[("result", "http2")]) == 1.0
    });
    reset(client);
    proxy.is_quiet();
    let labels = [("destination_service", "slow.example.com"), ("response_flags", "DC")];
    assert_eq!(proxy.sum("istio_tcp_connections_closed_total", &labels), 1.0);
    let received = proxy.sum("istio_tcp_received_bytes_total", &[]);
    assert_eq!(received, 0.0, "nobody was there to take what it sent");
}

/// A request with 40 000 bytes of fields, in frames of 16 000.
fn too_long() -> Vec<u8> {
    let head = |kind, flags| [0, 0x3e, 0x80, kind, flags, 0, 0, 0, 1];
    let heads = [head(1, 0), head(9, 0), head(9, 4)];
    heads.iter().flat_map(|head| [&head[..], &[0; 16_000]].concat()).collect()
}

#[test]
fn what_is_malformed_before_the_first_request_ends_with_goaway() {
    const PROTOCOL: u32 = 1;
    const COMPRESSION: u32 = 9;
    const CALM: u32 = 11;
    let pings = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8].repeat(1928);
    let table: [(&str, Vec<u8>, u32); 6] = [
        ("no_settings", vec![0, 0, 8, 6, 0, 0, 0, 0, 0], PROTOCOL),
        ("push_promise", [&SETTINGS[..], &[0, 0, 0, 5, 4, 0, 0, 0, 1]].concat(), PROTOCOL),
        ("bad_stream", [&SETTINGS[..], &get(2, "allowed.example.com")].concat(), PROTOCOL),
        // An index beyond both tables.
        ("bad_hpack", [&SETTINGS[..], &[0, 0, 1, 1, 5, 0, 0, 0, 1, 0xfe]].concat(), COMPRESSION),
        ("head_too_large", [&SETTINGS[..], &too_long()].concat(), CALM),
        // No frame is wrong, but no request comes in all that may be held.
        ("head_too_large", [&SETTINGS[..], &pings].concat(), CALM),
    ];
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    for (reason, bytes, code) in table {
        // With SETTINGS before it, of a client that waits for the server's or does not.
        for greeted in [bytes.starts_with(&SETTINGS), false] {
            let proxy = allowed(&server);
            let mut client = proxy.connect(destination());
            let (at_once, later) = bytes.split_at(if greeted { 9 } else { bytes.len() });
            client.write_all(&[PREFACE, at_once].concat()).unwrap();
            match greeted {
                true => read_greeting(&mut client),
                false => assert_eq!(read_frame(&mut client), GREETING),
            }
            client.write_all(later).unwrap();
            assert_eq!(read_goaway(&mut client), (0, code), "{reason}");
            drop(client);
            proxy.is_quiet();
            let labels = [("reason", reason)];
            assert_eq!(proxy.sum("egret_http2_refused_connections_total", &labels), 1.0);
            let labels = [("response_flags", "DPE")];
            assert_eq!(proxy.sum("istio_tcp_connections_closed_total", &labels), 1.0);
            assert_eq!(proxy.sum("egret_recognising_connections", &[]), 0.0);
        }
    }
    server.set_nonblocking(true).unwrap();
    assert!(server.accept().is_err(), "nobody was connected");
}

#[test]
fn a_malformed_first_request_is_reset() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = allowed(&server);
    let mut client = proxy.connect(destination());
    client.write_all(&[PREFACE, &SETTINGS, &get(1, "a\0b")].concat()).unwrap();
    assert_eq!(read_frame(&mut client), GREETING);
    assert_eq!(read_frame(&mut client), [0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 1]);
    assert_eq!(read_goaway(&mut client), (1, 0));
    drop(client);
    proxy.is_quiet();
    let labels = [("reason", "bad_field_value")];
    // What is wrong with one request counts as in HTTP/1.
    assert_eq!(proxy.sum("egret_http_refused_requests_total", &labels), 1.0);
}
