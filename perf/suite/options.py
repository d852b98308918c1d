"""The command line."""

import argparse
import os
import pathlib
import textwrap

from . import peers, profiles
from .errors import UsageError

ONE_CORE, SPREAD = "one-core", "spread"


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise UsageError(message)


def parse(arguments):
    """Options with every default filled in, and profiles and proxies looked up."""
    options = _parser().parse_args(arguments)
    options.arguments = arguments
    quick = options.quick
    options.rounds = options.rounds or (2 if quick else 5)
    options.seconds = options.seconds or (1.0 if quick else 2.0)
    options.warmup = max(0.5, min(1.0, options.seconds / 4))
    options.explicit_proxies = options.proxy is not None
    # A run that names nothing measures the secondary proxies in fewer profiles, to end in time.
    options.usual = not (quick or options.proxy or options.profile)
    options.profiles = profiles.select(
        options.profile or (profiles.QUICK if quick else profiles.BY_NAME))
    options.peers = peers.select(options.proxy or _default_peers(options))
    if not options.egret_b:
        for name in options.proxy or ():
            if name in peers.PAIRS:
                raise UsageError(f"proxy {name} needs --egret-b BINARY")
        # A pattern such as egret* does not ask for them.
        options.peers = [peer for peer in options.peers if not peer.is_other_binary]
    options.core, options.cpus = _processors(options)
    return options


def _default_peers(options):
    names = peers.QUICK if options.quick else \
        peers.TARGETS if options.profile == ["targets"] else peers.DEFAULT
    return names + (tuple(peers.PAIRS) if options.egret_b else ())


def _processors(options):
    """The core of mode one-core, and the processors that are measured on, as a list."""
    allowed = sorted(os.sched_getaffinity(0))
    core = allowed[-1] if options.cpu is None else options.cpu
    if core not in allowed:
        raise UsageError(f"--cpu is one of {', '.join(map(str, allowed))}, not {core}")
    return core, [core] if options.mode == ONE_CORE else allowed


def _parser():
    parser = _Parser(
        prog="perf/run.sh", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="What a connection through Egret costs, next to other proxies and to none.",
        epilog=_epilog())
    names = {"type": lambda text: text.split(","), "metavar": "NAME,..."}
    parser.add_argument("--profile", **names, help="profiles, or shell patterns; `targets`, "
                        "`open-loop` (default: all)")
    parser.add_argument("--proxy", **names, help="proxies, or shell patterns (default: see below)")
    parser.add_argument("--rounds", type=_whole, metavar="N",
                        help="rounds, in each of which everything is measured (default 5)")
    parser.add_argument("--seconds", type=_seconds, metavar="S",
                        help="length of a round for one proxy and profile (default 2); rates "
                        "are measured in slices of half a second, taken in turn")
    parser.add_argument("--quick", action="store_true",
                        help="2 rounds of 1 s, few profiles and proxies: does it work, not how "
                        "fast it is")
    parser.add_argument("--mode", choices=(ONE_CORE, SPREAD), default=ONE_CORE,
                        help="everything on one core (default; the mode for ratios), or proxy "
                        "workers, client and server on all of them")
    parser.add_argument("--cpu", type=int, metavar="N",
                        help="the core of mode one-core (default: the last one allowed)")
    parser.add_argument("--egret", type=pathlib.Path, metavar="BINARY",
                        help="measure this Egret (default: a release build; or EGRET_BINARY)")
    parser.add_argument("--egret-b", type=pathlib.Path, metavar="BINARY",
                        help="measure this one too, to try a change: as the proxies egret-b, "
                        "compared with egret, and egret-http-b, compared with egret-http")
    parser.add_argument("--report", type=pathlib.Path, metavar="DIRECTORY",
                        help="measure nothing; write report.md and the plots of a run again")
    return parser


def _epilog():
    lines = ["profiles:"]
    lines += _table((profile.name, profile.question) for profile in profiles.PROFILES)
    lines += ["", "proxies:"]
    lines += _table((peer.name, _mark(peer) + peer.label) for peer in peers.PEERS)
    lines += ["", *textwrap.wrap(
        "--profile open-loop stands for open20, open50 and open80; --profile targets for what the "
        "table of targets needs, with the proxies that it needs (--proxy overrides that). Without "
        "--profile and --proxy the proxies marked * are measured in their usual profiles only, and "
        "those marked - not at all.", 88),
        "", *textwrap.wrap(
        "LOADGEN_BINARY names another load generator than the release build. Exit code 0; 1 when a check "
        "failed or the run could not go on (what was measured is kept, and labelled); 64 for a "
        "wrong command line. perf/README.md says what is measured and how to read it. "
        "Results go to perf/runs, which git ignores.", 88)]
    return "\n".join(lines)


def _mark(peer):
    if peer.usual is None:
        return ""
    return "* " if peer.usual else "- "


def _table(pairs):
    return [f"  {name:<17} {text}" for name, text in pairs]


def _whole(text):
    number = int(text)
    if not 1 <= number <= 999:
        raise argparse.ArgumentTypeError(f"1 to 999, not {text}")
    return number


def _seconds(text):
    number = float(text)
    if not 0.5 <= number <= 600:
        raise argparse.ArgumentTypeError(f"0.5 to 600, not {text}")
    return number
