"""One point: a load, what it cost, and whether it was the load that its name says."""

import contextlib
import dataclasses
import json
import os
import pathlib
import resource
import time

from . import disturb, machine, memory
from .errors import CheckFailed
from .lab import ECHO, SERVER
from .profiles import IDLE_CONNECTIONS

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
# Of the measured seconds, the part in which the processor's time is looked at: without the edges.
WINDOW = (0.1, 0.9)


@dataclasses.dataclass
class Usage:
    """Processor time so far: of processes (ns, and user and system in ticks), and the cores'."""

    at: float
    process_ns: int = 0
    user: int = 0
    system: int = 0
    idle: int = 0
    stolen: int = 0
    # Time in interrupts that the kernel charges to no process.
    interrupts: int = 0
    total: int = 0

    @classmethod
    def now(cls, pids, cpus):
        usage = cls(time.monotonic())
        for pid in pids:
            # The clock of another process, clock_getcpuclockid(3): exact, and with the time of
            # threads that have ended.
            usage.process_ns += time.clock_gettime_ns((~pid << 3) | 2)
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            usage.user += int(fields[11])
            usage.system += int(fields[12])
        for line in pathlib.Path("/proc/stat").read_text().splitlines():
            name, _, figures = line.partition(" ")
            if name in {f"cpu{cpu}" for cpu in cpus}:
                ticks = [int(figure) for figure in figures.split()[:8]]
                # Waiting for storage counts as idle.
                usage.idle += ticks[3] + ticks[4]
                usage.stolen += ticks[7]
                if machine.interrupts_are_apart():
                    usage.interrupts += ticks[5] + ticks[6]
                usage.total += sum(ticks)
        return usage

    def since(self, before):
        """Shares: of a second for the proxy (1 is one busy core), of all time for the cores."""
        seconds = self.at - before.at
        total = max(1, self.total - before.total)
        ticks = (self.user - before.user) + (self.system - before.system)
        return {
            "busy": (self.process_ns - before.process_ns) / 1e9 / seconds,
            "user_share": (self.user - before.user) / ticks if ticks else None,
            "core_idle": (self.idle - before.idle) / total,
            "core_stolen": (self.stolen - before.stolen) / total,
        }

    def path_since(self, before, client_seconds):
        """Of client, server and proxy together: seconds; and the share of the cores' time that went
        to somebody else."""
        seconds = (self.process_ns - before.process_ns) / 1e9 + client_seconds
        total = max(1, self.total - before.total)
        away = (self.idle - before.idle) + (self.stolen - before.stolen) + \
            (self.interrupts - before.interrupts)
        return {"path_seconds": seconds,
                "core_foreign": max(0.0, 1 - away / total - seconds * TICKS_PER_SECOND / total)}


@dataclasses.dataclass
class Setting:
    """How long, on which processors, and where the histograms go."""

    seconds: float
    warmup: float
    cpus: list
    raw: pathlib.Path


def take(session, profile, setting, maximum):
    """The point's fields; `maximum` is the proxy's own rate for open-loop profiles."""
    if profile.stage == "idle":
        return _take_idle(session)
    rate = profile.share * maximum if profile.is_open_loop else None
    before = session.counts()
    with _disturbed(session, profile) as disturbance:
        load, usage = run_load(session, profile, setting, rate)
    session.check()
    after = session.counts()
    try:
        check_load(session, profile, load, {key: after[key] - before[key] for key in before})
    except CheckFailed as problem:
        problem.load = load
        raise
    point = {"value": figure(load, profile.figure), "unit": profile.unit, "load": load, **usage}
    point.update(cost(usage, load, session))
    if disturbance:
        disturbance.check()
        point["disturbance"] = disturbance.summary()
    return point


def run_load(session, profile, setting, rate=None, during=None):
    """loadgen's line, and the usage in the middle, where `during` runs if it is given; no usage
    when the middle lasted longer than the load: half of it would be of an idle proxy."""
    arguments = [*profile.load, "--seconds", setting.seconds, "--warmup", setting.warmup]
    if setting.raw and profile.figure != "bits_per_second":
        arguments += ["--hgrm", setting.raw.with_suffix(".hgrm"),
                      "--hlog", setting.raw.with_suffix(".hlog")]
    if rate:
        arguments += ["--rate", round(rate, 1)]
    everybody = [*session.pids, session.server_pid]
    first, children = Usage.now(everybody, setting.cpus), _children_seconds()
    # Loadgen starts a little later and so ends later.
    end = time.monotonic() + setting.warmup + setting.seconds
    client = session.loadgen("pod", "client", arguments)
    time.sleep(setting.warmup + setting.seconds * WINDOW[0])
    before = Usage.now(session.pids, setting.cpus)
    if during:
        during()
    else:
        time.sleep(setting.seconds * (WINDOW[1] - WINDOW[0]))
    after = _usage_or_death(session, setting.cpus)
    code = client.wait(setting.seconds + 30)
    if code:
        raise CheckFailed(f"loadgen failed ({code}): {client.said()}")
    usage = after.since(before) if after.at <= end else {}
    last = _usage_or_death(session, setting.cpus, everybody)
    # The client is the only child that has ended meanwhile, unless tools looked on.
    if not during:
        usage.update(last.path_since(first, _children_seconds() - children))
    return json.loads(client.log.read_text()), usage


