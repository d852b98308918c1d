"""The lines of a run as one Markdown page: on what, how fast, how late, how much memory."""

import dataclasses
import statistics

from . import doubts, peers, profiles, targets
from .arithmetic import Points, cache_kib, kernel_kib, path_ns, share_error, total_kib
from .peers import measured

# Below this a cache is not worth its row.
SMALLEST_CACHE_KIB = 0.1

PICTURES = (
    ("throughput", "Throughput next to the base"),
    ("latency", "Latency by percentile"),
    ("latency-over-rate", "Latency over rate"),
    ("memory", "Memory for an idle connection"),
    ("processor", "Processor time for a request"),
)


def write(results):
    """Writes report.md; returns its text."""
    points = Points(results.lines)
    accounts = results.of_kind("account")
    sections = [
        _head(results),
        settings_text(results.settings),
        _doubts(results, points),
        _failures(results),
        _targets(results, points, accounts),
        _pairs(results, points),
        *(_throughput(results, points, base, how) for how in (SPEED, COST)
          for base in peers.bases(results.settings)),
        *(_http(results, points, base, how) for how in (SPEED, COST)
          for base in peers.bases(results.settings)),
        _mixed(points),
        _latency(points),
        _disturbed(points),
        _memory(points),
        _processor(points, accounts),
        _left_out(results),
        _pictures(results),
        "perf/README.md says how to read this, and what not to conclude.\n",
    ]
    text = "\n".join(section for section in sections if section)
    (results.directory / "report.md").write_text(text)
    return text


def without_settings(text):
    """For the terminal, where the settings stood first already."""
    return text.split("<!-- settings end -->\n")[-1].strip()


def settings_text(settings):
    lines = []
    for key, value in settings.items():
        if key == "kind":
            continue
        if isinstance(value, dict):
            value = "; ".join(f"{name}: {text}" for name, text in value.items())
        elif isinstance(value, list):
            value = ", ".join(value)
        lines.append(f"- {key.replace('_', ' ')}: {value}")
    return "\n".join(lines) + "\n\n<!-- settings end -->\n"


def span_text(span, digits=2):
    if span is None:
        return "-"
    if span.count == 1:
        return f"{span.median:.{digits}f}"
    return f"{span.median:.{digits}f} ({span.low:.{digits}f} to {span.high:.{digits}f})"


def _head(results):
    title = f"# Egret next to other proxies, {results.settings['date'][:10]}\n"
    how = [line["how"] for line in results.of_kind("end")]
    if how == ["complete"]:
        return title
    return title + f"\n**Incomplete ({how[0] if how else 'ended without a word'}): " \
        "what is here was measured, the rest was not.**\n"


def _doubts(results, points):
    found = doubts.doubts(results.settings, points)
    return _section("Doubts", *found) if found else ""


def _failures(results):
    failures = results.of_kind("failure")
    if not failures:
        return ""
    grouped = {}
    for line in failures:
        reason = line["reason"].replace("\n", " ").replace("|", "/")
        names = grouped.setdefault((line["round"], line["proxy"], reason), [])
        # Once, however many slices of it failed.
        if line["profile"] not in names:
            names.append(line["profile"])
    return _section("Checks that failed", "These points are left out; the run ended with an error.",
                    _table(("round", "proxy", "profiles", "why"),
                           [(number, proxy, ", ".join(names), reason)
                            for (number, proxy, reason), names in grouped.items()]))


