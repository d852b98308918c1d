"""What speaks against a run's figures: noise, a busy machine, a core that was not ours."""

import statistics

from . import peers, profiles
from .arithmetic import kernel_kib
from .peers import measured

# Above this share of itself, the interval of a ratio is too wide to quote the ratio.
NOISY_WIDTH = 0.05
# Above this, the core was not what limited the throughput, or another guest had it.
CORE_SHARE_LOST = 0.05
# Above this the slabs, which are the whole machine's, moved for another reason.
NOISY_KERNEL_KIB = 1.0
# More points than these are counted, not named.
NAMED_MAX = 6
# Above this, somebody else wants processors too.
BUSY_LOAD = 0.5


def doubts(settings, points):
    """Paragraphs."""
    found = []
    noisy = list(_noisy_ratios(settings, points))
    if noisy:
        found.append(f"**Noisy: {'; '.join(noisy)}.** The interval of the ratio is wider than "
                     f"{NOISY_WIDTH:.0%} of it; do not quote these.")
    moved = [peer for peer in measured(points, "idle")
             if peer != "direct" and (span := kernel_kib(points, peer))
             and span.high - span.low > NOISY_KERNEL_KIB]
    if moved:
        found.append(f"**Kernel memory of {', '.join(moved)}** lies more than "
                     f"{NOISY_KERNEL_KIB:g} KiB a connection apart: other programs opened or "
                     "closed sockets meanwhile, on the whole machine.")
    if len(points.rounds) == 1:
        found.append("**One round only:** nothing here says how far a figure can be trusted.")
    if settings["load_average_at_start"] > BUSY_LOAD:
        found.append("**The machine was busy** before the run began (load average "
                     f"{settings['load_average_at_start']:.2f}): other work may have taken part "
                     "of the core, at another moment from each proxy.")
    found += _lost_core(points, settings["mode"])
    return found


def _noisy_ratios(settings, points):
    """Of Egret to the bases, by base and profile; then of one binary to the other."""
    egrets = [name for name in settings["proxies"] if name.startswith("egret")]
    relays = [name for name in egrets if peers.BY_PEER_NAME[name].relays_connections]
    for base in peers.bases(settings):
        for profile in profiles.PROFILES:
            yield from _noisy_to(points, profile, relays, base)
            if profile.name == "http" and base in peers.HTTP_BASES:
                yield from _noisy_to(points, profile, egrets, peers.HTTP_BASES[base])
    for other, first in peers.pairs(settings):
        for profile in profiles.PROFILES:
            if _is_noisy(points, profile, other, first):
                yield f"{profile.name} of {other} to {first}"


def _noisy_to(points, profile, names, base):
    # The other binary is compared with the first below.
    wide = [name for name in names
            if peers.PAIRS.get(name) != base and _is_noisy(points, profile, name, base)]
    if wide:
        yield f"{profile.name} of {', '.join(wide)} to {base}"


def _is_noisy(points, profile, name, base):
    span = points.ratio(profile.name, name, base) if profile.is_throughput else None
    return span is not None and span.width > NOISY_WIDTH


def _lost_core(points, mode):
    """Throughput stands for processor time only where the core was busy, and was ours."""
    for key, word in (("core_idle", "idle"), ("core_stolen", "taken by the hypervisor"),
                      ("core_foreign", "used by other processes")):
        # Spread over cores, some of them wait for others.
        if key == "core_idle" and mode != "one-core":
            continue
        lost = [point for point in points.all() if point.get(key, 0) > CORE_SHARE_LOST
                # An open loop leaves the core idle on purpose.
                and (key != "core_idle" or
                     profiles.BY_NAME[point["profile"]].is_throughput)]
        if lost:
            yield (f"**The core was {word}** for more than {CORE_SHARE_LOST:.0%} of "
                   f"{_points_named(lost, key)}. The throughput of these points does not stand for "
                   "processor time: read the tables by processor time.")


def _points_named(lost, key):
    if len(lost) <= NAMED_MAX:
        return ", ".join(f"{point['profile']} of {point['proxy']} in round {point['round']} "
                         f"({point[key]:.0%})" for point in lost)
    shares = [point[key] for point in lost]
    names = sorted({point["profile"] for point in lost}, key=list(profiles.BY_NAME).index)
    return (f"{len(lost)} points (of {', '.join(names)}; median {statistics.median(shares):.0%}, "
            f"at most {max(shares):.0%})")
