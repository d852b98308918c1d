"""What a run was made on: the lines that stand above every table."""

import datetime
import functools
import gzip
import os
import pathlib
import platform
import subprocess

from .lab import ROOT

VULNERABILITIES = pathlib.Path("/sys/devices/system/cpu/vulnerabilities")
# The labs take it over from the machine.
CONGESTION_CONTROL = pathlib.Path("/proc/sys/net/ipv4/tcp_congestion_control")


def settings(options, tools):
    """The first line of a run's points.jsonl."""
    return {
        "kind": "settings",
        "command": " ".join(["perf/run.sh", *options.arguments]),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(),
        "kernel": platform.release(),
        "processor": _processor(),
        "cores": f"{os.cpu_count()} in all; measured on {','.join(map(str, options.cpus))}",
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "mitigations": mitigations(),
        "tcp_congestion_control": CONGESTION_CONTROL.read_text().strip(),
        "load_average_at_start": os.getloadavg()[0],
        "versions": tools.versions,
        "mode": options.mode,
        "rounds": options.rounds,
        "seconds_per_point": options.seconds,
        "warmup_seconds": options.warmup,
        "profiles": [profile.name for profile in options.profiles],
        "usual_profiles_only": "for secondary proxies" if options.usual else "no",
        "proxies": [peer.name for peer in options.peers],
    }


def commit():
    """The commit of this tree, which the measured binary need not be from: see its hash."""
    git = ["git", "-c", f"safe.directory={ROOT}", "-C", str(ROOT)]
    try:
        name = _output(*git, "rev-parse", "--short=10", "HEAD")
        changed = _output(*git, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return name + ("-dirty" if changed else "")


def mitigations():
    """Against which flaws of the processor the kernel spends time, and how."""
    found = []
    for file in sorted(VULNERABILITIES.glob("*")):
        text = file.read_text().strip()
        if text != "Not affected":
            found.append(f"{file.name}: {text}")
    words = pathlib.Path("/proc/cmdline").read_text().split()
    asked = [word for word in words if word.startswith("mitigations=")]
    return "; ".join([*found, "command line: " + (" ".join(asked) or "none")])


@functools.lru_cache(maxsize=1)
def interrupts_are_apart():
    """Whether the kernel charges interrupts to no process (CONFIG_IRQ_TIME_ACCOUNTING), rather than
    to the one that they interrupt. Where it does not say: yes."""
    for file, read in ((pathlib.Path("/proc/config.gz"), gzip.open),
                       (pathlib.Path(f"/boot/config-{platform.release()}"), open)):
        try:
            with read(file, "rt", encoding="ascii") as text:
                return "CONFIG_IRQ_TIME_ACCOUNTING=y\n" in text
        except OSError:
            continue
    return True


def _processor():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _output(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