def _targets(results, points, accounts):
    if results.settings["mode"] != "one-core":
        return _section("Targets", "They are bounds on mode one-core; this run was spread over "
                        "cores, where a ratio also holds how long cores wait for each other.")
    rows, unmeasured = [], []
    for target in targets.TARGETS:
        span = target.measured(points, accounts)
        if span is None:
            unmeasured.append(target.what)
            continue
        bound = f"{'>=' if target.at_least else '<='} {target.bound:g}"
        by_cost = target.by_cost(points) if target.by_cost else None
        rows.append((target.what, bound, span_text(span), f"**{target.verdict(span)}**",
                     span_text(by_cost)))
    if not rows:
        return ""
    rest = [f"Not measured in this run: {'; '.join(unmeasured)}."] if unmeasured else []
    return _section(
        "Targets",
        "The median with its interval: 95 of 100 such intervals hold the true median (of less than "
        "6 figures: the lowest and the highest). Met or not met when the interval lies on one side "
        "of the bound, noisy when it does not. By processor time: the same ratio from what client, "
        "server and proxy used of the core, which does not see what other processes took; for "
        "comparison, without a verdict.",
        _table(("of Egret", "target", "measured", "verdict", "by processor time"), rows), *rest)


def _pairs(results, points):
    rows = []
    for other, first in peers.pairs(results.settings):
        for profile in profiles.PROFILES:
            span = points.ratio(profile.name, other, first) if profile.is_throughput else None
            if span:
                rows.append((profile.name, other, first, span_text(span),
                             span_text(points.cost_ratio(profile.name, other, first)),
                             span.count))
    return rows and _section(
        "The two binaries of Egret",
        "The same configuration with the binary of `--egret-b`, as a ratio to the binary of "
        "`--egret`, between neighbours in time: the median and its 95 % interval (of less than 6 "
        "figures the lowest and the highest). Above 1 the other binary carries more, or needs less "
        "processor time for the same; an interval that holds 1 shows no difference.",
        _table(("profile", "proxy", "next to", "throughput", "by processor time", "figures"),
               rows))


@dataclasses.dataclass(frozen=True)
class Kind:
    """One of the two ways to compare: by what was carried, and by what it cost."""

    title: str
    text: str
    # Takes points, profile, proxy and base to the ratio; the base's own figure out of a point.
    ratio: object
    own: object = None


SPEED = Kind(
    "{} next to {}",
    "Ratios of neighbours in time: median (its 95 % interval; of less than 6 figures the lowest "
    "and the highest). More is better. Under the base: the middle half of its own figures, as a "
    "share of their median.", Points.ratio)
COST = Kind(
    "{} next to {}, by processor time",
    "How many times the processor time the base's whole path (client, server and proxy, and the "
    "kernel's work in them) needs for the same. On one core that nobody else uses this is the "
    "ratio of throughputs; on a busy machine it is the better one. More is better.",
    Points.cost_ratio, path_ns)


def _throughput(results, points, base, how):
    names = [peer.name for peer in peers.PEERS
             if peer.relays_connections and peer.name != base
             and peers.PAIRS.get(peer.name) != base
             and peer.name in results.settings["proxies"]]
    if not names:
        return ""
    shown = [profile.name for profile in profiles.PROFILES
             if profile.is_throughput and points.has(profile.name, base)]
    return _ratios("Throughput", how, points, base, names, shown)


def _http(results, points, base, how):
    """Against the base's own HTTP mode; relays of bytes stand beside it for what naming costs."""
    base = peers.HTTP_BASES.get(base)
    if not base or not points.has("http", base):
        return ""
    names = [name for name in results.settings["proxies"]
             if name != base and peers.PAIRS.get(name) != base and points.has("http", name)]
    return names and _ratios("HTTP", how, points, base, names, ["http"])


def _ratios(what, how, points, base, names, shown):
    rows = []
    for profile in shown:
        own = points.span(profile, base, how.own)
        if own:
            rows.append((profile, f"1 (spread {own.spread:.1%})" if own.count > 1 else "1",
                         *(span_text(how.ratio(points, profile, name, base)) for name in names)))
    # A proxy with nothing to show is no column.
    filled = [0, 1, *(index for index in range(2, len(names) + 2)
                      if any(row[index] != "-" for row in rows))]
    head = ("profile", base, *names)
    return rows and _section(how.title.format(what, base), how.text, _table(
        [head[index] for index in filled], [[row[index] for index in filled] for row in rows]))


