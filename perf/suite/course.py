"""The course of a run: the proxies side by side and measured in turn, or one at a time."""

import collections
import contextlib
import os
import pathlib
import resource
import statistics
import subprocess
import tempfile
import time

from . import accounting, measure, order
from .errors import CheckFailed, SuiteError
from .profiles import IDLE_CONNECTIONS, MAXIMUM, SIDE_BY_SIDE, STAGES
from .session import Session

# What comes on top of the measured seconds, roughly; the estimate corrects itself on the way.
SESSION_SECONDS = 1.5
POINT_SECONDS = 0.25
IDLE_SECONDS = 2 * measure.IDLE_SECONDS + 3.0
# How long what failed a point may take to die of it.
DEATH_SECONDS = 0.5
# What needs fewer rounds than the rest: where the time goes does not change between rounds, and
# memory hardly does.
ROUNDS_OF_STAGE = {"account": 1, "idle": 3}


class Course:
    """Everything between the settings and the report."""

    def __init__(self, options, tools, results, say):
        self.options = options
        self.tools = tools
        self.results = results
        self.lab_name = f"perf-{os.getpid()}"
        self._kept = tempfile.TemporaryDirectory(prefix="egret-perf-")
        self.directory = pathlib.Path(self._kept.name)
        self._say = say
        self._maximum = collections.defaultdict(list)
        self._peers = self._measurable()
        self._plan = [(stage, list(self._turns(stage))) for stage in STAGES]
        self._progress = Progress(
            sum(self._expected(turn) for _, turns in self._plan for turn in turns), say)

    def run(self):
        """Measures all; a failed check costs the point, or the rest of a stage if nothing runs."""
        with self._kept:
            self._raise_descriptor_limit()
            self._spare_core()
            for stage, turns in self._plan:
                if stage in SIDE_BY_SIDE:
                    self._run_side_by_side(stage, turns)
                else:
                    self._run_one_at_a_time(stage, turns)

    def _measurable(self):
        """Without the proxies whose configuration this Egret does not know."""
        kept = []
        for peer in self.options.peers:
            problem = self._configuration_problem(peer)
            if not problem:
                kept.append(peer)
                continue
            if self.options.explicit_proxies:
                raise SuiteError(f"{peer.name}: {problem}")
            self._say(f"left out: {peer.name}: {problem}")
            self.results.add({"kind": "left-out", "what": peer.name, "reason": problem})
        return kept

    def _configuration_problem(self, peer):
        if not peer.program.startswith("egret"):
            return ""
        directory = self.directory / f"check-{peer.name}"
        directory.mkdir()
        config = peer.render(directory, 1)
        done = subprocess.run([self.tools[peer.program], "check", "--config", config],
                              capture_output=True, text=True, timeout=20, check=False)
        lines = (done.stdout + done.stderr).strip().replace(f"{directory}/", "").splitlines()
        return lines[0] if done.returncode else ""

    def _turns(self, stage):
        """What is measured in a stage, in order."""
        options = self.options
        chosen = [profile for profile in options.profiles if profile.stage == stage]
        rounds = min(options.rounds, ROUNDS_OF_STAGE.get(stage, options.rounds))
        how = (rounds, self._length, self._measures)
        if stage in SIDE_BY_SIDE:
            yield from order.side_by_side(self._peers, chosen, *how)
            return
        for profile in chosen:
            yield from order.one_at_a_time(self._peers, profile, *how)

    def _length(self, profile):
        return order.length(profile, self.options.seconds, self.options.warmup)

    def _measures(self, peer, profile):
        return peer.measured_by(profile) and \
            (peer.is_usual(profile.name) or not self.options.usual)

    def _expected(self, turn):
        """Seconds."""
        alone = SESSION_SECONDS if turn.profile.stage not in SIDE_BY_SIDE else 0.0
        point = turn.length.warmup + turn.length.seconds + POINT_SECONDS
        return alone + {"account": accounting.expected_seconds(self.options.warmup),
                        "idle": IDLE_SECONDS}.get(turn.profile.stage, point)

    def _raise_descriptor_limit(self):
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        # Two descriptors for each idle connection in the proxy, and some more.
        if any(profile.stage == "idle" for profile in self.options.profiles) and \
                hard != resource.RLIM_INFINITY and hard < 3 * IDLE_CONNECTIONS:
            raise SuiteError(f"the hard limit on open files is {hard}; raise it (ulimit -Hn "
                             f"{5 * IDLE_CONNECTIONS}), or leave out the profile idle")
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    def _spare_core(self):
        """This process works little, but not on the core that is measured, if there is another."""
        others = os.sched_getaffinity(0) - set(self.options.cpus)
        if others:
            os.sched_setaffinity(0, others)

    def _run_side_by_side(self, stage, turns):
        """All proxies run at once, and everybody has a turn before anybody has the next. A proxy
        that died is started again for its next turn; one that cannot start has no further ones."""
        with contextlib.ExitStack() as cleanup:
            sessions, hopeless = {}, set()
            for turn in turns:
                name = turn.peer.name
                if name in hopeless:
                    continue
                try:
                    if name not in sessions:
                        sessions[name] = cleanup.enter_context(Session(self, turn.peer, stage))
                    self._take(sessions[name], turn)
                except ProxyDied:
                    sessions.pop(name).close()
                except (CheckFailed, OSError) as problem:
                    hopeless.add(name)
                    left = [other for other in turns[turns.index(turn):] if other.peer.name == name]
                    self._failed(left, problem)

    def _run_one_at_a_time(self, stage, turns):
        for turn in turns:
            try:
                with Session(self, turn.peer, stage) as session:
                    self._take(session, turn)
            except ProxyDied:
                # The point is written down as failed; the next turn has a new one.
                continue
            except (CheckFailed, OSError) as problem:
                self._failed([turn], problem)

    def _take(self, session, turn):
        try:
            line = self._measure(session, turn)
        except (CheckFailed, OSError, subprocess.SubprocessError, ValueError, KeyError) as problem:
            # The load ends with the proxy's sockets, a little before the proxy itself.
            death = session.death(within=DEATH_SECONDS)
            self._failed([turn], CheckFailed(death) if death else problem)
            if death:
                raise ProxyDied from problem
            return
        if turn.profile.name == MAXIMUM:
            self._maximum[turn.peer.name].append(line["value"])
        self.results.add({**line, **_place(turn)})
        self._progress.say(self._expected(turn), turn, _value_text(line))

    def _measure(self, session, turn):
        # It may have died since its last turn.
        session.check()
        setting = measure.Setting(turn.length.seconds, turn.length.warmup, self.options.cpus, None)
        if turn.profile.stage == "account":
            return accounting.account(session, setting)
        maximum = self._maximum.get(turn.peer.name)
        if turn.profile.is_open_loop and not maximum:
            raise CheckFailed(f"its maximum ({MAXIMUM}) could not be measured")
        if turn.keeps_histograms:
            setting.raw = self.results.raw(turn.round, turn.peer.name, turn.profile.name)
        return {"kind": "point", **measure.take(session, turn.profile, setting,
                                                statistics.median(maximum) if maximum else None)}

    def _failed(self, turns, problem):
        # A KeyError's own text is only the key.
        reason = str(problem) if isinstance(problem, CheckFailed) else repr(problem)
        for turn in turns:
            self.results.add({"kind": "failure", **_place(turn), "reason": reason,
                              "load": getattr(problem, "load", None)})
        rest = f", and {len(turns) - 1} more points" if len(turns) > 1 else ""
        self._progress.say(sum(map(self._expected, turns)), turns[0], f"FAILED{rest}: {reason}")


