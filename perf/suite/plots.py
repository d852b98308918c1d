"""The pictures of a run, as SVG: python3 -m suite.plots DIRECTORY.

One colour for each family of proxies everywhere (Okabe and Ito's, safe for colour-blind readers),
lines told apart inside a family by their dashes, names at the marks instead of a legend.
"""

import math
import statistics
import sys

import matplotlib
matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402 (the backend comes first)

from . import hgrm, peers, profiles  # noqa: E402
from .arithmetic import Points, Span, kernel_kib, spread  # noqa: E402
from .results import Results  # noqa: E402
from .styles import FAINT, GRID, INK, SOLID, STYLES  # noqa: E402

# Percentiles at which the rounds' curves are joined to one: evenly on the axis of nines.
GRID_OF_NINES = [step / 20 for step in range(0, 81)]
TICKS = ((0.0, "0"), (0.5, "50"), (0.9, "90"), (0.99, "99"), (0.999, "99.9"), (0.9999, "99.99"))
THROUGHPUT = ("rr1", "rr64", "rr512", "churn", "bulk", "http", "blackhole", "mixed")


def main(directory):
    results = Results.read(directory)
    points = Points(results.lines)
    _style()
    for name, draw in (("throughput", _throughput), ("latency", _latency),
                       ("latency-over-rate", _latency_over_rate), ("memory", _memory),
                       ("processor", _processor)):
        figure = draw(results, points)
        if figure is None:
            continue
        # No date inside: the same run gives the same file.
        figure.savefig(results.directory / f"{name}.svg", metadata={"Date": None},
                       bbox_inches="tight", pad_inches=0.2)
        pyplot.close(figure)


def _style():
    pyplot.rcParams.update({
        "font.family": "DejaVu Sans", "font.size": 9, "text.color": INK, "svg.hashsalt": "egret",
        "svg.fonttype": "none", "figure.dpi": 100, "axes.edgecolor": FAINT,
        "axes.labelcolor": INK, "axes.spines.top": False, "axes.spines.right": False,
        "axes.linewidth": 0.8, "axes.titlesize": 10, "axes.titlelocation": "left",
        "xtick.color": FAINT, "ytick.color": FAINT, "axes.grid": False, "grid.color": GRID,
        "grid.linewidth": 0.8, "axes.axisbelow": True, "ytick.minor.size": 0,
        "lines.linewidth": 1.6,
    })


def _headline(figure, title, subtitle):
    figure.text(0, 1.0, title, fontsize=12, fontweight="bold", va="bottom", ha="left",
                transform=figure.transFigure)
    figure.text(0, 0.995, subtitle, fontsize=8.5, color=FAINT, va="top", ha="left",
                transform=figure.transFigure)


def _grid(count, columns, width, height):
    """Axes in a grid, as many as asked for."""
    rows = math.ceil(count / columns)
    figure, axes = pyplot.subplots(rows, min(columns, count), squeeze=False,
                                   figsize=(width * min(columns, count), height * rows))
    flat = [axis for line in axes for axis in line]
    for axis in flat[count:]:
        axis.remove()
    return figure, flat[:count]


def _measured(points, profile):
    return [peers.BY_PEER_NAME[name] for name in peers.measured(points, profile)]


def _throughput(results, points):
    base = peers.bases(results.settings)[0]
    shown = []
    for name in THROUGHPUT:
        against = peers.HTTP_BASES.get(base, base) if name == "http" else base
        against = against if points.has(name, against) else base
        ratios = {peer.name: points.ratio(name, peer.name, against)
                  for peer in _measured(points, name)}
        if any(ratios.values()):
            shown.append((name, against, {key: span for key, span in ratios.items() if span}))
    if not shown:
        return None
    most = max(len(ratios) for _, _, ratios in shown)
    figure, axes = _grid(len(shown), min(4, len(shown)), 3.4, 0.26 * most + 0.9)
    for axis, (name, against, ratios) in zip(axes, shown):
        _bars(axis, ratios, "{:.2f}")
        axis.axvline(1, color="white", linewidth=0.8)
        axis.set_title(name, fontweight="bold")
        if against != base:
            axis.text(1, 1.02, f"next to {against}", transform=axis.transAxes, ha="right",
                      va="bottom", fontsize=8, color=FAINT)
    figure.tight_layout(rect=(0, 0, 1, 0.93), h_pad=1.6)
    _headline(figure, f"Throughput next to {base}",
              "median ratio of neighbours in time; the line is its 95 % interval; more is better")
    return figure


