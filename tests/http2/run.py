"""Real clients and servers of HTTP/2, past Egret and through it: both ways must give the same.

scripts/http2.sh installs what is missing and runs this. h2spec judges each server, test by test;
a test that a server passes must pass through Egret, too. Before the first request Egret itself is
whom the client talks to, so a server may fail there and Egret not: that is printed. Each client
makes 200 requests to each server, with the same answers both ways.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "servers"))

from lab import DIRECT, VIA, Lab  # noqa: E402
from peers import Peer  # noqa: E402

REQUESTS = 200
NAMES = {"direct": "direct.allowed.example", "gated": "gated.allowed.example"}


def lighttpd(place):
    place.write("index.html", "hello")
    config = place.write(
        "lighttpd.conf",
        f"""
        server.port = {place.port}
        server.document-root = "{place.directory}"
        index-file.names = ("index.html")
        """,
    )
    return [["lighttpd", "-D", "-f", config]]


def nghttpd(place):
    place.write("index.html", "hello")
    return [["nghttpd", "--no-tls", "-d", place.directory, str(place.port)]]


def nghttpx(place):
    backend = str(place.behind)
    frontend = f"--frontend=*,{place.port};no-tls"
    return [
        ["nghttpd", "--no-tls", "-d", place.directory, backend],
        ["nghttpx", frontend, f"--backend=127.0.0.1,{backend};;proto=h2", "--workers=1"],
    ]


def h2o(place):
    place.write("index.html", "hello")
    config = place.write(
        "h2o.conf",
        f"""
        listen: {{host: 0.0.0.0, port: {place.port}}}
        user: root
        num-threads: 1
        hosts: {{default: {{paths: {{"/": {{file.dir: {place.directory}}}}}}}}}
        """,
    )
    return [["h2o", "-c", config]]


def node(place):
    script = place.write(
        "server.js",
        f"require('http2').createServer((q, r) => q.resume().on('end', () => r.end('hello'))).listen({place.port});",
    )
    return [["node", script]]


def go(kind):
    return lambda place: [[os.path.join(place.cache, "bin/peers"), kind, str(place.port)]]


def java(cache, *arguments):
    return ["java", "-Xmx128m", "-cp", f"{cache}/java/classes:{cache}/java/jars/*", "Peers", *arguments]


def vertx(place):
    return [java(place.cache, "vertx", str(place.port))]


QUICK = [Peer("go", go("server")), Peer("nghttpd", nghttpd), Peer("grpc", go("grpc-server"))]
NIGHTLY = [
    Peer("lighttpd", lighttpd),
    Peer("h2o", h2o),
    Peer("node", node),
    Peer("nghttpx", nghttpx),
    Peer("vertx", vertx),
]

NODE_CLIENT = """
const http2 = require('http2');
const session = http2.connect(process.argv[1]);
const ask = left => {
  if (!left) return session.close();
  const stream = session.request({':path': '/'});
  stream.on('response', head => console.log(head[':status'])).resume();
  stream.on('end', () => ask(left - 1)).on('error', error => console.log(error.code));
};
ask(Number(process.argv[2]));
"""

# What each client prints must be the same both ways.
CLIENTS = {
    "curl": lambda bin, at: ["sh", "-c", f"for n in $(seq {REQUESTS}); do curl -s --http2-prior-knowledge -o /dev/null "
    f"-w '%{{http_code}} %{{exitcode}}\n' http://{at}/; done"],
    "curl upgrade": lambda bin, at: ["sh", "-c", f"for n in $(seq {REQUESTS}); do curl -s --http2 -o /dev/null "
    f"-w '%{{http_code}} %{{http_version}} %{{exitcode}}\n' http://{at}/; done"],
    "nghttp": lambda bin, at: ["sh", "-c", f"nghttp -ns -m {REQUESTS} http://{at}/ | grep -o ' [0-9][0-9][0-9]  *[0-9KM]* '"],
    "go": lambda bin, at: [f"{bin}/peers", "client", at, str(REQUESTS)],
    "node": lambda bin, at: ["node", "-e", NODE_CLIENT, f"http://{at}", str(REQUESTS)],
    # It offers h2c with its first request.
    "jdk": lambda bin, at: java(os.path.dirname(bin), "jdk", f"http://{at}/", str(REQUESTS)),
    # It offers TLS with each request: these stay HTTP/1.1.
    "apache": lambda bin, at: java(os.path.dirname(bin), "apache", f"http://{at}/", str(REQUESTS)),
    "h2load": lambda bin, at: ["sh", "-c", f"h2load -n {REQUESTS} -c 4 -m 10 http://{at}/ | grep -E '^(requests|status)'"],
}
GRPC = {"grpc-go": lambda bin, at: [f"{bin}/peers", "grpc-client", at, str(REQUESTS)]}
QUICK_CLIENTS = ("curl", "nghttp", "go")

# A client that Egret has greeted gets the server's own SETTINGS with the first response. This test
# takes the next SETTINGS that come for the acknowledgement of its own.
GREETED = ("http2/6.9.2", "Changes SETTINGS_INITIAL_WINDOW_SIZE after sending HEADERS frame")


class Http2Lab(Lab):
    """A lab whose pod knows two names of the servers: past Egret, and through it."""

    def __enter__(self):
        self.etc = f"/etc/netns/{self.name}-pod"
        os.makedirs(self.etc)
        with open(os.path.join(self.etc, "hosts"), "w") as hosts:
            hosts.write(f"127.0.0.1 localhost\n{DIRECT} {NAMES['direct']}\n{VIA} {NAMES['gated']}\n")
        return super().__enter__()

    def __exit__(self, *end):
        super().__exit__(*end)
        shutil.rmtree(self.etc, ignore_errors=True)

    def ask(self, command):
        return subprocess.run([*self.namespace("pod"), *command], capture_output=True, text=True, timeout=600)

    def at(self, peer, way):
        return f"{NAMES[way]}:{self.places[peer.name].port}"


def h2spec(lab, peer, way, timeout):
    """What h2spec says of each of its tests."""
    report = lab.path(f"{peer.name}-{way}.xml")
    host, port = lab.at(peer, way).split(":")
    lab.ask([f"{lab.cache}/bin/h2spec", "-h", host, "-p", port, "-o", str(timeout), "-j", report])
    with open(report, errors="replace") as file:
        # It quotes what a server has sent: bytes that XML does not have.
        text = re.sub("[^\t\n\r\x20-\ufffd]", "?", file.read())
    results = {}
    for case in xml.etree.ElementTree.fromstring(text).iter("testcase"):
        failed = case.find("failure") is not None or case.find("error") is not None
        results[case.get("package"), case.get("classname")] = not failed
    return results


def judge(lab, peer, timeout):
    """Compares h2spec's two verdicts; how many tests a server passes alone."""
    direct, gated = (h2spec(lab, peer, way, timeout) for way in NAMES)
    # One that has failed may have waited too long on a busy machine.
    if any(direct[test] and not gated.get(test) for test in direct if test != GREETED):
        again = h2spec(lab, peer, "gated", 2 * timeout)
        gated = {test: passed or again.get(test, False) for test, passed in gated.items()}
    worse = [test for test in direct if direct[test] and not gated.get(test) and test != GREETED]
    better = [test for test in gated if gated[test] and not direct.get(test)]
    passed = sum(direct.values()), sum(gated.values())
    print(f"h2spec {peer.name}: {passed[0]} of {len(direct)} direct, {passed[1]} of {len(gated)} gated", flush=True)
    for word, tests in (("FAIL: passes direct only", worse), ("passes gated only", better)):
        for package, name in tests:
            print(f"  {word}: {package} {name}")
    return len(worse) + (not direct)


