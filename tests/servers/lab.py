"""Egret between a client and real servers: the namespaces of scripts/lab.sh, and the programs in them.

The client connects from the pod to VIA, which Egret captures and leads to ENDPOINT by the request's
host; DIRECT leads past Egret. All three are addresses of the namespace in which the servers run.
"""

import collections
import contextlib
import ctypes
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time

from peers import HERE, Place

ROOT = os.path.dirname(os.path.dirname(HERE))
VIA, DIRECT, ENDPOINT = "203.0.113.10", "203.0.113.11", "203.0.113.12"
FIRST_PORT = 8001
PATIENCE = 60  # seconds for anything that is expected to happen
LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET = 0x40000000


class Broken(Exception):
    """The test itself cannot go on."""


def wait_for(what, probe):
    """The first true value of `probe`."""
    give_up = time.monotonic() + PATIENCE
    while time.monotonic() < give_up:
        if value := probe():
            return value
        time.sleep(0.05)
    raise Broken(f"waited {PATIENCE} s for {what}")


class Lab:
    """The namespaces, Egret and the servers, until the `with` block ends."""

    def __init__(self, egret, cache, peers):
        self.egret, self.cache, self.peers = egret, cache, peers
        self.name = f"servers-{os.getpid()}"
        self.started = []
        self.places = {}
        self.records = {}

    def __enter__(self):
        self.directory = tempfile.TemporaryDirectory(prefix="egret-servers-")
        self.log = self.path("access.log")
        self.access_log = AccessLog(self.log)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        try:
            self.script("lab.sh", "up", "--name", self.name)
            self.start_egret()
            self.start_peers()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for process in reversed(self.started):
            process.terminate()
        for process in self.started:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.script("lab.sh", "down", "--name", self.name)
        self.directory.cleanup()

    def path(self, *parts):
        return os.path.join(self.directory.name, *parts)

    def script(self, name, *arguments, inside=()):
        command = [*inside, os.path.join(ROOT, "scripts", name), *arguments]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise Broken(f"{' '.join(command)}: {done.stderr or done.stdout}")

    def namespace(self, part):
        return ["ip", "netns", "exec", f"{self.name}-{part}"]

    @contextlib.contextmanager
    def inside(self, part):
        """Sockets that are made in the `with` block belong to a namespace."""
        with open("/proc/self/ns/net") as home, open(f"/run/netns/{self.name}-{part}") as away:
            LIBC.setns(away.fileno(), CLONE_NEWNET)
            try:
                yield
            finally:
                LIBC.setns(home.fileno(), CLONE_NEWNET)

    def start(self, part, command, log, **options):
        with open(log, "ab") as output:
            process = subprocess.Popen(
                [*self.namespace(part), *command], stdin=subprocess.DEVNULL, stdout=output, stderr=output, **options
            )
        self.started.append(process)
        return process

    def start_egret(self):
        config = {
            # It keeps the client's port, by which a line of the log is found; REDIRECT may change it.
            "listen": {"capture": "tproxy"},
            "workers": 1,
            "outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"},
            "registry": ["registry.yaml"],
            "workloads": None,
            "accessLog": {"format": "json", "path": self.log},
            # A client that has gone is waited for that long.
            "timeouts": {"halfClose": "1s"},
        }
        ports = range(FIRST_PORT, FIRST_PORT + len(self.peers))
        entry = {
            "apiVersion": "networking.istio.io/v1",
            "kind": "ServiceEntry",
            "metadata": {"name": "allowed", "namespace": "default"},
            "spec": {
                "hosts": ["*.allowed.example"],
                "ports": [{"number": port, "name": f"http-{port}", "protocol": "HTTP"} for port in ports],
                "resolution": "STATIC",
                "endpoints": [{"address": ENDPOINT}],
            },
        }
        # JSON is YAML.
        for name, content in (("egret.yaml", config), ("registry.yaml", entry)):
            with open(self.path(name), "w") as file:
                json.dump(content, file)
        self.start("node", [self.egret, "run", "--config", self.path("egret.yaml")], self.path("egret.log"))
        capture = ["up", "--mode", "tproxy", "--interface", "pod0", "--exclude", DIRECT + "/32"]
        self.script("redirect.sh", *capture, inside=self.namespace("node"))
        wait_for("Egret to be ready", lambda: self.get(15021, "/healthz/ready") is not None)

    def get(self, port, path):
        """What Egret's own server on a port answers; None if it does not, or not with 200."""
        with self.inside("node"):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            try:
                connection.request("GET", path)
                answer = connection.getresponse()
                text = answer.read().decode()
                return text if answer.status == 200 else None
            except (OSError, http.client.HTTPException):
                return None
            finally:
                connection.close()

    def metric(self, name):
        """The sum of a metric over its labels."""
        text = self.get(15020, "/metrics") or ""
        return sum(float(value) for value in re.findall(rf"^{name}(?:{{.*}})? (\S+)", text, re.MULTILINE))

    def start_peers(self):
        for number, peer in enumerate(self.peers):
            directory = self.path(peer.name)
            os.mkdir(directory)
            place = Place(FIRST_PORT + number, directory, self.path(peer.name + ".record"), self.cache)
            self.places[peer.name] = place
            self.records[peer.name] = Record(place.record)
            environment = dict(os.environ, RECORD=place.record, PYTHONPATH=HERE, PYTHONDONTWRITEBYTECODE="1", HOME=directory)
            for command in peer.commands(place):
                program = self.start("out", command, self.path(peer.name + ".log"), cwd=directory, env=environment)
            peer.process = program
        for peer in self.peers:
            wait_for(f"{peer.name} to listen", lambda peer=peer: self.listens(peer))

    def listens(self, peer):
        if peer.process.poll() is not None:
            raise Broken(f"{peer.name} has ended: {open(self.path(peer.name + '.log')).read()[-2000:]}")
        with self.inside("out"), socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.places[peer.name].port)) == 0

    def address(self, peer, is_direct):
        return (DIRECT if is_direct else VIA, self.places[peer.name].port)


class Lines:
    """The lines that are added to a file."""

    def __init__(self, path):
        self.path, self.at, self.rest = path, 0, b""

    def new(self):
        """The whole lines that have been added since the last call."""
        if not os.path.exists(self.path):
            return []
        with open(self.path, "rb") as file:
            file.seek(self.at)
            data = self.rest + file.read()
            self.at = file.tell()
        *lines, self.rest = data.split(b"\n")
        return lines


class Record:
    """What a server has read, by the key of the connection that it belongs to."""

    KEY = re.compile(rb"k[0-9a-f]{7}")

    def __init__(self, path):
        self.file, self.lines = Lines(path), collections.defaultdict(list)

    def read(self):
        for line in self.file.new():
            for key in set(self.KEY.findall(line)):
                self.lines[key].append(line)
        return self.lines


class AccessLog:
    """What Egret says of each connection, by its two addresses; and all paths."""

    def __init__(self, path):
        self.file, self.lines, self.keys = Lines(path), collections.defaultdict(list), set()

    def read(self):
        for text in self.file.new():
            line = json.loads(text)
            self.lines[line["downstream_remote_address"], line["original_destination"]].append(line)
            self.keys.update(Record.KEY.findall((line["path"] or "").encode()))
        return self