def _bars(axis, spans, form, colours=None):
    """Horizontal bars with names before and figures behind them."""
    names = list(spans)
    top = max(span.high for span in spans.values()) or 1
    for place, name in enumerate(names):
        span = spans[name]
        colour = (colours or {}).get(name) or STYLES[name][0]
        axis.barh(place, span.median, height=0.66, color=colour,
                  alpha=1 if STYLES[name][1] == SOLID else 0.55)
        axis.plot([span.low, span.high], [place, place], color=INK, linewidth=0.9)
        axis.text(max(span.high, span.median) + top * 0.02, place, form.format(span.median),
                  va="center", ha="left", fontsize=8)
    axis.set_yticks(range(len(names)), names, color=INK, fontsize=8)
    axis.invert_yaxis()
    axis.set_xlim(0, top * 1.14)
    axis.tick_params(length=0)
    axis.set_xticks([])
    axis.spines["bottom"].set_visible(False)


def _latency(results, points):
    shown = [(name, curves) for name in profiles.RATE_SHARES
             if (curves := _curves(results, points, name))]
    if not shown:
        return None
    figure, axes = pyplot.subplots(1, len(shown), sharey=True, squeeze=False,
                                   figsize=(4.4 * len(shown) + 0.6, 4.2))
    # Not from the very first request, which was alone and lucky.
    values = [value for _, curves in shown for curve in curves.values()
              for nines, value in curve if nines >= 0.1]
    lowest, highest = min(values), max(values)
    for axis, (name, curves) in zip(axes[0], shown):
        axis.set_yscale("log")
        axis.set_ylim(lowest * 0.7, highest * 1.3)
        for proxy, curve in curves.items():
            colour, dashes = STYLES[proxy]
            axis.plot(*zip(*curve), color=colour, linestyle=dashes,
                      linewidth=2.0 if proxy == "egret" else 1.4,
                      zorder=3 if proxy == "egret" else 2)
        reach = max(curve[-1][0] for curve in curves.values())
        ticks = [(hgrm.nines(share), text) for share, text in TICKS
                 if hgrm.nines(share) <= reach + 1e-9]
        axis.set_xticks(*zip(*ticks))
        axis.set_xlim(0, reach)
        axis.set_xlabel("percentile, on the axis log(1/(1-p))")
        axis.grid(True, axis="both")
        axis.set_title(f"at {profiles.RATE_SHARES[name]:.0%} of its own maximum")
        _label_ends(axis, {proxy: curve[-1] for proxy, curve in curves.items()})
        _plain_microseconds(axis)
    axes[0][0].set_ylabel("latency")
    figure.tight_layout(rect=(0, 0, 1, 0.93), w_pad=4.5)
    _headline(figure, "Latency by percentile",
              "open loop, from the moment at which a request was due; medians over the rounds")
    return figure


def _curves(results, points, profile):
    """{proxy: [(nines, microseconds)]}: at each percentile the median over the rounds."""
    found = {}
    for peer in _measured(points, profile):
        rounds, requests = [], []
        for number, _ in points.figures(profile, peer.name):
            file = results.raw(number, peer.name, profile).with_suffix(".hgrm")
            if file.exists():
                rounds.append(hgrm.parse(file.read_text()))
        requests = points.figures(profile, peer.name, lambda point: point["load"]["requests"])
        rounds = [distribution for distribution in rounds if distribution]
        if not rounds:
            continue
        # Ten requests lie beyond the last percentile that is drawn: fewer say nothing.
        reach = math.log10(max(10, min(requests.values()) / 10))
        found[peer.name] = [
            (nines, statistics.median(hgrm.at(one, 1 - 10 ** -nines) for one in rounds))
            for nines in GRID_OF_NINES if nines <= reach]
    return found


def _label_ends(axis, ends):
    """Names at the right ends of lines, moved apart where they would lie on each other."""
    low, high = (math.log10(limit) for limit in axis.get_ylim())
    gap = 0.042 * (high - low)
    wanted = sorted((math.log10(value), name) for name, (_, value) in ends.items())
    places = spread([place for place, _ in wanted], gap)
    right = axis.get_xlim()[1]
    for (value, name), place in zip(wanted, places):
        colour = STYLES[name][0]
        # A hair from where the line ends to the edge, and on to the name.
        axis.plot([ends[name][0], right, right * 1.025], [10 ** value, 10 ** value, 10 ** place],
                  color=colour, linewidth=0.5, clip_on=False, zorder=1)
        axis.text(right * 1.035, 10 ** place, name, va="center", fontsize=8, color=colour)


