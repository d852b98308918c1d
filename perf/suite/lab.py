"""The place where it happens: three network namespaces, and processes on chosen processors."""

import contextlib
import ctypes
import os
import pathlib
import signal
import socket
import subprocess
import time

from .errors import CheckFailed, SuiteError

ROOT = pathlib.Path(__file__).resolve().parents[2]
PERF = ROOT / "perf"
SCRIPTS = ROOT / "scripts"

# The addresses are those of scripts/lab.sh.
POD = "10.77.1.2"
NODE_OUTSIDE = "203.0.113.1"
SERVER = "203.0.113.10"

ECHO, SINK, SOURCE, HTTP = 7001, 7002, 7003, 8080

# Closed connections leave conntrack after this long, so that connect-request-close at full speed
# (two entries each) does not fill its table.
CONNTRACK_TIME_WAIT_SECONDS = 2

# Nodes track connections for the sake of rules like this one (it matches nothing here): without any
# such rule the kernel does not, and TPROXY would seem cheaper than it is on a node.
NODE_RULES = '''
table inet node {
    chain postrouting {
        type nat hook postrouting priority srcnat; policy accept;
        oifname "elsewhere" masquerade
    }
}
'''
# For proxies that `redirect.sh --no-conntrack` cannot tell from others, because they set no mark.
NO_TRACKING = '''
table inet untracked {
    chain prerouting {
        type filter hook prerouting priority raw; policy accept;
        meta l4proto tcp notrack
    }
    chain output {
        type filter hook output priority raw; policy accept;
        meta l4proto tcp notrack
    }
}
'''

CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


class Process:
    """A child with a log; on these processors, in the network namespace of whoever starts it."""

    def __init__(self, name, command, log, cpus, pass_fds=(), environment=None):
        self.name = name
        self.log = pathlib.Path(log)
        with open(self.log, "wb") as out, open(self.errors, "wb") as errors:
            self._child = subprocess.Popen(
                ["taskset", "--cpu-list", cpus, *map(str, command)],
                stdin=subprocess.DEVNULL, stdout=out, stderr=errors,
                pass_fds=pass_fds, env={**os.environ, **(environment or {})},
                # Ctrl-C is for the suite; it stops its children in order.
                start_new_session=True)
        self.pid = self._child.pid

    @property
    def errors(self):
        """Where standard error goes."""
        return self.log.with_name(self.log.name + ".err")

    def runs(self):
        return self._child.poll() is None

    def wait(self, seconds):
        """The exit code; stops the process when it takes longer."""
        try:
            return self._child.wait(seconds)
        except subprocess.TimeoutExpired:
            self.stop()
            raise CheckFailed(f"{self.name} did not end within {seconds:.0f} s") from None

    def end(self, within):
        """How it ended, or None if it still runs after so many seconds."""
        try:
            code = self._child.wait(within)
        except subprocess.TimeoutExpired:
            return None
        return f"signal {-code}" if code < 0 else f"exit code {code}"

    def signal(self, number):
        self._child.send_signal(number)

    def stop(self):
        """Asks twice (the second signal ends a proxy that drains), then insists."""
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
            if not self.runs():
                break
            self.signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(3)

    def said(self, lines=12):
        """The end of what it wrote, for an error message."""
        text = self.log.read_text(errors="replace") + self.errors.read_text(errors="replace")
        return "\n".join(text.splitlines()[-lines:]) or "nothing"


