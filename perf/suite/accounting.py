"""Where a proxy's processor time goes: how many system calls, and how much of it is the kernel's
TCP, which every relay through sockets has to pay."""

import collections
import re
import signal
import subprocess
import time

from . import measure
from .profiles import BY_NAME

PROFILES = ("rr64", "bulk")
SAMPLES_PER_SECOND = 1999
# A sample with one of these on its stack is the kernel's TCP moving a message.
TCP = re.compile(r"^tcp_(sendmsg|recvmsg|splice_read|splice_data_recv|read_sock)")


def account(session, setting):
    """Fields of the point: system calls for a request (or MiB), and the kernel TCP's share."""
    return {"kind": "account", "profiles": {
        name: _account_profile(session, BY_NAME[name], setting) for name in PROFILES}}


def _account_profile(session, profile, setting):
    found = {}
    for tool, method in (("perf", _count_calls), ("strace", _trace_calls), ("perf", _sample)):
        if tool in session.tools.paths:
            tooled = []
            load, usage = measure.run_load(
                session, profile, setting,
                during=lambda method=method, kept=tooled: kept.append(method(session, setting)))
            session.check()
            found.update(tooled[0](load))
            found.setdefault("busy", usage["busy"])
    return found


def _first_line(text):
    return (text.strip().splitlines() or ["without a word"])[0]


def _pids(session):
    return ",".join(map(str, session.pids))


def _per_unit(calls_per_second, load):
    """For one request, or one MiB of a stream."""
    if "bits_per_second" in load:
        return calls_per_second / (load["bits_per_second"] / 8 / 2**20)
    return calls_per_second / load["per_second"]


def _count_calls(session, setting):
    """By tracepoint, which costs so little that the load stays the same."""
    seconds = setting.seconds * 0.6
    # The mount is private to this command and ends with it.
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", "mount -t tracefs tracefs /sys/kernel/tracing && "
         'exec "$@"', "sh", session.tools["perf"], "stat", "--field-separator=,",
         "--event=raw_syscalls:sys_enter", f"--pid={_pids(session)}", "--", "sleep", str(seconds)],
        capture_output=True, text=True, timeout=seconds + 20, check=False)
    count = re.search(r"^(\d+),", done.stderr, re.MULTILINE)
    if done.returncode or not count:
        return lambda load: {"calls_note": "no tracepoints: " + _first_line(done.stderr)}
    rate = int(count.group(1)) / seconds
    return lambda load: {"calls": _per_unit(rate, load)}


def _trace_calls(session, setting):
    """Which calls, by strace: it slows the proxy several times, so only the mix is taken."""
    output = session.directory / "strace.txt"
    tracer = subprocess.Popen(
        [session.tools["strace"], "-c", "-f", "-o", output, "-p", _pids(session)],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True)
    time.sleep(setting.seconds * 0.6)
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


def _sample(session, setting):
    """The stacks of the proxy's processor time."""
    data = session.directory / "perf.data"
    seconds = setting.seconds * 0.6
    recorded = subprocess.run(
        [session.tools["perf"], "record", "--quiet", "--event=cpu-clock", "--call-graph=fp",
         f"--freq={SAMPLES_PER_SECOND}", f"--pid={_pids(session)}", f"--output={data}", "--",
         "sleep", str(seconds)],
        capture_output=True, text=True, timeout=seconds + 30, check=False)
    if recorded.returncode:
        return lambda load: {"tcp_note": "perf record: " + _first_line(recorded.stderr)}
    script = subprocess.run(
        [session.tools["perf"], "script", "--fields=ip,sym", f"--input={data}"],
        capture_output=True, text=True, timeout=60, check=False)
    shares = stack_shares(script.stdout)
    return lambda load: shares


def stack_shares(text):
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
    return {"tcp_share": kinds["tcp"] / samples, "kernel_share": kinds["kernel"] / samples,
            "program_share": kinds["program"] / samples, "samples": samples}