def _children_seconds():
    """Processor time of the children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _usage_or_death(session, cpus, pids=None):
    try:
        return Usage.now(session.pids if pids is None else pids, cpus)
    except OSError:
        session.check()
        raise


def _disturbed(session, profile):
    if profile.disturbance == "scrape":
        return disturb.Scrape(session)
    if profile.disturbance == "reload":
        return disturb.Reload(session)
    return contextlib.nullcontext()


def figure(load, path):
    """latency_us.p99 and the like."""
    value = load
    for key in path.split("."):
        value = value[key]
    return value


def cost(usage, load, session):
    """Processor time for one request, or for one KiB of a bulk stream: the proxy's, and (`path_`)
    that of client, server and proxy together, over the whole load."""
    is_bulk = "bits_per_second" in load
    found = {}
    if session.proxy and "busy" in usage:
        if is_bulk:
            found["ns_per_kib"] = usage["busy"] * 1e9 / (load["bits_per_second"] / 8 / 1024)
        else:
            found["ns_per_request"] = usage["busy"] * 1e9 / load["per_second"]
    if "path_seconds" in usage:
        overall = load["overall"]
        units = (overall["bytes_sent"] + overall["bytes_received"]) / 1024 if is_bulk else \
            overall["requests"]
        if units:
            found["path_ns_per_kib" if is_bulk else "path_ns_per_request"] = \
                usage["path_seconds"] * 1e9 / units
    return found


def check_load(session, profile, load, counted):
    """The suite does not believe the load's name: the server's own counts must agree."""
    errors = {kind: count for kind, count in load["errors"].items() if count}
    if errors:
        raise CheckFailed(f"the load met errors: {errors}")
    if not load["requests"] and not load.get("bits_per_second"):
        raise CheckFailed("the load got no answer")
    _check_statuses(load)
    if profile.stage == "blackhole":
        if counted["accepted"]:
            raise CheckFailed(f"{counted['accepted']} blackholed connections reached the server")
        return
    opened = load["overall"]["connections"]
    if profile.churns and opened < load["requests"]:
        raise CheckFailed(f"{opened} connections for {load['requests']} requests, not one for each")
    if profile.kept and opened != profile.kept:
        raise CheckFailed(f"{opened} connections, not {profile.kept} that were kept")
    # A proxy that speaks HTTP keeps connections of its own to the server.
    if session.peer.relays_connections and counted["accepted"] != opened:
        raise CheckFailed(f"the server saw {counted['accepted']} connections of {opened}")
    if profile.message and counted["bytes"] < load["requests"] * profile.message:
        raise CheckFailed(f"the server saw {counted['bytes']} bytes for {load['requests']} "
                          f"requests of {profile.message}")


def _check_statuses(load):
    refused = {status: count for status, count in (load.get("statuses") or {}).items()
               if not status.startswith("2")}
    if refused:
        raise CheckFailed(f"answers other than 2xx: {refused}")


# How long idle connections have been silent when the memory is read.
IDLE_SECONDS = 6


def _take_idle(session):
    with memory.group_of(session.pids, f"egret-perf-{os.getpid()}") as group:
        # So that memory which only the first connections cost is there already.
        _hold(session, 64, lambda: None)
        memory.settled()
        before = memory.reading(session.pids, group)
        after = _hold(session, IDLE_CONNECTIONS, lambda: memory.reading(session.pids, group))
    grown = memory.per_connection(before, after, IDLE_CONNECTIONS)
    return {"value": grown["user"], "unit": "KiB/connection", "memory": grown}


def _hold(session, connections, read):
    """What `read` says while so many connections are open and silent."""
    accepted = session.counts()["accepted"]
    client = session.loadgen("pod", "client", [
        "idle", "--target", f"{SERVER}:{ECHO}", "--connections", connections])
    deadline = time.monotonic() + 60
    while "ready" not in client.log.read_text():
        if not client.runs() or time.monotonic() > deadline:
            raise CheckFailed(f"{connections} idle connections did not come up: {client.said()}")
        time.sleep(0.05)
    # Silent for a while, as the name says: proxies give memory back with a delay.
    time.sleep(IDLE_SECONDS)
    result = read()
    session.check()
    seen = session.counts()["accepted"] - accepted
    client.stop()
    if seen != connections:
        raise CheckFailed(f"the server saw {seen} idle connections, not {connections}")
    return result
