"""Ratios, medians, intervals.

A ratio is taken between neighbours: points of the same round, and of the same slice of it where a
round is cut into slices. The machine's speed drifts from minute to minute, and that cancels out.
"""

import dataclasses
import math
import statistics

# The interval of a median covers the true one at least this often.
CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True)
class Span:
    """What several figures say of one thing: their median, and the interval it may lie in."""

    median: float
    low: float
    high: float
    count: int
    # Between these lies the middle half of the figures.
    quartiles: tuple = dataclasses.field(default=None, compare=False)

    @classmethod
    def of(cls, figures):
        """None for no figures."""
        figures = sorted(figures)
        if not figures:
            return None
        left_out = beyond_interval(len(figures))
        return cls(statistics.median(figures), figures[left_out], figures[-1 - left_out],
                   len(figures), _quartiles(figures))

    @property
    def width(self):
        """Of the interval, as a share of the median."""
        return self._share(self.low, self.high)

    @property
    def spread(self):
        """Of the middle half of the figures, as a share of the median."""
        return self._share(*self.quartiles) if self.quartiles else 0.0

    def _share(self, low, high):
        return (high - low) / self.median if self.median else 0.0


def beyond_interval(count):
    """How many of so many ascending figures lie outside the confidence interval of their median, at
    either end.

    Each figure is as likely above the true median as below, whatever its distribution: the median
    is below the k lowest with the probability that of `count` tosses fewer than k are heads. Below
    6 figures even the lowest and the highest do not reach the confidence; they are taken then.
    """
    outside, left_out = 0.0, 0
    while left_out < (count - 1) // 2:
        outside += 2 * math.comb(count, left_out) / 2 ** count
        if outside > 1 - CONFIDENCE:
            break
        left_out += 1
    # The figure at this place would be one too many.
    return max(0, left_out - 1)


def _quartiles(figures):
    if len(figures) == 1:
        return figures[0], figures[0]
    low, _, high = statistics.quantiles(figures, n=4, method="inclusive")
    return low, high


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
    """A run's points by profile, proxy, and (round, slice); a point that is not cut is slice 1."""

    def __init__(self, lines):
        self._points = {
            (line["profile"], line["proxy"], (line["round"], line.get("slice", 1))): line
            for line in lines if line["kind"] == "point"}
        self._times = sorted({time for *_, time in self._points})
        self.rounds = sorted({number for number, _ in self._times})

    def __bool__(self):
        return bool(self._points)

    def all(self):
        return self._points.values()

    def has(self, profile, proxy):
        return any((profile, proxy, time) in self._points for time in self._times)

    def figures(self, profile, proxy, of=None):
        """{(round, slice): figure}; `of` takes the figure out of a point, which may not have it
        (None)."""
        of = of or (lambda point: point["value"])
        found = {}
        for time in self._times:
            point = self._points.get((profile, proxy, time))
            figure = of(point) if point else None
            if figure is not None:
                found[time] = figure
        return found

    def span(self, profile, proxy, of=None):
        return Span.of(self.figures(profile, proxy, of).values())

    def ratio(self, profile, proxy, base, of=None, base_profile=None):
        """The ratios to the base's neighbours in time."""
        ours = self.figures(profile, proxy, of)
        theirs = self.figures(base_profile or profile, base, of)
        return Span.of(ours[time] / theirs[time] for time in ours if theirs.get(time))

    def cost_ratio(self, profile, proxy, base):
        """How much more of processor time the base's whole path needs, between neighbours: what the
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
    return Span.of(through[time] - without[time] for time in through if time in without)