def _place(turn):
    """Where a line belongs."""
    return {"round": turn.round, "slice": turn.slice, "proxy": turn.peer.name,
            "profile": turn.profile.name}


class ProxyDied(Exception):
    """The session cannot go on; what is left of its stage can, in a new one."""


def _value_text(line):
    if line["kind"] == "account":
        return "done"
    digits = 2 if line["value"] < 100 else 0
    value, unit = line["value"], line["unit"]
    if unit == "bit/s":
        value, unit, digits = value / 1e9, "Gbit/s", 2
    return f"{value:>10,.{digits}f} {unit}".replace(",", " ")


class Progress:
    """What is done, and how long the rest will take if it goes on like this."""

    def __init__(self, expected, say):
        self._expected = expected
        self._done = 0.0
        self._begin = time.monotonic()
        self._write = say
        say(f"about {_minutes(expected)}")

    def say(self, done, turn, text):
        """One line, when another piece of so many expected seconds is behind us."""
        self._done += done
        share = self._done / self._expected
        # The estimate is corrected by how wrong the past was.
        left = (time.monotonic() - self._begin) * (1 - share) / share
        self._write(f"[{share:4.0%}, {_minutes(max(0, left))} left] "
                    f"{turn.round:>2}.{turn.slice}  {turn.peer.name:<17} "
                    f"{turn.profile.name:<10} {text}")


def _minutes(seconds):
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