def _mixed(points):
    rows = []
    for peer in measured(points, "mixed"):
        rows.append((peer, *(_median(points, "mixed", peer, of) for of in (
            lambda point: point["load"]["per_second"],
            lambda point: point["load"]["latency_us"]["p99"],
            lambda point: point["load"]["bulk_bits_per_second"] / 1e6))))
    return rows and _section(
        "Fairness: 100 request/response flows beside one bulk flow",
        "A proxy that favours the bulk flow has a high p99 and few requests; absolute figures, to "
        "be read against each other only.",
        _table(("proxy", "requests/s", "p99, us", "bulk, Mbit/s"), rows))


def _latency(points):
    parts = []
    for name in profiles.RATE_SHARES:
        rows = [(peer, *(_median(points, name, peer, of) for of in (
            lambda point: point["load"]["rate"],
            *(_latency_key(key) for key in ("p50", "p90", "p99", "p999", "p9999", "max")),
            lambda point: point["load"]["late"])))
            for peer in measured(points, name)]
        if rows:
            parts += [f"At {profiles.RATE_SHARES[name]:.0%} of each one's own maximum:",
                      _table(("proxy", "requests/s", "p50", "p90", "p99", "p99.9", "p99.99",
                              "max", "late"), rows)]
    return parts and _section(
        "Latency, microseconds",
        "Open loop: requests are due at a constant rate, and latency counts from when a request "
        "was due. Late: requests that were due and could not be sent before the end. Medians over "
        "the rounds.", *parts)


def _latency_key(key):
    return lambda point: point["load"]["latency_us"].get(key)


def _disturbed(points):
    rows = []
    for profile in ("scrape", "reload"):
        for peer in measured(points, profile):
            cells = [span_text(points.ratio(profile, peer, peer, _latency_key(key),
                                            base_profile=profiles.UNDISTURBED))
                     for key in ("p50", "p99", "p999")]
            times = _median(points, profile, peer, lambda point: point["disturbance"]["times"])
            took = points.span(profile, peer, lambda point: point["disturbance"]["mean_ms"])
            rows.append((profile, peer, *cells, times, span_text(took, 1)))
    return rows and _section(
        "Latency under disturbance",
        f"As a ratio to the same proxy undisturbed at the same rate ({profiles.UNDISTURBED}).",
        _table(("disturbance", "proxy", "p50", "p99", "p99.9", "times", "one takes, ms"), rows))


def _memory(points):
    rows = []
    for peer in measured(points, "idle"):
        if peer == "direct":
            continue
        rows.append((
            peer,
            span_text(points.span("idle", peer, lambda point: point["memory"]["user"])),
            span_text(kernel_kib(points, peer)), span_text(total_kib(points, peer)),
            span_text(points.span("idle", peer, lambda point: point["memory"]["cgroup"])),
            _median(points, "idle", peer, lambda point: point["memory"]["threads_before"]),
            _median(points, "idle", peer, lambda point: point["memory"]["threads_after"])))
    return rows and _section(
        f"Memory for each of {profiles.IDLE_CONNECTIONS} idle connections, KiB",
        "User: growth of RssAnon. Kernel: growth of the slab caches of sockets, files and "
        "connection tracking and of the socket buffers (/proc/slabinfo, /proc/net/sockstat), less "
        "that of connections without a proxy. Own cgroup: what the kernel charged to the proxy's "
        "memory cgroup, which leaves out what is allocated while packets arrive. `-`: could not be "
        "read here, or (kernel) `direct` was not measured.",
        _table(("proxy", "user", "kernel", "both", "own cgroup", "threads before", "with them"),
               rows), *_caches(points))


