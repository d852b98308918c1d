"""What load there is: each profile asks one question (perf/README.md has them in full).

A profile belongs to a stage: its proxy starts anew for each round of a stage, in a new lab. In some
stages all proxies run side by side and are measured in turn; in the others each runs alone.
"""

import dataclasses
import fnmatch

from .errors import UsageError
from .lab import ECHO, HTTP, SERVER, SINK, SOURCE

IDLE_CONNECTIONS = 4000
HOSTS = ("orders.example.com", "payments.example.com")
# The shares of its own maximum (rr64) at which each proxy's latency is measured.
RATE_SHARES = {"open20": 0.2, "open50": 0.5, "open80": 0.8}
# What `scrape` and `reload` are compared with: the same rate without the disturbance.
UNDISTURBED = "open50"
MAXIMUM = "rr64"

STAGES = ("relay", "blackhole", "idle", "account")
SIDE_BY_SIDE = ("relay", "blackhole")


@dataclasses.dataclass(frozen=True)
class Profile:
    """One kind of point."""

    name: str
    question: str
    # loadgen's command and its arguments; empty for what is not one run of loadgen.
    load: tuple = ()
    # Where the figure is in loadgen's line, and its unit.
    figure: str = "per_second"
    unit: str = "requests/s"
    stage: str = "relay"
    # Bytes of a request; its answer has as many.
    message: int = 0
    # Connections that are opened once and kept; 0 where they are not.
    kept: int = 0
    # Open loop: the share of the proxy's own maximum.
    share: float = 0.0
    # A new connection for each request.
    churns: bool = False
    disturbance: str = ""
    # Whether percentiles are shown of it; they need a point's time in one piece.
    shows_percentiles: bool = False

    @property
    def is_open_loop(self):
        return self.share > 0

    @property
    def is_throughput(self):
        """Whether more is better, and a ratio to the base says something."""
        return self.stage != "account" and self.stage != "idle" and not self.is_open_loop

    @property
    def is_cut(self):
        """Whether its rounds are cut into slices, which are enough where the figure is a rate."""
        return self.is_throughput and not self.shows_percentiles


def _rr(connections, message, suffix):
    return Profile(
        f"rr{connections}{suffix}",
        f"requests a second, {connections} kept connection{'s' * (connections > 1)}, "
        f"messages of {message} bytes",
        ("rr", "--target", f"{SERVER}:{ECHO}", "--connections", connections,
         "--message", message),
        message=message, kept=connections)


def _open(name, share, question, disturbance=""):
    return dataclasses.replace(
        _rr(64, 64, ""), name=name, question=question, share=share, figure="latency_us.p99",
        unit="us (p99)", disturbance=disturbance)


PROFILES = (
    *(_rr(connections, message, suffix)
      for message, suffix in ((64, ""), (1024, "-1k"), (16384, "-16k"))
      for connections in (1, 64, 512)),
    Profile("bulk", "bytes a second outwards, 2 streams",
            ("bulk", "--target", f"{SERVER}:{SINK}", "--streams", 2, "--direction", "up"),
            figure="bits_per_second", unit="bit/s", kept=2),
    Profile("bulk-down", "bytes a second inwards, 2 streams",
            ("bulk", "--target", f"{SERVER}:{SOURCE}", "--streams", 2, "--direction", "down"),
            figure="bits_per_second", unit="bit/s", kept=2),
    Profile("mixed", "fairness: 100 request/response flows beside one bulk flow",
            ("mixed", "--target", f"{SERVER}:{ECHO}", "--connections", 100, "--message", 64,
             "--bulk-target", f"{SERVER}:{SINK}", "--streams", 1),
            message=64, kept=101, shows_percentiles=True),
    Profile("http", "HTTP/1.1 requests a second, 64 kept connections, two hosts in turn",
            ("http", "--target", f"{SERVER}:{HTTP}", "--connections", 64,
             *(word for host in HOSTS for word in ("--host", host))), kept=64),
    *(_open(name, share, f"latency at {share:.0%} of the proxy's own maximum")
      for name, share in RATE_SHARES.items()),
    _open("scrape", RATE_SHARES[UNDISTURBED],
          "latency while the metrics are scraped ten times a second", "scrape"),
    _open("reload", RATE_SHARES[UNDISTURBED],
          "latency while the configuration changes every second", "reload"),
    # Last of its round, because of what it leaves in TIME_WAIT.
    Profile("churn", "connect, one request, one answer, close; 64 at a time",
            ("churn", "--target", f"{SERVER}:{ECHO}", "--connections", 64, "--message", 64),
            message=64, churns=True),
    Profile("idle", f"memory for {IDLE_CONNECTIONS} connections that fell silent",
            figure="total_kib", unit="KiB/connection", stage="idle"),
    Profile("blackhole", "connections a second that are refused by policy, 64 at a time",
            ("blackhole", "--target", f"{SERVER}:{ECHO}", "--connections", 64),
            unit="connections/s", stage="blackhole"),
    Profile("account", "system calls for a request, and the share of the kernel's TCP (once)",
            unit="system calls/request", stage="account"),
)
BY_NAME = {profile.name: profile for profile in PROFILES}
QUICK = ("rr64", "bulk", "http", "churn")
# What suite/targets.py asks for.
TARGETS = ("rr1", "rr64", "rr512", "churn", "bulk", "http", "idle", "account")
# Names for several at once.
ALIASES = {"open-loop": tuple(RATE_SHARES), "targets": TARGETS}


def select(patterns):
    """Names or shell patterns, with the profiles that these need; in the order of measurement."""
    chosen = set()
    for pattern in patterns:
        names = ALIASES.get(pattern) or fnmatch.filter(BY_NAME, pattern)
        if not names:
            raise UsageError(f"there is no profile '{pattern}': {', '.join((*BY_NAME, *ALIASES))}")
        chosen.update(names)
    if any(BY_NAME[name].is_open_loop for name in chosen):
        chosen.add(MAXIMUM)
    if any(BY_NAME[name].disturbance for name in chosen):
        chosen.add(UNDISTURBED)
    return [profile for profile in PROFILES if profile.name in chosen]
