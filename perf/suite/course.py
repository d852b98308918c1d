"""The course of a run: every proxy once in each round, each round beginning with another one."""

import os
import pathlib
import resource
import subprocess
import tempfile
import time

from . import accounting, measure
from .errors import CheckFailed, SuiteError
from .profiles import IDLE_CONNECTIONS, MAXIMUM, STAGES
from .session import Session

# What comes on top of the measured seconds, roughly; the estimate corrects itself on the way.
SESSION_SECONDS = 1.5
POINT_SECONDS = 0.6
IDLE_SECONDS = 2 * measure.IDLE_SECONDS + 3.0
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
        self._maximum = {}
        self._peers = self._measurable()
        self._plan = list(self._planned())
        self._progress = Progress(
            sum(self._expected(profile) + SESSION_SECONDS / len(profiles)
                for *_, profiles in self._plan for profile in profiles), say)

    def run(self):
        """Measures all; a failed check costs the point, or the rest of a stage if nothing runs."""
        with self._kept:
            self._raise_descriptor_limit()
            self._spare_core()
            for number, peer, stage, profiles in self._plan:
                self._run_stage(number, peer, stage, profiles)

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

    def _planned(self):
        """(round, peer, stage, profiles), in order."""
        for number in range(1, self.options.rounds + 1):
            first = (number - 1) % len(self._peers)
            for peer in self._peers[first:] + self._peers[:first]:
                for stage in STAGES:
                    profiles = [profile for profile in self.options.profiles
                                if profile.stage == stage and peer.measured_by(profile)
                                and (peer.is_usual(profile.name) or not self.options.usual)]
                    if profiles and number <= ROUNDS_OF_STAGE.get(stage, number):
                        yield number, peer, stage, profiles

    def _expected(self, profile):
        point = self.options.warmup + self.options.seconds + POINT_SECONDS
        return {"account": accounting.expected_seconds(self.options.warmup),
                "idle": IDLE_SECONDS}.get(profile.stage, point)

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

    def _run_stage(self, number, peer, stage, profiles):
        left = list(profiles)
        while left:
            tried = len(left)
            try:
                with Session(self, peer, stage) as session:
                    while left:
                        self._take(session, number, left.pop(0), len(profiles))
            except ProxyDied:
                # A new one, for what is left.
                continue
            except (CheckFailed, OSError) as problem:
                if len(left) == tried:
                    self._failed(number, peer, left, problem)
                    return

    def _take(self, session, number, profile, count):
        peer = session.peer
        done = self._expected(profile) + SESSION_SECONDS / count
        try:
            line = self._measure(session, number, profile)
        except (CheckFailed, OSError, subprocess.SubprocessError, ValueError, KeyError) as problem:
            self._failed(number, peer, [profile], problem, done)
            if session.proxy and not session.proxy.runs():
                raise ProxyDied from problem
            return
        if profile.name == MAXIMUM:
            self._maximum[number, peer.name] = line["value"]
        self.results.add({**line, "round": number, "proxy": peer.name, "profile": profile.name})
        self._progress.say(done, number, peer, profile.name, _value_text(line))

    def _measure(self, session, number, profile):
        options = self.options
        setting = measure.Setting(options.seconds, options.warmup, options.cpus, None)
        if profile.stage == "account":
            return accounting.account(session, setting)
        maximum = self._maximum.get((number, session.peer.name))
        if profile.is_open_loop and maximum is None:
            raise CheckFailed(f"its maximum ({MAXIMUM}) could not be measured")
        setting.raw = self.results.raw(number, session.peer.name, profile.name)
        return {"kind": "point", **measure.take(session, profile, setting, maximum)}

    def _failed(self, number, peer, profiles, problem, done=0.0):
        # A KeyError's own text is only the key.
        reason = str(problem) if isinstance(problem, CheckFailed) else repr(problem)
        for profile in profiles:
            self.results.add({"kind": "failure", "round": number, "proxy": peer.name,
                              "profile": profile.name, "reason": reason,
                              "load": getattr(problem, "load", None)})
        names = profiles[0].name + (f" to {profiles[-1].name}" if len(profiles) > 1 else "")
        self._progress.say(done or sum(map(self._expected, profiles)), number, peer, names,
                           f"FAILED: {reason}")


class ProxyDied(Exception):
    """The session cannot go on; what was left of its stage can, in a new one."""


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

    def say(self, done, number, peer, what, text):
        """One line, when another piece of so many expected seconds is behind us."""
        self._done += done
        share = self._done / self._expected
        # The estimate is corrected by how wrong the past was.
        left = (time.monotonic() - self._begin) * (1 - share) / share
        self._write(f"[{share:4.0%}, {_minutes(max(0, left))} left] "
                    f"round {number}  {peer.name:<17} {what:<10} {text}")


def _minutes(seconds):
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
