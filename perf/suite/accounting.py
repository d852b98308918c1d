"""Where a proxy's processor time goes: how many system calls, and how much of it is the kernel's
TCP, which every relay through sockets has to pay."""

import collections
import dataclasses
import os
import re
import signal
import subprocess
import time

from . import measure
from .profiles import BY_NAME

PROFILES = ("rr64", "bulk")
SAMPLES_PER_SECOND = 1999
# Fewer say little: the standard error of a share of 3/4 is 2 % at 400.
SAMPLES_MIN = 400
# How long each tool looks, and what its start and end may take on a busy machine. The load must
# outlast the tool: a proxy without load makes no calls, and its samples are not of its work.
TOOL_SECONDS = 2.0
TOOL_OVERHEAD_SECONDS = 2.0
# A sample with one of these on its stack is the kernel's TCP moving a message.
TCP = re.compile(r"^tcp_(sendmsg|recvmsg|splice_read|splice_data_recv|read_sock)")


def account(session, setting):
    """Fields of the point: system calls for a request (or MiB), and the kernel TCP's share."""
    return {"kind": "account", "profiles": {
        name: _account_profile(session, BY_NAME[name], setting) for name in PROFILES}}


def expected_seconds(warmup):
    """For the progress: two loads with two tools, one with one."""
    loads, tools = 3, 5
    return loads * (warmup + 1) + tools * (TOOL_SECONDS + TOOL_OVERHEAD_SECONDS)


def _account_profile(session, profile, setting):
    available = session.tools.paths
    methods = [_count_calls, _sample] if "perf" in available else []
    found = _under_load(session, profile, setting, methods)
    # By itself, because it slows the load.
    if "strace" in available and profile.message:
        found.update(_under_load(session, profile, setting, [_trace_calls]))
    return found


def _under_load(session, profile, setting, methods):
    """What the methods find one after the other under one load; each takes the load's line."""
    if not methods:
        return {}
    kept = []
    seconds = len(methods) * (TOOL_SECONDS + TOOL_OVERHEAD_SECONDS)
    longer = dataclasses.replace(setting, seconds=seconds)
    load, usage = measure.run_load(session, profile, longer,
                                   during=lambda: kept.extend(one(session) for one in methods))
    session.check()
    if not usage:
        return {"calls_note": "the tools outlasted the load: the machine is too busy"}
    return {key: value for one in kept for key, value in one(load).items()}


def _first_line(text):
    return (text.strip().splitlines() or ["without a word"])[0]


def _pids(session):
    return ",".join(map(str, session.pids))


def _per_unit(calls_per_second, load):
    """For one request, or one MiB of a stream."""
    if "bits_per_second" in load:
        return calls_per_second / (load["bits_per_second"] / 8 / 2**20)
    return calls_per_second / load["per_second"]


def _count_calls(session):
    """By tracepoint, which costs so little that the load stays the same."""
    # The mount is private to this command and ends with it.
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", "mount -t tracefs tracefs /sys/kernel/tracing && "
         'exec "$@"', "sh", session.tools["perf"], "stat", "--event=raw_syscalls:sys_enter",
         f"--pid={_pids(session)}", "--", "sleep", str(TOOL_SECONDS)],
        capture_output=True, text=True, timeout=TOOL_SECONDS + 20, check=False,
        env={**os.environ, "LC_ALL": "C"})
    rate = None if done.returncode else calls_per_second(done.stderr)
    if rate is None:
        return lambda load: {"calls_note": "no tracepoints: " + _first_line(done.stderr)}
    return lambda load: {"calls": _per_unit(rate, load)}


def calls_per_second(text):
    """From `perf stat`, by the time that elapsed there, which is not the time that it was asked
    for. (Its event duration_time would be the sum over all threads.)"""
    count = re.search(r"^\s*(\d+)\s+raw_syscalls:sys_enter", text, re.MULTILINE)
    elapsed = re.search(r"^\s*([\d.]+) seconds time elapsed", text, re.MULTILINE)
    return int(count.group(1)) / float(elapsed.group(1)) if count and elapsed else None


def _trace_calls(session):
    """Which calls, by strace: it slows the proxy several times, so only the mix is taken."""
    output = session.directory / "strace.txt"
    tracer = subprocess.Popen(
        [session.tools["strace"], "-c", "-f", "-o", output, "-p", _pids(session)],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True)
    time.sleep(TOOL_SECONDS)
    tracer.send_signal(signal.SIGINT)
    tracer.wait(20)
    mix = call_mix(output.read_text())
    return lambda load: {"mix": mix}


def call_mix(text):
    """The share of each call in the table of `strace -c`; the rare ones are left out."""
    counts = {}
    for line in text.splitlines():
        fields = line.split()
        if len(fields) >= 5 and re.fullmatch(r"[\d.]+", fields[0]) and fields[-1] != "total":
            counts[fields[-1]] = int(fields[3])
    total = sum(counts.values())
    return {name: count / total
            for name, count in sorted(counts.items(), key=lambda pair: -pair[1])
            if count >= total / 100}


def _sample(session):
    """The stacks of the proxy's processor time."""
    data = session.directory / "perf.data"
    recorded = subprocess.run(
        [session.tools["perf"], "record", "--quiet", "--event=cpu-clock", "--call-graph=fp",
         f"--freq={SAMPLES_PER_SECOND}", f"--pid={_pids(session)}", f"--output={data}", "--",
         "sleep", str(TOOL_SECONDS)],
        capture_output=True, text=True, timeout=TOOL_SECONDS + 30, check=False)
    if recorded.returncode:
        return lambda load: {"tcp_note": "perf record: " + _first_line(recorded.stderr)}
    # Read when the load is over: it takes a while.
    return lambda load: stack_shares(_stacks(session, data))


def _stacks(session, data):
    return subprocess.run(
        [session.tools["perf"], "script", "--fields=ip,sym", f"--input={data}"],
        capture_output=True, text=True, timeout=60, check=False).stdout


def stack_shares(text, samples_min=SAMPLES_MIN):
    """Of all samples in `perf script --fields=ip,sym`: those in the kernel's TCP, in the rest of
    the kernel, and in the program itself."""
    kinds = collections.Counter()
    for sample in text.split("\n\n"):
        frames = [line.split() for line in sample.splitlines() if line.strip()]
        if not frames:
            continue
        names = [frame[1].split("+")[0] for frame in frames if len(frame) > 1]
        if any(TCP.match(name) for name in names):
            kinds["tcp"] += 1
        # Kernel addresses are in the upper half of the address space.
        elif int(frames[0][0], 16) >= 1 << 63:
            kinds["kernel"] += 1
        else:
            kinds["program"] += 1
    samples = sum(kinds.values())
    if not kinds["tcp"] + kinds["kernel"]:
        # Nobody relays without the kernel.
        return {"tcp_note": f"perf saw nothing of the kernel in {samples} samples (not root?)"}
    if samples < samples_min:
        return {"tcp_note": f"perf took {samples} samples, too few for a share"}
    return {"tcp_share": kinds["tcp"] / samples, "kernel_share": kinds["kernel"] / samples,
            "program_share": kinds["program"] / samples, "samples": samples}