def _plain_microseconds(axis):
    def text(value, _):
        if value >= 1e6:
            return f"{value / 1e6:g} s"
        return f"{value / 1e3:g} ms" if value >= 1e3 else f"{value:g} µs"

    low, high = axis.get_ylim()
    if high / low < 300:
        # A decade apart, ticks would be two or three.
        axis.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(text))
    axis.yaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())


def _latency_over_rate(results, points):
    lines = {}
    for peer in peers.PEERS:
        for key in ("p50", "p99"):
            found = []
            for name in profiles.RATE_SHARES:
                rate = points.span(name, peer.name, lambda point: point["load"]["rate"])
                value = points.span(name, peer.name,
                                    lambda point, key=key: point["load"]["latency_us"][key])
                if rate and value:
                    found.append((rate.median / 1000, value.median))
            if len(found) > 1:
                lines.setdefault(key, {})[peer.name] = found
    if not lines:
        return None
    figure, axes = pyplot.subplots(1, len(lines), squeeze=False, figsize=(4.9 * len(lines), 4.0))
    for axis, (key, curves) in zip(axes[0], lines.items()):
        axis.set_yscale("log")
        for name, curve in curves.items():
            colour, dashes = STYLES[name]
            axis.plot(*zip(*curve), color=colour, linestyle=dashes, marker="o", markersize=3.5,
                      linewidth=2.0 if name == "egret" else 1.4)
        values = [value for curve in curves.values() for _, value in curve]
        axis.set_ylim(min(values) * 0.8, max(values) * 1.3)
        axis.set_xlim(0, max(rate for curve in curves.values() for rate, _ in curve) * 1.02)
        axis.grid(True)
        axis.set_title(f"{key}")
        axis.set_xlabel("thousand requests a second")
        _plain_microseconds(axis)
        _label_ends(axis, {name: curve[-1] for name, curve in curves.items()})
    axes[0][0].set_ylabel("latency")
    figure.tight_layout(rect=(0, 0, 1, 0.93), w_pad=5)
    _headline(figure, "Latency over rate",
              "at 20, 50 and 80 % of each proxy's own maximum; medians over the rounds")
    return figure


def _memory(results, points):
    users, kernels = {}, {}
    for peer in _measured(points, "idle"):
        if peer.is_direct:
            continue
        users[peer.name] = points.span("idle", peer.name, lambda point: point["memory"]["user"])
        kernels[peer.name] = kernel_kib(points, peer.name) or Span(0, 0, 0, 1)
    if not users:
        return None
    figure, axis = pyplot.subplots(figsize=(7.2, 0.32 * len(users) + 0.7))
    top = max(users[name].median + kernels[name].median for name in users)
    for place, name in enumerate(users):
        colour = STYLES[name][0]
        user, kernel = users[name].median, max(0.0, kernels[name].median)
        axis.barh(place, kernel, height=0.66, color=colour, alpha=0.3)
        axis.barh(place, user, left=kernel, height=0.66, color=colour)
        axis.text(kernel + user + top * 0.012, place, f"{kernel:.1f} + {user:.2f}", va="center",
                  fontsize=8)
    axis.set_yticks(range(len(users)), users, color=INK)
    axis.invert_yaxis()
    axis.set_xlim(0, top * 1.15)
    axis.tick_params(length=0)
    axis.set_xticks([])
    axis.spines["bottom"].set_visible(False)
    figure.tight_layout(rect=(0, 0, 1, 0.86))
    _headline(figure, "Memory for an idle connection, KiB",
              "pale: the kernel's (two sockets, files, connection tracking); full: the proxy's own")
    return figure


def _processor(results, points):
    panels = []
    for profile, key, title in (("rr64", "ns_per_request", "rr64: µs for a request"),
                                ("bulk", "ns_per_kib", "bulk: µs for 64 KiB")):
        scale = 1e-3 if profile == "rr64" else 64e-3
        spans = {peer.name: points.span(
            profile, peer.name,
            lambda point, key=key, scale=scale: scale * point[key] if key in point else None)
            for peer in _measured(points, profile)}
        spans = {name: span for name, span in spans.items() if span}
        if spans:
            panels.append((title, spans))
    if not panels:
        return None
    figure, axes = _grid(len(panels), 2, 4.6, 0.28 * max(len(s) for _, s in panels) + 1.0)
    for axis, (title, spans) in zip(axes, panels):
        _bars(axis, spans, "{:.1f}")
        axis.set_title(title)
    figure.tight_layout(rect=(0, 0, 1, 0.88), w_pad=3)
    _headline(figure, "Processor time of the proxy",
              "its own process; the client's, the server's and most of the network's are not in it")
    return figure


if __name__ == "__main__":
    main(sys.argv[1])
