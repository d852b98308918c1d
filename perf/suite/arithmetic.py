"""Ratios, medians, spreads.

A ratio is taken inside one round, between points measured within minutes of each other, and then
the median over the rounds: the machine's speed drifts between rounds, and that cancels out.
"""

import dataclasses
import math
import statistics


@dataclasses.dataclass(frozen=True)
class Span:
    """What several rounds say of one thing."""

    median: float
    low: float
    high: float
    rounds: int

    @classmethod
    def of(cls, figures):
        """None for no figures."""
        figures = list(figures)
        if not figures:
            return None
        return cls(statistics.median(figures), min(figures), max(figures), len(figures))

    @property
    def spread(self):
        """From the lowest to the highest, as a share of the median."""
        return (self.high - self.low) / self.median if self.median else 0.0


def spread(places, gap):
    """These ascending places moved apart to at least the gap, as little as possible: crowds are
    spread around their middle."""
    blocks = []
    for index, place in enumerate(places):
        blocks.append([place - index * gap, 1])
        # Where one would have to stand before its neighbour, both stand at their mean.
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            mean, count = blocks.pop()
            other, others = blocks.pop()
            blocks.append([(mean * count + other * others) / (count + others), count + others])
    means = [mean for mean, count in blocks for _ in range(count)]
    return [mean + index * gap for index, mean in enumerate(means)]


class Points:
    """A run's points by profile, proxy and round."""

    def __init__(self, lines):
        self._points = {(line["profile"], line["proxy"], line["round"]): line
                        for line in lines if line["kind"] == "point"}
        self.rounds = sorted({number for _, _, number in self._points})

    def __bool__(self):
        return bool(self._points)

    def all(self):
        return self._points.values()

    def has(self, profile, proxy):
        return any((profile, proxy, number) in self._points for number in self.rounds)

    def figures(self, profile, proxy, of=None):
        """{round: figure}; `of` takes the figure out of a point, which may not have it (None)."""
        of = of or (lambda point: point["value"])
        found = {}
        for number in self.rounds:
            point = self._points.get((profile, proxy, number))
            figure = of(point) if point else None
            if figure is not None:
                found[number] = figure
        return found

    def span(self, profile, proxy, of=None):
        return Span.of(self.figures(profile, proxy, of).values())

    def ratio(self, profile, proxy, base, of=None, base_profile=None):
        """The ratios to the base in the same rounds."""
        ours = self.figures(profile, proxy, of)
        theirs = self.figures(base_profile or profile, base, of)
        return Span.of(ours[number] / theirs[number]
                       for number in ours if theirs.get(number))

    def cost_ratio(self, profile, proxy, base):
        """How much more of processor time the base's whole path needs, in the same rounds: what the
        ratio of throughputs is on a core that nobody else uses."""
        return self.ratio(profile, base, proxy, path_ns)


def path_ns(point):
    """Processor time of client, server and proxy together for one request, or one KiB."""
    return point.get("path_ns_per_request", point.get("path_ns_per_kib"))


def share_error(share, samples):
    """The standard error of a share that was found by sampling."""
    return math.sqrt(share * (1 - share) / samples)


def _kernel_of(point):
    """The whole machine's growth; None where slabs could not be read."""
    memory = point["memory"]
    return None if memory["slab"] is None else memory["slab"] + memory["sockets"]


def kernel_kib(points, proxy):
    """The kernel's KiB for an idle connection through the proxy: slabs and buffers of the whole
    machine, less those of a connection without a proxy in the same round. None without these."""
    return _above_direct(points, proxy, _kernel_of)


def cache_kib(points, proxy, cache):
    """The same for one slab cache."""
    return _above_direct(points, proxy, lambda point: point["memory"]["caches"].get(cache, 0))


def total_kib(points, proxy):
    """User and kernel memory together, taken round by round."""
    def of(point):
        kernel = _kernel_of(point)
        return None if kernel is None else point["memory"]["user"] + kernel

    return _above_direct(points, proxy, of)


def _above_direct(points, proxy, of):
    through = points.figures("idle", proxy, of)
    without = points.figures("idle", "direct", of)
    return Span.of(through[number] - without[number] for number in through if number in without)
