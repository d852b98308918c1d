"""Who is measured: each proxy as its own users would run it for this job."""

import dataclasses
import fnmatch
import pathlib
import shutil

from .errors import UsageError
from .lab import PERF
from .profiles import BY_NAME, MAXIMUM

CONFIGURATIONS = PERF / "peers"

# The key of the binary that --egret-b names.
OTHER_BINARY = "egret-b"

TCP_ONLY = frozenset(BY_NAME)
HTTP_ONLY = frozenset({"http"})

# What tells most of a relay in the least time; and everything but the larger messages.
BASICS = frozenset({"rr1", "rr64", "rr512", "churn", "bulk"})
ONE_SIZE = frozenset(name for name in BY_NAME if not name.endswith(("-1k", "-16k")))

NO_STATISTICS = "it has no statistics endpoint for TCP"
NO_RELOAD = "its configuration is not swapped under load here"
NO_POLICY = "it has no policy"
NO_PROXY = "there is no proxy"


@dataclasses.dataclass(frozen=True)
class Peer:
    """One proxy. `program` is a key of tools.Tools; `arguments` may hold {config}, {workers}."""

    name: str
    label: str
    program: str = ""
    arguments: tuple = ()
    port: int = 0
    capture: str = "redirect"
    # What connection tracking leaves out on the node: `own`, by the mark of the proxy's own
    # connections; `all` TCP, for a proxy that sets none.
    untracked: str = ""
    config: str = ""
    # The configuration that lets nothing pass.
    blackhole: str = ""
    # http://127.0.0.1... in the node, or empty.
    statistics: str = ""
    measures: frozenset = TCP_ONLY
    leaves_out: dict = dataclasses.field(default_factory=dict)
    # What it is measured in by a run that names neither proxies nor profiles; None: everything.
    # An empty set leaves it out of such a run.
    usual: frozenset = None

    @property
    def is_direct(self):
        return not self.program

    @property
    def is_other_binary(self):
        """Whether it is the Egret that --egret-b names."""
        return self.program == OTHER_BINARY

    @property
    def relays_connections(self):
        """Whether each connection to it becomes one to the server."""
        return MAXIMUM in self.measures

    @property
    def is_tracked(self):
        """Whether the node's connection tracking knows its connections."""
        return not self.is_direct and not self.untracked

    def is_usual(self, profile):
        return self.usual is None or profile in self.usual

    def measured_by(self, profile):
        return profile.name in self.measures and profile.name not in self.leaves_out

    def render(self, directory, workers, blackholes=False):
        """Writes the configuration for this mode; returns its path."""
        directory = pathlib.Path(directory)
        name = self.blackhole if blackholes else self.config
        if not name:
            return directory
        text = (CONFIGURATIONS / name).read_text()
        for word, value in {"workers": workers, "directory": directory,
                            "capture": self.capture,
                            "transparent": "transparent" * (self.capture == "tproxy")}.items():
            text = text.replace(f"@{word}@", str(value))
        path = directory / name
        path.write_text(text)
        registry = directory / "registry.d"
        registry.mkdir(exist_ok=True)
        entries = CONFIGURATIONS / f"{path.stem}.registry.yaml"
        if entries.exists():
            shutil.copy(entries, registry)
        return path

    def command(self, tools, config, workers):
        return [tools[self.program],
                *(word.format(config=config, workers=workers, port=self.port)
                  for word in self.arguments)]


def _egret(name, label, program="egret", config="egret.yaml", **more):
    return Peer(name, label, program, ("run", "--config", "{config}"), 15001, config=config,
                blackhole="egret-blackhole.yaml",
                statistics="http://127.0.0.1:15020/metrics", **more)


def _haproxy(name, label, config="haproxy.cfg", **more):
    return Peer(name, label, "haproxy", ("-db", "-f", "{config}"), 16001, config=config, **more)


def _haproxy_tcp(name, label, **more):
    return _haproxy(name, label, blackhole="haproxy-blackhole.cfg",
                    statistics="http://127.0.0.1:16020/metrics", leaves_out={"reload": NO_RELOAD},
                    **more)


def _envoy(name, label, **more):
    return Peer(name, label, "envoy",
                ("--config-path", "{config}", "--concurrency", "{workers}",
                 # No shared memory with a second Envoy, which these runs never start.
                 "--disable-hot-restart", "--log-level", "warning"), 18001, **more)


