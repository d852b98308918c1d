//! HTTP/2 with prior knowledge, by the authority of its requests.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use super::{destination, entry, read_exactly, registry_only};
use crate::support::Proxy;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
const ACK: [u8; 9] = [0, 0, 0, 4, 1, 0, 0, 0, 0];
const GOAWAY: u8 = 7;

/// HEADERS that open and end a stream: a GET of `/` from `authority`, in literals only.
fn get(stream: u8, authority: &str) -> Vec<u8> {
    // :method GET, :scheme http, :path / are in the static table; :authority is its first name.
    let mut block = vec![0x82, 0x86, 0x84, 0x01, u8::try_from(authority.len()).unwrap()];
    block.extend(authority.bytes());
    let mut frame = vec![0, 0, u8::try_from(block.len()).unwrap(), 1, 5, 0, 0, 0, stream];
    frame.extend(block);
    frame
}

/// `:status 502` on `stream`, and the end.
fn bad_gateway(stream: u8) -> Vec<u8> {
    vec![0, 0, 5, 1, 5, 0, 0, 0, stream, 8, 3, b'5', b'0', b'2']
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
fn an_allowed_authority_passes_cut_at_every_byte() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = allowed(&server);
    let sent = [PREFACE, &SETTINGS, &get(1, "allowed.example.com")].concat();
    for cut in 1..sent.len() {
        let mut client = proxy.connect(destination());
        client.write_all(&sent[..cut]).unwrap();
        std::thread::sleep(std::time::Duration::from_micros(300));
        client.write_all(&sent[cut..]).unwrap();
        let (mut upstream, _) = server.accept().unwrap();
        read_exactly(&mut upstream, &sent);
        upstream.write_all(&SETTINGS).unwrap();
        // Behind the greeting, if the cut was long enough for one.
        let mut frame = read_frame(&mut client);
        assert_eq!(frame, SETTINGS);
        upstream.write_all(&[0, 0, 1, 0, 1, 0, 0, 0, 1, b'x']).unwrap();
        while frame == SETTINGS {
            frame = read_frame(&mut client);
        }
        assert_eq!(frame, [0, 0, 1, 0, 1, 0, 0, 0, 1, b'x']);
    }
    proxy.is_quiet();
    let labels = [("destination_service", "allowed.example.com")];
    let opened = proxy.sum("istio_tcp_connections_opened_total", &labels);
    assert_eq!(opened, (sent.len() - 1) as f64);
}

#[test]
fn who_waits_for_settings_is_greeted_and_the_acknowledgement_goes_no_further() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = allowed(&server);
    let mut client = proxy.connect(destination());
    client.write_all(&[PREFACE, &SETTINGS].concat()).unwrap();
    assert_eq!(read_frame(&mut client), SETTINGS, "Egret's own");
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
    assert_eq!(read_frame(&mut client), SETTINGS);
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
    assert_eq!(read_frame(&mut client), SETTINGS);
    assert_eq!(read_frame(&mut client), bad_gateway(1));
    assert_eq!(read_frame(&mut client)[3], GOAWAY);
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
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
fn a_later_blocked_stream_ends_the_connection_between_two_frames() {
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
    std::thread::sleep(std::time::Duration::from_millis(20));
    upstream.write_all(&[&data[11..], &data].concat()).unwrap();
    read_exactly(&mut client, &data[11..]);
    assert_eq!(read_frame(&mut client), bad_gateway(3));
    let goaway = read_frame(&mut client);
    assert_eq!((goaway[3], goaway[12]), (GOAWAY, 3));
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
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
    assert_eq!(read_frame(&mut client), SETTINGS, "a server's first frame");
    assert_eq!(read_frame(&mut client)[3], GOAWAY);
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    drop((client, upstream));
    proxy.is_quiet();
    let reason = [("reason", "push_promise")];
    assert_eq!(proxy.sum("egret_http2_refused_connections_total", &reason), 1.0);
}

#[test]
fn nobody_is_being_recognised_after_a_block() {
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
    assert_eq!(read_frame(&mut client), SETTINGS);
}