def compare(lab, peer, name, client):
    """Compares what a client sees both ways; how many of its lines differ."""
    bin = os.path.join(lab.cache, "bin")
    direct, gated = (lab.ask(client(bin, lab.at(peer, way))) for way in NAMES)
    lines = [re.sub(r"\s+", " ", run.stdout.strip()) for run in (direct, gated)]
    is_same = lines[0] == lines[1] and lines[0] and direct.returncode == gated.returncode
    print(f"{'ok' if is_same else 'FAIL'}: {name} to {peer.name}: {lines[0][:60]}", flush=True)
    if not is_same:
        print(f"  gated: {lines[1][:200]!r} {gated.stderr[-200:]!r}, exit codes {direct.returncode}, {gated.returncode}")
    return not is_same


def main():
    parser = argparse.ArgumentParser(description="see the head of this file")
    parser.add_argument("--egret", required=True, help="the program")
    parser.add_argument("--cache", required=True, help="where the clients are installed")
    parser.add_argument("--all", action="store_true", help="all servers and clients, for nights")
    parser.add_argument("--timeout", type=int, default=3, help="seconds that h2spec waits in a test")
    options = parser.parse_args()
    servers = QUICK + (NIGHTLY if options.all else [])
    faults = 0
    with Http2Lab(os.path.abspath(options.egret), options.cache, servers) as lab:
        for peer in servers:
            if peer.name == "grpc":
                faults += sum(compare(lab, peer, name, client) for name, client in GRPC.items())
                continue
            faults += judge(lab, peer, options.timeout)
            for name, client in CLIENTS.items():
                if options.all or name in QUICK_CLIENTS:
                    faults += compare(lab, peer, name, client)
    print(f"{faults} differences")
    return faults > 0


if __name__ == "__main__":
    sys.exit(main())
