"""One proxy, started anew in a new lab, seen to carry traffic on the path that was meant."""

import contextlib
import json
import pathlib
import signal
import socket
import urllib.request

from . import lab as place
from .errors import CheckFailed
from .profiles import HOSTS


class Session:
    """A running proxy with the servers behind it; a context manager."""

    def __init__(self, course, peer, stage):
        self.peer = peer
        self.stage = stage
        self.tools = course.tools
        self.cpus = ",".join(map(str, course.options.cpus))
        self.one_core = len(course.options.cpus) == 1
        self.workers = len(course.options.cpus)
        self.directory = course.directory / f"{peer.name}-{stage}"
        self.lab = place.Lab(f"{course.lab_name}-{peer.name}", self.directory, self.cpus)
        self.proxy = None
        self._server = None
        self._counts_read = 0
        self._cleanup = contextlib.ExitStack()

    def __enter__(self):
        self.directory.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as cleanup:
            cleanup.enter_context(self.lab)
            self._start_server()
            if not self.peer.is_direct:
                self._start_proxy(cleanup)
            self.check()
            self._check_path()
            self._cleanup = cleanup.pop_all()
        return self

    def __exit__(self, *error):
        self.close()

    def close(self):
        """Ends all that it started; again is allowed."""
        self._cleanup.close()

    @property
    def pids(self):
        """The proxy's processes: nginx has a master and its workers. Empty without a proxy."""
        if not self.proxy:
            return []
        pid = self.proxy.pid
        children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [pid, *map(int, children)]

    @property
    def server_pid(self):
        return self._server.pid

    def loadgen(self, part, name, arguments):
        """Starts the load generator: one thread, or one on each processor in mode spread."""
        command = [self.tools["loadgen"], *arguments]
        if not self.one_core:
            command += ["--cpus", self.cpus]
        return self.lab.spawn(part, name, command)

    def _start_server(self):
        self._server = self.loadgen("out", "server", [
            "serve", "--address", place.SERVER, "--echo", place.ECHO, "--sink", place.SINK,
            "--source", place.SOURCE, "--http", place.HTTP])
        self._wait_for(self._server, "the server to be ready",
                       lambda: "ready" in self._server.log.read_text())

    def _start_proxy(self, cleanup):
        peer = self.peer
        config = peer.render(self.directory, self.workers, self.stage == "blackhole")
        handed_down, environment = (), {}
        if peer.program == "nginx":
            listener = cleanup.enter_context(self.lab.transparent_listener("node", peer.port))
            handed_down, environment = (listener.fileno(),), {"NGINX": f"{listener.fileno()};"}
        self.proxy = self.lab.spawn(
            "node", peer.name, peer.command(self.tools, config, self.workers),
            pass_fds=handed_down, environment=environment)
        self._wait_for(self.proxy, f"{peer.name} to listen",
                       lambda: self.lab.listens("node", peer.port))
        self.lab.redirect_to(peer.port, peer.capture, peer.untracked)

    def _wait_for(self, process, what, condition):
        place.wait_until(20, what, lambda: not process.runs() or condition())
        if not process.runs():
            raise CheckFailed(f"{process.name} did not start; it said: {process.said()}")

    def check(self):
        """The proxy lives, and in mode one-core every thread of it is on the core."""
        death = self.death()
        if death:
            raise CheckFailed(death)
        if self.one_core:
            stray = {allowed for allowed in self._allowed_processors() if allowed != self.cpus}
            if stray:
                raise CheckFailed(f"{self.peer.name} has threads that may leave core {self.cpus}: "
                                  f"{', '.join(sorted(stray))}")

    def death(self, within=0):
        """How the proxy or the server died, or None if both still live after so many seconds."""
        for process in filter(None, (self.proxy, self._server)):
            end = process.end(within)
            if end:
                return f"{process.name} died ({end}); it said: {process.said()}"
        return None

    def _allowed_processors(self):
        for pid in self.pids:
            for status in pathlib.Path(f"/proc/{pid}/task").glob("*/status"):
                # A thread may end between the listing and the reading.
                with contextlib.suppress(OSError):
                    for line in status.read_text().splitlines():
                        if line.startswith("Cpus_allowed_list:"):
                            yield line.split()[1]

    def _check_path(self):
        """One connection: its bytes come back, and the server sees whom it should see."""
        if self.stage == "blackhole":
            return self._check_blackhole()
        by_http = not self.peer.relays_connections
        port = place.HTTP if by_http else place.ECHO
        question = f"GET / HTTP/1.1\r\nHost: {HOSTS[0]}\r\n\r\n".encode() if by_http else b"?"
        with self._connect(port) as connection:
            connection.sendall(question)
            answer = connection.recv(4096)
            seen = self.lab.peers_of("out", port)
            tracked = self.lab.tracked("node")
        if not answer.startswith(b"HTTP/1.1 200" if by_http else b"?"):
            raise CheckFailed(f"{self.peer.name} does not carry traffic: {answer[:80]!r}")
        expected = {place.POD if self.peer.is_direct else place.NODE_OUTSIDE}
        if seen != expected:
            raise CheckFailed(f"{self.peer.name}: the server saw {', '.join(seen) or 'nobody'}, "
                              f"not {', '.join(expected)}: the path is another one")
        if bool(tracked) != self.peer.is_tracked:
            raise CheckFailed(f"{self.peer.name}: the node tracks {tracked} connections of "
                              "this one")

    def _check_blackhole(self):
        with contextlib.ExitStack() as closing:
            try:
                answer = closing.enter_context(self._connect(place.ECHO)).recv(1)
            except ConnectionResetError:
                # On another core the proxy may be so quick that connect(2) itself reports it.
                answer = b""
            if answer or self.lab.peers_of("out", place.ECHO):
                raise CheckFailed(f"{self.peer.name} lets a connection pass that it should not")

    def _connect(self, port):
        with self.lab.inside("pod"):
            return socket.create_connection((place.SERVER, port), timeout=5)

    def counts(self):
        """What the server counted since it began: connections accepted, bytes, requests."""
        lines = self._count_lines()
        self._server.signal(signal.SIGUSR1)
        place.wait_until(5, "the server's counts", lambda: len(self._count_lines()) > len(lines))
        return json.loads(self._count_lines()[-1])

    def _count_lines(self):
        text = self._server.log.read_text()
        return [line for line in text.splitlines() if line.startswith("{") and line.endswith("}")]

    def get(self, url):
        """The body at this URL of the node."""
        with self.lab.inside("node"), urllib.request.urlopen(url, timeout=5) as answer:
            return answer.read()
