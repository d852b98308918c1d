"""The course of a run: every proxy once in each round, each round beginning with another one."""

import os
import pathlib
import subprocess
import tempfile
import time

from . import accounting, measure
from .errors import CheckFailed, SuiteError
from .profiles import MAXIMUM, STAGES
from .session import Session

# What comes on top of the measured seconds, roughly; the estimate corrects itself on the way.
SESSION_SECONDS = 1.5
POINT_SECONDS = 0.6
IDLE_SECONDS = 2.0
ACCOUNT_LOADS = 2 * 3


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
        self._maximum = {}
        self._peers = self._measurable()
        self._plan = list(self._planned())
        self._progress = Progress([seconds for *_, seconds in self._plan], say)

    def run(self):
        """Measures all; a failed check costs the point, or the rest of a stage if nothing runs."""
        with self._kept:
            self._spare_core()
            for number, peer, stage, profiles, _ in self._plan:
                self._run_stage(number, peer, stage, profiles)
                self._progress.next()

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
            self.results.add({"kind": "left-out", "proxy": peer.name, "reason": problem})
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

    def _planned(self):
        """(round, peer, stage, profiles, expected seconds), in order."""
        for number in range(1, self.options.rounds + 1):
            first = (number - 1) % len(self._peers)
            for peer in self._peers[first:] + self._peers[:first]:
                for stage in STAGES:
                    profiles = [profile for profile in self.options.profiles
                                if profile.stage == stage and peer.measured_by(profile)]
                    # Where the time goes does not change between rounds.
                    if profiles and not (stage == "account" and number > 1):
                        yield number, peer, stage, profiles, self._expected(stage, profiles)

    def _expected(self, stage, profiles):
        point = self.options.warmup + self.options.seconds + POINT_SECONDS
        loads = {"account": ACCOUNT_LOADS * point, "idle": IDLE_SECONDS}
        return SESSION_SECONDS + loads.get(stage, len(profiles) * point)

    def _spare_core(self):
        """This process works little, but not on the core that is measured, if there is another."""
        others = os.sched_getaffinity(0) - set(self.options.cpus)
        if others:
            os.sched_setaffinity(0, others)

    def _run_stage(self, number, peer, stage, profiles):
        left = list(profiles)
        while left:
            try:
                with Session(self, peer, stage) as session:
                    while left:
                        self._take(session, number, left.pop(0))
            except CheckFailed as problem:
                # The session could not start, or its proxy died: a new one, for what is left.
                if left == profiles:
                    for profile in left:
                        self._failed(number, peer, profile, problem)
                    return
                profiles = list(left)

    def _take(self, session, number, profile):
        peer = session.peer
        where = {"round": number, "proxy": peer.name, "profile": profile.name}
        try:
            if profile.stage == "account":
                account = accounting.account(session, self._setting(None))
                self.results.add({**account, **where})
                self._progress.point(f"{peer.name}  {profile.name}", self._say)
                return
            maximum = self._maximum.get((number, peer.name))
            if profile.is_open_loop and maximum is None:
                raise CheckFailed(f"its maximum ({MAXIMUM}) could not be measured")
            raw = self.results.raw(number, peer.name, profile.name)
            point = measure.take(session, profile, self._setting(raw), maximum)
        except (CheckFailed, OSError, subprocess.SubprocessError, ValueError, KeyError) as problem:
            self._failed(number, peer, profile, problem)
            if not (session.proxy is None or session.proxy.runs()):
                raise CheckFailed(str(problem)) from problem
            return
        if profile.name == MAXIMUM:
            self._maximum[number, peer.name] = point["value"]
        self.results.add({"kind": "point", **where, **point})
        self._progress.point(
            f"round {number}  {peer.name:<14} {profile.name:<10} {point['value']:>16,.2f} "
            f"{point['unit']}", self._say)

    def _setting(self, raw):
        options = self.options
        return measure.Setting(options.seconds, options.warmup, options.cpus, raw)

    def _failed(self, number, peer, profile, problem):
        reason = f"{type(problem).__name__}: {problem}" if not isinstance(problem, CheckFailed) \
            else str(problem)
        self.results.add({"kind": "failure", "round": number, "proxy": peer.name,
                          "profile": profile.name, "reason": reason})
        self._progress.point(f"round {number}  {peer.name:<14} {profile.name:<10} FAILED: {reason}",
                             self._say)


class Progress:
    """What is done, and how long the rest will take if it goes on like this."""

    def __init__(self, expected, say):
        self._expected = expected
        self._done = 0
        self._begin = time.monotonic()
        say(f"{len(expected)} stages, about {_minutes(sum(expected))}")

    def next(self):
        self._done += 1

    def left(self):
        """Seconds: the expected ones, corrected by how wrong the past ones were."""
        past = sum(self._expected[:self._done])
        factor = (time.monotonic() - self._begin) / past if past else 1.0
        return factor * sum(self._expected[self._done:])

    def point(self, text, say):
        share = self._done / len(self._expected)
        say(f"[{share:4.0%}, {_minutes(self.left())} left] {text}")


def _minutes(seconds):
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
