//! Open connections that changed files forbid, or that an operator ends.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use egret::config::{Mode, OpenConnections};

use crate::support::peer::read_to_reset;
use crate::support::{LONG, Proxy, Setup, Web, eventually, tls};

/// An entry for `host` at an address of its own, which leads to `endpoint`.
fn by_address(host: &str, address: SocketAddr, endpoint: SocketAddr) -> String {
    entry(host, &format!("addresses: [{}],", address.ip()), address.port(), "TCP", endpoint)
}

/// An entry that is found by its name on this port.
fn by_name(host: &str, protocol: &str, endpoint: SocketAddr) -> String {
    entry(host, "", 8080, protocol, endpoint)
}

fn entry(host: &str, more: &str, port: u16, protocol: &str, endpoint: SocketAddr) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\n\
         metadata: {{ name: {}, namespace: shop }}\nspec: {{ hosts: [{host}], {more}\n  \
         ports: [{{ number: {port}, name: main, protocol: {protocol} }}], resolution: STATIC,\n  \
         endpoints: [{{ address: {}, ports: {{ main: {} }} }}] }}\n",
        host.replace('.', "-"),
        endpoint.ip(),
        endpoint.port(),
    )
}

fn at(last: u8, port: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, last], port))
}

fn registered(registry: String, open_connections: OpenConnections) -> Setup {
    Setup { mode: Mode::RegistryOnly, registry, open_connections, ..Setup::default() }
}

/// The server's end of the client's connection, when `bytes` have gone there.
fn served(client: &mut TcpStream, server: &TcpListener, bytes: &[u8]) -> TcpStream {
    client.write_all(bytes).unwrap();
    let (mut end, _) = server.accept().unwrap();
    end.set_read_timeout(Some(LONG)).unwrap();
    let mut got = vec![0; bytes.len()];
    end.read_exact(&mut got).unwrap();
    assert_eq!(got, bytes);
    end
}

/// Bytes pass in both directions: whole records of TLS, of which a gate may hold a part.
fn passes(client: &mut TcpStream, server: &mut TcpStream) {
    let record = tls::record(23, b"data");
    let pass = |from: &mut TcpStream, to: &mut TcpStream| {
        let mut got = vec![0; record.len()];
        from.write_all(&record).unwrap();
        to.read_exact(&mut got).unwrap();
        assert_eq!(got, record);
    };
    pass(client, server);
    pass(server, client);
}

fn closed(proxy: &Proxy, reason: &str) -> f64 {
    proxy.sum("egret_connections_closed_total", &[("reason", reason)])
}

/// Of two open connections, the files come to forbid the first one.
fn forbid_the_first(
    open_connections: OpenConnections,
    entries: [String; 2],
    to: [SocketAddr; 2],
    first_bytes: [&[u8]; 2],
    listener: &TcpListener,
) -> (Proxy, [(TcpStream, TcpStream); 2]) {
    let proxy = Proxy::start(registered(entries.concat(), open_connections));
    let ends = [0, 1].map(|index| {
        let mut client = proxy.connect(to[index]);
        let server = served(&mut client, listener, first_bytes[index]);
        (client, server)
    });
    let [_, second] = entries;
    proxy.reload(&registered(second, open_connections));
    (proxy, ends)
}

#[test]
fn a_reload_resets_the_connection_that_it_forbids_and_no_other() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = listener.local_addr().unwrap();
    let (a, b) = (tls::hello("a.example.com"), tls::hello("b.example.com"));
    let hosts = ["a.example.com", "b.example.com"];
    for (entries, to, first_bytes) in [
        (
            [by_address(hosts[0], at(1, 5432), server), by_address(hosts[1], at(2, 5432), server)],
            [at(1, 5432), at(2, 5432)],
            [&b"a"[..], b"b"],
        ),
        (hosts.map(|host| by_name(host, "TLS", server)), [at(3, 8080); 2], [&a[..], &b]),
    ] {
        let close = OpenConnections::Close;
        let (proxy, ends) = forbid_the_first(close, entries, to, first_bytes, &listener);
        let [(mut forbidden, mut its_server), (mut client, mut server)] = ends;
        assert_eq!(read_to_reset(&mut forbidden), (true, 0));
        assert_eq!(read_to_reset(&mut its_server), (true, 0));
        passes(&mut client, &mut server);
        eventually("it is counted", || closed(&proxy, "policy_changed") == 1.0);
        let labels = [("destination_service_name", "a.example.com")];
        assert_eq!(proxy.sum("istio_tcp_connections_closed_total", &labels), 1.0);
        drop((client, server));
        proxy.is_quiet();
        assert_eq!(closed(&proxy, "policy_changed"), 1.0);
    }
}

