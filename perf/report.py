#!/usr/bin/env python3
"""Turn the raw lines of one run into its Markdown report.

    report.py settings RAW.jsonl     the settings of the run, as a list
    report.py full     RAW.jsonl     the settings and the table of ratios

A ratio is taken inside one round, between two points measured within a minute or so of each
other, and then the median over the rounds: the machine's speed drifts between rounds, and that
cancels out. Absolute figures stay in the raw lines.
"""

import json
import statistics
import sys

BASE = "haproxy"
# Above this, the base itself moved so much that a ratio says little.
NOISY_SPREAD = 0.10
# Above this, the core was not what limited the throughput, or another guest had it.
CORE_SHARE_LOST = 0.05
# Above this, somebody else wants processors too.
BUSY_LOAD = 0.5


def main():
    what, path = sys.argv[1], sys.argv[2]
    with open(path, encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    settings = next(line for line in lines if line["kind"] == "settings")
    points = [line for line in lines if line["kind"] == "point"]
    print_settings(settings)
    if what == "full":
        print_table(settings, points)


def print_settings(settings):
    for key, value in settings.items():
        if key in ("kind", "profiles"):
            continue
        if isinstance(value, list):
            value = ", ".join(value)
        print(f"- {key.replace('_', ' ')}: {value}")


def print_table(settings, points):
    proxies = settings["proxies"]
    values = {(p["profile"], p["proxy"], p["round"]): p["value"] for p in points}
    rounds = range(1, settings["rounds"] + 1)
    noisy = []
    print()
    print(f"Ratios to {BASE} in the same round: median (lowest to highest).")
    print(f"Under {BASE}: how far its own figures lie apart, as a share of their median.")
    print()
    print("| profile | " + " | ".join(proxies) + " |")
    print("|---" * (len(proxies) + 1) + "|")
    for profile in settings["profiles"]:
        if profile.startswith("idle"):
            continue
        base = [values[profile, BASE, r] for r in rounds]
        spread = (max(base) - min(base)) / statistics.median(base)
        if spread > NOISY_SPREAD:
            noisy.append(profile)
        cells = []
        for proxy in proxies:
            if proxy == BASE:
                cells.append(f"1 (spread {spread:.1%})" if len(rounds) > 1 else "1")
            else:
                ratios = [values[profile, proxy, r] / values[profile, BASE, r] for r in rounds]
                cells.append(span(ratios))
        print(f"| {profile} | " + " | ".join(cells) + " |")
    print_memory(settings, values, rounds)
    if noisy:
        print()
        print(f"**Noisy: {', '.join(noisy)}.** {BASE}'s own figures lie more than "
              f"{NOISY_SPREAD:.0%} apart; do not quote these rows.")
    if len(rounds) == 1:
        print()
        print("**One round only:** nothing here says how far a figure can be trusted.")
    load = float(settings["load_average_at_start"].split()[0])
    if load > BUSY_LOAD:
        print()
        print(f"**The machine was busy** before the run began (load average {load}): other work "
              "may have taken part of the core, at another moment from each proxy.")
    print_lost_core(points)


def print_lost_core(points):
    """Throughput stands for processor time only where the core was busy, and was ours."""
    for key, word in (("core_idle", "idle"), ("core_stolen", "taken by the hypervisor")):
        lost = [p for p in points if (p[key] or 0) > CORE_SHARE_LOST]
        if lost:
            names = ", ".join(
                f"{p['profile']} of {p['proxy']} in round {p['round']} ({p[key]:.0%})"
                for p in lost)
            print()
            print(f"**The core was {word}** for more than {CORE_SHARE_LOST:.0%} of: {names}. "
                  "These points do not measure processor time.")


def print_memory(settings, values, rounds):
    proxies = [proxy for proxy in settings["proxies"] if proxy != "direct"]
    for profile in (p for p in settings["profiles"] if p.startswith("idle")):
        print()
        print(f"User memory (RssAnon) per connection with {settings['idle_connections']} idle "
              "connections, KiB: median (lowest to highest).")
        print()
        print("| profile | " + " | ".join(proxies) + " |")
        print("|---" * (len(proxies) + 1) + "|")
        cells = [span([values[profile, proxy, r] for r in rounds]) for proxy in proxies]
        print(f"| {profile} | " + " | ".join(cells) + " |")


def span(figures):
    return f"{statistics.median(figures):.2f} ({min(figures):.2f} to {max(figures):.2f})"


if __name__ == "__main__":
    main()