def _caches(points):
    """Where the kernel's share lies; small caches are left out."""
    names = [peer for peer in measured(points, "idle") if peer != "direct"]
    caches = sorted({cache for point in points.all() if point["profile"] == "idle"
                     for cache in point["memory"]["caches"]})
    rows = []
    for cache in caches:
        spans = [cache_kib(points, name, cache) for name in names]
        if any(span and abs(span.median) >= SMALLEST_CACHE_KIB for span in spans):
            rows.append((cache, *(f"{span.median:.2f}" if span else "-" for span in spans)))
    return rows and ["The kernel's share by slab cache, medians:",
                     _table(("cache", *names), rows)]


def _processor(points, accounts):
    rows = []
    kept = {account["proxy"]: account["profiles"] for account in accounts}
    for peer in sorted({*measured(points, "rr64"), *measured(points, "bulk"), *kept},
                       key=_order):
        if peer == "direct":
            continue
        small = kept.get(peer, {}).get("rr64", {})
        large = kept.get(peer, {}).get("bulk", {})
        user = points.span("rr64", peer, lambda point: point.get("user_share"))
        rows.append((
            peer,
            span_text(points.span("rr64", peer, lambda point: point.get("ns_per_request")), 0),
            f"{user.median:.0%}" if user else "-",
            span_text(points.span("bulk", peer, lambda point: point.get("ns_per_kib")), 0),
            _number(small.get("calls")), _mix(small.get("mix", {})), _number(large.get("calls")),
            _share(small), _share(large)))
    return rows and _section(
        "Processor time of the proxy",
        "The proxy's own process, by its processor clock; a request is one message of 64 bytes "
        "each way (rr64). The kernel's TCP: samples of the proxy's time with tcp_sendmsg, "
        "tcp_recvmsg or tcp_splice_read on the stack.",
        _table(("proxy", "ns/request", "in user mode", "ns/KiB, bulk", "calls/request", "which",
                "calls/MiB, bulk", "kernel TCP, rr64", "kernel TCP, bulk"), rows))


def _mix(mix):
    return ", ".join(f"{name} {share:.0%}" for name, share in list(mix.items())[:4]) or "-"


def _number(value):
    return "-" if value is None else f"{value:.2f}"


def _share(account):
    """The kernel TCP's share with its standard error."""
    share = account.get("tcp_share")
    if share is None:
        return "-"
    return f"{share:.0%} ± {100 * share_error(share, account['samples']):.1f}"


def _left_out(results):
    lines = [f"- {line['what']}: {line['reason']}" for line in results.of_kind("left-out")]
    for name in results.settings["proxies"]:
        reasons = {}
        peer = peers.BY_PEER_NAME[name]
        usual_only = results.settings.get("usual_profiles_only", "no") != "no"
        for profile in results.settings["profiles"]:
            reason = peer.leaves_out.get(profile)
            if not reason and usual_only and profile in peer.measures \
                    and not peer.is_usual(profile):
                reason = "only in a run that names it (--proxy, --profile)"
            if reason:
                reasons.setdefault(reason, []).append(profile)
        lines += [f"- {name}, {', '.join(named)}: {reason}" for reason, named in reasons.items()]
    for account in results.of_kind("account"):
        for profile, found in account["profiles"].items():
            lines += [f"- {account['proxy']}, {profile}: {text}"
                      for key, text in found.items() if key.endswith("_note")]
    return lines and _section("Not measured", "\n".join(lines) + "\n")


def _pictures(results):
    found = [f"![{title}]({name}.svg)\n" for name, title in PICTURES
             if (results.directory / f"{name}.svg").exists()]
    return found and _section("Pictures", *found)


def _order(name):
    return list(peers.BY_PEER_NAME).index(name)


def _median(points, profile, peer, of):
    figures = points.figures(profile, peer, of).values()
    return f"{statistics.median(figures):,.0f}".replace(",", " ") if figures else "-"


def _section(title, *paragraphs):
    return "\n".join([f"## {title}\n", *(paragraph if paragraph.endswith("\n")
                                         else paragraph + "\n" for paragraph in paragraphs)])


def _table(head, rows):
    lines = ["| " + " | ".join(map(str, head)) + " |", "|---" * len(head) + "|"]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join(lines) + "\n"