#[test]
fn a_connection_keeps_its_verdict_unless_the_files_say_otherwise() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = listener.local_addr().unwrap();
    let to = [at(1, 5432), at(2, 5432)];
    let entries =
        [by_address("a.example.com", to[0], server), by_address("b.example.com", to[1], server)];
    let keep = OpenConnections::Keep;
    let (proxy, mut ends) = forbid_the_first(keep, entries, to, [b"a", b"b"], &listener);
    // A new one is blocked: the files are in use.
    assert_eq!(proxy.connect(to[0]).read(&mut [0]).unwrap(), 0);
    for (client, server) in &mut ends {
        passes(client, server);
    }
    // The key is read like any other: the next files end what the last ones have forbidden.
    proxy.reload(&registered(by_address("b.example.com", to[1], server), OpenConnections::Close));
    let [(forbidden, _), (client, server)] = &mut ends;
    assert_eq!(read_to_reset(forbidden), (true, 0));
    passes(client, server);
    drop(ends);
    proxy.is_quiet();
    assert_eq!(closed(&proxy, "policy_changed"), 1.0);
}

#[test]
fn an_idle_http_connection_ends_if_its_last_host_is_forbidden() {
    let web = Web::start(|_, _| b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec());
    let entries = ["a.example.com", "b.example.com"].map(|host| by_name(host, "HTTP", web.address));
    let proxy = Proxy::start(registered(entries.concat(), OpenConnections::Close));
    let ask = |client: &mut TcpStream, host: &str| {
        client.write_all(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).unwrap();
        let mut head = [0; 38];
        client.read_exact(&mut head).unwrap();
        assert!(head.starts_with(b"HTTP/1.1 200"), "{head:?}");
    };
    let mut clients = [(); 2].map(|()| proxy.connect(at(3, 8080)));
    ask(&mut clients[0], "a.example.com");
    // The last host counts.
    ask(&mut clients[1], "a.example.com");
    ask(&mut clients[1], "b.example.com");
    let [_, second] = entries;
    proxy.reload(&registered(second, OpenConnections::Close));
    assert_eq!(read_to_reset(&mut clients[0]), (true, 0));
    ask(&mut clients[1], "b.example.com");
    drop(clients);
    proxy.is_quiet();
    assert_eq!(closed(&proxy, "policy_changed"), 1.0);
    let all = [("response_code", "200"), ("response_flags", "-")];
    assert_eq!(proxy.sum("istio_requests_total", &all), 4.0);
}

#[test]
fn a_name_that_found_no_room_among_the_label_sets_is_not_known_any_more() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let entry = |host: &str| by_name(host, "TLS", listener.local_addr().unwrap());
    let hosts = ["a.example.com", "b.example.com"];
    let both = hosts.map(entry).concat();
    let setup = Setup { series_max: 1, ..registered(both.clone(), OpenConnections::Close) };
    let proxy = Proxy::start(setup.clone());
    let open = |host: &str| {
        let mut client = proxy.connect(at(3, 8080));
        let server = served(&mut client, &listener, &tls::hello(host));
        (client, server)
    };
    let [(mut kept, mut its_server), (mut lost, _server)] = hosts.map(open);
    proxy.reload(&Setup { registry: both + &entry("c.example.com"), ..setup });
    assert_eq!(read_to_reset(&mut lost), (true, 0));
    passes(&mut kept, &mut its_server);
    let (mut again, mut its_server) = open(hosts[1]);
    passes(&mut again, &mut its_server);
}