def _baseline(name):
    # One thread whatever the mode: they show what a runtime costs, not how it scales.
    return Peer(name, f"{name} relay", f"relay-{name}", ("{port}",), 19001,
                leaves_out={"blackhole": NO_POLICY, "scrape": NO_STATISTICS, "reload": NO_RELOAD},
                usual=BASICS)


PEERS = (
    Peer("direct", "no proxy", capture="",
         leaves_out=dict.fromkeys(("blackhole", "scrape", "reload", "account"), NO_PROXY)),
    _haproxy_tcp("haproxy", "HAProxy, TCP"),
    _haproxy_tcp("haproxy-tproxy", "HAProxy, TCP, TPROXY", capture="tproxy",
                 usual=BASICS | {"idle"}),
    _haproxy_tcp("haproxy-untracked", "HAProxy, TCP, TPROXY without connection tracking",
                 capture="tproxy", untracked="all", usual=frozenset()),
    _haproxy("haproxy-http", "HAProxy, HTTP", "haproxy-http.cfg", measures=HTTP_ONLY),
    _envoy("envoy", "Envoy, TCP", config="envoy.yaml", blackhole="envoy-blackhole.yaml",
           statistics="http://127.0.0.1:18020/stats/prometheus",
           leaves_out={"reload": NO_RELOAD}),
    _envoy("envoy-http", "Envoy, HTTP", config="envoy-http.yaml", measures=HTTP_ONLY),
    Peer("nginx", "nginx stream, TPROXY", "nginx", ("-c", "{config}"), 17001, capture="tproxy",
         config="nginx.conf", blackhole="nginx-blackhole.conf",
         leaves_out={"scrape": NO_STATISTICS, "reload": NO_RELOAD}, usual=ONE_SIZE),
    _egret("egret", "Egret"),
    # Beside the proxy that it is compared with, so that their slices are neighbours in time.
    _egret("egret-b", "Egret, the other binary", program=OTHER_BINARY),
    _egret("egret-tproxy", "Egret, TPROXY", capture="tproxy", usual=BASICS | {"idle"}),
    _egret("egret-untracked", "Egret, TPROXY without connection tracking", capture="tproxy",
           untracked="own", usual=frozenset()),
    _egret("egret-unnamed", "Egret, names off", config="egret-unnamed.yaml",
           usual=frozenset({"rr64", "churn", "http"})),
    _egret("egret-http", "Egret, HTTP", config="egret-http.yaml", measures=HTTP_ONLY),
    _egret("egret-http-b", "Egret, HTTP, the other binary", program=OTHER_BINARY,
           config="egret-http.yaml", measures=HTTP_ONLY),
    _baseline("monoio"),
    _baseline("tokio-uring"),
    _baseline("tokio"),
)
BY_PEER_NAME = {peer.name: peer for peer in PEERS}
# Each measures the same profiles with the same configuration as the proxy that it is compared with.
PAIRS = {"egret-b": "egret", "egret-http-b": "egret-http"}
# Those of the other binary only where there is one.
DEFAULT = tuple(peer.name for peer in PEERS
                if not peer.is_other_binary and (peer.usual is None or peer.usual))
# For the profiles `targets`.
TARGETS = ("direct", "haproxy", "haproxy-tproxy", "haproxy-http", "envoy", "envoy-http",
           "egret", "egret-tproxy", "egret-http")
# What others are compared with.
BASES = ("haproxy", "envoy")
# What a base's own HTTP mode is called.
HTTP_BASES = {"haproxy": "haproxy-http", "envoy": "envoy-http", "egret": "egret-http"}
QUICK = ("direct", "haproxy", "haproxy-http", "envoy", "envoy-http", "egret", "egret-http")


def select(patterns):
    """Names or shell patterns, in the order of the table."""
    chosen = set()
    for pattern in patterns:
        names = fnmatch.filter(BY_PEER_NAME, pattern)
        if not names:
            raise UsageError(f"there is no proxy '{pattern}': {', '.join(BY_PEER_NAME)}")
        chosen.update(names)
    return [peer for peer in PEERS if peer.name in chosen]


def bases(settings):
    """What ratios are taken against: HAProxy and Envoy; without these, Egret, or the first."""
    proxies = settings["proxies"]
    return [base for base in BASES if base in proxies] or \
        [base for base in ("egret",) if base in proxies] or proxies[:1]


def pairs(settings):
    """(other, first) of each configuration that was measured with both binaries."""
    proxies = settings["proxies"]
    return [(other, first) for other, first in PAIRS.items()
            if other in proxies and first in proxies]


def measured(points, profile):
    """The proxies that have points of this profile."""
    return [peer.name for peer in PEERS if points.has(profile, peer.name)]
