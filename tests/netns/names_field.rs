//! What programs in the field do on a port where somebody else has registered a host: proxies,
//! streams behind HTTP/1.0, responses that only their server can frame.

use crate::lab::{Lab, web};
use crate::options::{Options, Policy, named_entry};
use crate::programs::{Nginx, behind_nginx, curl, node_server, python, python_server};
use crate::proxy::Proxy;

/// A server of Python: `serve(connection)` for each connection, in a thread of its own.
fn python_program(serve: &str) -> String {
    format!(
        "import socket, sys, threading, time\n\
         def head(c):\n    \
             got = b''\n    \
             while not got.endswith(b'\\r\\n\\r\\n'):\n        \
                 byte = c.recv(1)\n        \
                 if not byte: return b''\n        \
                 got += byte\n    \
             return got\n\
         {serve}\n\
         host, port = sys.argv[1].rsplit(':', 1)\n\
         listener = socket.create_server((host, int(port)))\n\
         while True:\n    \
             connection, _ = listener.accept()\n    \
             threading.Thread(target=serve, args=(connection,), daemon=True).start()\n"
    )
}

/// `ALLOW_ANY`, with a host on `port` with which the test has nothing to do.
fn beside_another(port: u16) -> Options {
    let registry = named_entry("build.other.test", "HTTP", port, Some(web(11, 9999)));
    Options { registry, ..Options::default() }
}

#[test]
fn a_proxy_that_nobody_has_registered_is_used_as_if_nothing_were_registered() {
    let lab = Lab::new();
    let at = web(10, 3128);
    let serve = "def serve(c):
    asked = head(c)
    if asked.startswith(b'CONNECT'):
        c.sendall(b'HTTP/1.1 200 Connection established\\r\\n\\r\\n')
        asked = head(c)
    line = asked.split(b'\\r\\n')[0]
    c.sendall(b'HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\nConnection: close\\r\\n\\r\\n%s'
              % (len(line), line))
    c.close()";
    let server = python_server(&lab, &[at], &python_program(serve));
    let proxy = Proxy::start(&lab, &beside_another(at.port()));
    let by = format!("http://{at}");
    let ask = |more: &[&str]| {
        let arguments =
            [&["--noproxy", "", "--proxy", &by], more, &["http://news.test/a"]].concat();
        curl(&lab, &arguments).text()
    };
    assert_eq!(ask(&[]), "GET http://news.test/a HTTP/1.1");
    assert_eq!(ask(&["--proxytunnel"]), "GET /a HTTP/1.1");
    proxy.wait_for_metric("egret_http_unjudged_total", &[("reason", "connect")], 1);
    drop(server);
    proxy.finish();
}

#[test]
fn a_stream_behind_http_1_0_passes_both_ways() {
    let lab = Lab::new();
    let at = web(10, 2101);
    let serve = "def serve(c):
    head(c)
    c.sendall(b'ICY 200 OK\\r\\n\\r\\n')
    while True:
        sentence = c.recv(1000)
        if not sentence: return
        c.sendall(b'\\xd3' + sentence)";
    let server = python_server(&lab, &[at], &python_program(serve));
    let proxy = Proxy::start(&lab, &beside_another(at.port()));
    let client = "import socket, sys
host, port = sys.argv[1].rsplit(':', 1)
s = socket.create_connection((host, int(port)), 10)
s.sendall(b'GET /VRS HTTP/1.0\\r\\nUser-Agent: NTRIP rover/1\\r\\n\\r\\n')
while not s.recv(1000).endswith(b'\\r\\n\\r\\n'): pass
for n in range(3):
    sentence = b'$GPGGA,%d\\r\\n' % n
    s.sendall(sentence)
    assert s.recv(1000) == b'\\xd3' + sentence
print('whole')";
    assert_eq!(python(&lab, client, &[&at.to_string()]), "whole\n");
    drop(server);
    proxy.finish();
}

#[test]
fn a_source_of_a_radio_stream_passes_behind_its_odd_method() {
    let lab = Lab::new();
    let at = web(10, 8000);
    let serve = "def serve(c):
    line = head(c).split(b'\\r\\n')[0]
    c.sendall(b'HTTP/1.0 200 OK\\r\\n\\r\\n')
    got = b''
    while len(got) < 50000: got += c.recv(50000)
    c.sendall(b'%s: %d' % (line, len(got)))
    c.close()";
    let server = python_server(&lab, &[at], &python_program(serve));
    let proxy = Proxy::start(&lab, &beside_another(at.port()));
    let client = "import socket, sys
host, port = sys.argv[1].rsplit(':', 1)
s = socket.create_connection((host, int(port)), 10)
s.sendall(b'SOURCE /live ICE/1.0\\r\\nContent-Type: audio/mpeg\\r\\nIce-Public: 0\\r\\n\\r\\n')
while not s.recv(1000).endswith(b'\\r\\n\\r\\n'): pass
s.sendall(b'\\xff\\xfb' * 25000)
print(s.recv(1000).decode())";
    assert_eq!(python(&lab, client, &[&at.to_string()]), "SOURCE /live ICE/1.0: 50000\n");
    drop(server);
    proxy.finish();
}

/// Node.js, too, gives a response up when its client ends its half.
#[test]
fn a_slow_response_of_node_that_cannot_be_framed_is_whole() {
    let lab = Lab::new();
    let at = web(10, 80);
    let serve = "const [host, port] = process.argv.at(-1).split(':');
        require('http').createServer({ maxHeaderSize: 65536 }, (request, response) => {
            for (let n = 0; n < 140; n++) response.setHeader('x-link-' + n, 'x');
            let left = 8;
            const timer = setInterval(() => {
                response.write('z'.repeat(5000));
                if (--left === 0) { clearInterval(timer); response.end(); }
            }, 100);
        }).listen(Number(port), host);";
    let server = node_server(&lab, &[at], serve);
    fetch_unframed(&lab, &format!("http://{at}/"));
    drop(server);
}

/// nginx as a reverse proxy gives a response up when its client ends its half (status 499), and so
/// does Go's server: a FIN that the workload has not sent would cut it off.
#[test]
fn a_slow_response_that_cannot_be_framed_is_whole() {
    let lab = Lab::new();
    let serve = "def serve(c):
    head(c)
    fields = b''.join(b'x-link-%d: x\\r\\n' % n for n in range(140))
    c.sendall(b'HTTP/1.1 200 OK\\r\\nContent-Length: 40000\\r\\n' + fields + b'\\r\\n')
    for _ in range(8):
        time.sleep(0.1)
        c.sendall(b'z' * 5000)";
    let behind = python_server(&lab, &[behind_nginx()], &python_program(serve));
    let nginx = Nginx::start(&lab, &[web(10, 80)], &[]);
    fetch_unframed(&lab, &format!("http://{}/behind", web(10, 80)));
    assert_eq!(nginx.log(), "files.test GET /behind 200\n");
    drop((nginx, behind));
}

/// Asks for 40 000 bytes of `files.test` behind a head that Egret cannot frame, and gets them all.
fn fetch_unframed(lab: &Lab, url: &str) {
    let registry = named_entry("files.test", "HTTP", 80, None);
    let policy = Policy::RegistryOnly;
    let proxy = Proxy::start(lab, &Options { policy, registry, ..Options::default() });
    let size = ["--output", "/dev/null", "--write-out", "%{http_code} %{size_download}"];
    let ran = curl(lab, &[&size[..], &["--header", "Host: files.test", url]].concat());
    assert_eq!(ran.text(), "200 40000");
    proxy.wait_for_metric("egret_http_unframed_answers_total", &[], 1);
    proxy.finish();
}
