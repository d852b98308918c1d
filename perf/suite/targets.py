"""What Egret must reach, and whether a run shows it."""

import dataclasses

from .arithmetic import Span, share_error, total_kib

MET, NOT_MET, NOISY, NOT_MEASURED = "met", "not met", "noisy", "not measured"


@dataclasses.dataclass(frozen=True)
class Target:
    """A bound on a median: at least for ratios, at most for costs."""

    what: str
    bound: float
    at_least: bool
    # Takes the run's points and accounts to a Span, or None when it was not measured.
    measured: object
    # The same by processor time where there is such a figure: it has no verdict.
    by_cost: object = None

    def verdict(self, span):
        """Noisy when the bound lies inside the interval."""
        if span is None:
            return NOT_MEASURED
        met = [figure >= self.bound if self.at_least else figure <= self.bound
               for figure in (span.low, span.high)]
        if all(met):
            return MET
        return NOISY if any(met) else NOT_MET


def _ratio(profile, base, bound, proxy="egret", what=""):
    return Target(f"{what or profile}, against {base}", bound, True,
                  lambda points, accounts: points.ratio(profile, proxy, base),
                  lambda points: points.cost_ratio(profile, proxy, base))


def _outside_tcp(points, accounts):
    """With two standard errors to either side, as it is measured once, by samples."""
    for account in accounts:
        found = account["profiles"].get("rr64", {})
        if account["proxy"] == "egret" and "tcp_share" in found:
            outside = 1 - found["tcp_share"]
            error = 2 * share_error(found["tcp_share"], found["samples"])
            return Span(outside, outside - error, outside + error, 2)
    return None


def _threads_added(points, accounts):
    return points.span("idle", "egret", lambda point:
                       point["memory"]["threads_after"] - point["memory"]["threads_before"])


TARGETS = (
    _ratio("rr1", "haproxy", 1.15), _ratio("rr1", "envoy", 1.22),
    _ratio("rr64", "haproxy", 1.20), _ratio("rr64", "envoy", 1.60),
    _ratio("rr512", "haproxy", 1.25), _ratio("rr512", "envoy", 2.2),
    _ratio("churn", "haproxy", 1.25), _ratio("churn", "envoy", 1.80),
    _ratio("bulk", "haproxy", 1.30), _ratio("bulk", "envoy", 1.45),
    _ratio("http", "haproxy-http", 1.15, "egret-http", "http, a Host for each request"),
    _ratio("http", "envoy-http", 2.6, "egret-http", "http, a Host for each request"),
    Target("user memory of an idle connection, KiB", 0.5, False,
           lambda points, accounts: points.span(
               "idle", "egret", lambda point: point["memory"]["user"])),
    Target("user and kernel memory of an idle connection, KiB", 9.5, False,
           lambda points, accounts: total_kib(points, "egret")),
    Target("threads added by idle connections", 0, False, _threads_added),
    Target("processor time outside the kernel's TCP (rr64), share", 0.20, False, _outside_tcp),
)