class Lab:
    """A new lab with the servers in `out`; everything in it ends with it.

    New for each proxy and round, because closed connections stay behind in TIME_WAIT for a minute.
    Some 14 000 of them hold every port of one parity, and from there on each connect(2) searches
    the whole range: a few dozen connections a second, for whoever is measured next.
    """

    def __init__(self, name, directory, cpus):
        self.name = name
        self.directory = pathlib.Path(directory)
        self.cpus = cpus
        self._processes = []

    def __enter__(self):
        script("lab.sh", "up", "--name", self.name)
        # The same cliff inside a single point: more ports; one in TIME_WAIT serves again after 1 s.
        for part in ("pod", "node"):
            self.set_sysctl(part, "net/ipv4/ip_local_port_range", "16384 65535")
            self.set_sysctl(part, "net/ipv4/tcp_tw_reuse", "1")
        for part in ("pod", "node", "out"):
            # Half a thousand connections at once must not meet a full accept queue.
            self.set_sysctl(part, "net/core/somaxconn", "4096")
        return self

    def __exit__(self, *_):
        for process in reversed(self._processes):
            process.stop()
        script("lab.sh", "down", "--name", self.name)

    @contextlib.contextmanager
    def inside(self, part):
        """This thread, and what it starts, is in the namespace: pod, node or out."""
        with open("/proc/thread-self/ns/net", "rb") as home, \
                open(f"/run/netns/{self.name}-{part}", "rb") as there:
            _enter(there)
            try:
                yield
            finally:
                _enter(home)

    def set_sysctl(self, part, key, value):
        with self.inside(part):
            pathlib.Path("/proc/sys", key).write_text(value)

    def spawn(self, part, name, command, cpus=None, **options):
        """Starts a process that the lab stops in the end, if nobody did before."""
        log = self.directory / f"{name}.log"
        with self.inside(part):
            process = Process(name, command, log, cpus or self.cpus, **options)
        self._processes.append(process)
        return process

    def redirect_to(self, port, mode, untracked):
        """What leaves the pod goes to this port of the node, which tracks connections; untracked
        `all`: no TCP, `own`: not the proxy's."""
        options = ["--no-conntrack"] if untracked == "own" else []
        with self.inside("node"):
            script("redirect.sh", "up", "--interface", "pod0", "--mode", mode, "--port", str(port),
                   *options)
        self.run("node", "nft", NODE_RULES + (NO_TRACKING if untracked == "all" else ""))
        # This key exists once a rule has brought conntrack into the namespace.
        with contextlib.suppress(FileNotFoundError):
            self.set_sysctl("node", "net/netfilter/nf_conntrack_tcp_timeout_time_wait",
                            str(CONNTRACK_TIME_WAIT_SECONDS))

    def transparent_listener(self, part, port):
        """A listening socket that accepts connections to any address (TPROXY)."""
        with self.inside(part):
            listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_IP, getattr(socket, "IP_TRANSPARENT", 19), 1)
        listener.bind(("0.0.0.0", port))
        listener.listen(4096)
        return listener

    def tracked(self, part):
        """How many connections connection tracking knows there."""
        with self.inside(part):
            try:
                return int(pathlib.Path("/proc/sys/net/netfilter/nf_conntrack_count").read_text())
            except FileNotFoundError:
                return 0

    def listens(self, part, port):
        return bool(self.run(part, "ss", "-Hltn", f"sport = :{port}").strip())

    def peers_of(self, part, port):
        """The addresses that are connected to this port."""
        lines = self.run(part, "ss", "-Htn", "state", "established", f"sport = :{port}")
        return {line.split()[3].rsplit(":", 1)[0].removeprefix("[::ffff:").rstrip("]")
                for line in lines.splitlines()}

    def run(self, part, *command):
        with self.inside(part):
            return subprocess.run(command, check=True, capture_output=True, text=True,
                                  timeout=20).stdout


def _enter(namespace):
    if _libc.setns(namespace.fileno(), CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def script(name, *arguments):
    """One of scripts/, which says itself what is wrong."""
    done = subprocess.run([SCRIPTS / name, *arguments], capture_output=True, text=True,
                          timeout=60, check=False)
    if done.returncode:
        raise SuiteError(f"scripts/{name} {' '.join(arguments)}: {done.stderr.strip()}")


def wait_until(seconds, what, condition):
    """Polls; CheckFailed names what did not happen in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise CheckFailed(f"waited {seconds} s for {what}")
        time.sleep(0.02)
