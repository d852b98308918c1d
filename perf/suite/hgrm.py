"""HdrHistogram's percentile distributions (.hgrm), as loadgen writes them."""

import bisect
import math


def parse(text):
    """[(percentile from 0 to 1, microseconds)], ascending; comment and heading lines left out."""
    points = []
    for line in text.splitlines():
        fields = line.split()
        if len(fields) < 3 or line.startswith("#"):
            continue
        try:
            value, percentile = float(fields[0]), float(fields[1])
        except ValueError:
            continue
        points.append((percentile, value))
    return points


def at(points, percentile):
    """The value at this percentile; between two listed ones on the line that joins them, on the
    axis of nines."""
    index = bisect.bisect_left(points, (percentile, -math.inf))
    if index == 0 or index == len(points):
        return points[max(0, min(index, len(points) - 1))][1]
    (before, low), (after, high) = points[index - 1], points[index]
    if after >= 1:
        return high
    share = (nines(percentile) - nines(before)) / (nines(after) - nines(before))
    return low + share * (high - low)


def nines(percentile):
    """The place on the log(1/(1-p)) axis: 0.9 is 1, 0.99 is 2, 0.999 is 3."""
    return -math.log10(1 - percentile)