#[test]
fn thousands_are_closed_while_a_fresh_connection_is_served() {
    const MANY: u32 = 3_000;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = listener.local_addr().unwrap();
    let allowed = by_address("a.example.com", at(1, 5432), server);
    // The address decides at once.
    let names = "enabled: false".to_owned();
    let before =
        Setup { connections: 2 * MANY, per_source: Some(2 * MANY), names, ..Setup::default() };
    let proxy = Proxy::start(before.clone());
    let mut ends: Vec<_> = (0..MANY)
        .map(|_| {
            let client = proxy.connect(server);
            (client, listener.accept().unwrap().0)
        })
        .collect();
    let turns = proxy.sum("egret_worker_turns_total", &[]);
    let open_connections = OpenConnections::Close;
    proxy.reload(&Setup {
        mode: Mode::RegistryOnly,
        registry: allowed,
        open_connections,
        ..before
    });
    let mut fresh = proxy.connect(at(1, 5432));
    let mut its_server = served(&mut fresh, &listener, b"fresh");
    passes(&mut fresh, &mut its_server);
    for (client, server) in &mut ends {
        assert_eq!(read_to_reset(client), (true, 0));
        server.set_read_timeout(Some(LONG)).unwrap();
        assert_eq!(read_to_reset(server), (true, 0));
    }
    assert_eq!(closed(&proxy, "policy_changed"), f64::from(MANY));
    assert!(proxy.sum("egret_worker_turns_total", &[]) >= turns + 3.0, "1 000 a turn");
    passes(&mut fresh, &mut its_server);
    drop((fresh, its_server));
    proxy.is_quiet();
}

#[test]
fn an_operator_ends_connections_by_hand() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = listener.local_addr().unwrap();
    let hosts = ["a.example.com", "b.example.com", "c.example.com"];
    let entries = hosts.map(|host| by_name(host, "TLS", server)).concat();
    let proxy = Proxy::start(Setup { workers: 2, ..registered(entries, OpenConnections::Keep) });
    let mut ends: Vec<_> = [(1, hosts[0]), (1, hosts[1]), (2, hosts[2]), (2, hosts[2])]
        .into_iter()
        .map(|(last, host)| {
            let mut client = proxy.connect(at(last, 8080));
            let server = served(&mut client, &listener, &tls::hello(host));
            (client, server)
        })
        .collect();
    let addresses = proxy.app().addresses.control;
    let close = |query: &str| {
        let (status, body) =
            proxy.ask("POST", addresses.admin, &format!("/connections/close{query}"));
        (status, serde_json::from_str::<serde_json::Value>(&body).unwrap())
    };
    for (query, error) in [
        ("", "at least one of source, destination, service, name is needed"),
        ("?host=a.example.com", "host is not known"),
        ("?source=a.example.com", "neither an IP address nor a prefix"),
    ] {
        let (status, body) = close(query);
        assert_eq!(status, 400, "{query}");
        assert!(body["error"].as_str().unwrap().contains(error), "{query}: {body}");
    }
    assert_eq!(proxy.get(addresses.admin, "/connections/close?source=127.0.0.1").0, 405);
    let elsewhere = proxy.ask("POST", addresses.metrics, "/connections/close?source=127.0.0.1");
    assert_eq!(elsewhere.0, 404);
    for (client, server) in &mut ends {
        passes(client, server);
    }
    // From the last one on, so that the first ones are seen to live.
    for (query, count) in [
        ("?source=10.0.0.0/8", 0),
        ("?destination=192.0.2.2:8080&source=127.0.0.1", 2),
        ("?name=b.example.com", 1),
        ("?service=a.example.com", 1),
        ("?source=127.0.0.0/8", 0),
    ] {
        let (status, body) = close(query);
        assert_eq!((status, &body["closed"]), (200, &count.into()), "{query}: {body}");
        assert_eq!(body["unanswered"], serde_json::json!([]), "{query}");
        for (mut client, mut server) in ends.split_off(ends.len() - count) {
            assert_eq!(read_to_reset(&mut client), (true, 0), "{query}");
            assert_eq!(read_to_reset(&mut server), (true, 0), "{query}");
        }
        for (client, server) in &mut ends {
            passes(client, server);
        }
    }
    proxy.is_quiet();
    assert_eq!(closed(&proxy, "closed_by_admin"), 4.0);
    let flags = [("response_flags", "LR")];
    assert_eq!(proxy.sum("istio_tcp_connections_closed_total", &flags), 4.0);
}
