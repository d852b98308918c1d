"""The course of a run: the proxies side by side and measured in turn, or one at a time; each round
with new processes."""

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
from .progress import Progress
from .session import Session

# What comes on top of the measured seconds, roughly; the estimate corrects itself on the way.
SESSION_SECONDS = 0.5
POINT_SECONDS = 0.25
IDLE_SECONDS = 2 * measure.IDLE_SECONDS + 3.0
# How long what failed a point may take to die of it.
DEATH_SECONDS = 0.5
# What needs fewer rounds than the rest: where the time goes does not change between rounds, and
# memory hardly does.
ROUNDS_OF_STAGE = {"account": 1, "idle": 3}


class Course:
    """Everything between the settings and the report."""

    def __init__(self, options, tools, results, say, show):
        self.options = options
        self.tools = tools
        self.results = results
        self.lab_name = f"perf-{os.getpid()}"
        self._kept = tempfile.TemporaryDirectory(prefix="egret-perf-")
        self.directory = pathlib.Path(self._kept.name)
        self._say = say
        # By proxy, profile and round: the figures of its slices so far.
        self._figures = collections.defaultdict(list)
        self._peers = self._measurable()
        self._stages = [Stage(self, name, self._batches(name)) for name in STAGES]
        self.progress = Progress(sum(stage.expected() for stage in self._stages), say, show)

    def run(self):
        """Measures all; a failed check costs the point, or the rest of a stage if nothing runs."""
        with self._kept:
            self._raise_descriptor_limit()
            self._spare_core()
            for stage in self._stages:
                stage.run()

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

    def _batches(self, stage):
        """What is measured in a stage, in order; a batch of turns shares its processes."""
        options = self.options
        chosen = [profile for profile in options.profiles if profile.stage == stage]
        rounds = min(options.rounds, ROUNDS_OF_STAGE.get(stage, options.rounds))
        how = (rounds, self._length, self._measures)
        if stage in SIDE_BY_SIDE:
            return list(order.side_by_side(self._peers, chosen, *how))
        return [[turn] for profile in chosen
                for turn in order.one_at_a_time(self._peers, profile, *how)]

    def _length(self, profile):
        return order.length(profile, self.options.seconds, self.options.warmup)

    def _measures(self, peer, profile):
        return peer.measured_by(profile) and \
            (peer.is_usual(profile.name) or not self.options.usual)

    def expected(self, turn):
        """Seconds."""
        point = turn.length.warmup + turn.length.seconds + POINT_SECONDS
        return {"account": accounting.expected_seconds(self.options.warmup),
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

    def take(self, session, turn):
        """Measures a point, or writes down why not; False when the session has died of it."""
        lives = self._point(session, turn)
        figures = self._figures_of(turn, turn.profile.name)
        if turn.ends_round and figures:
            self.progress.say(turn, _figures_text(figures, turn.profile.unit))
        return lives

    def _point(self, session, turn):
        self.progress.show(turn)
        try:
            try:
                line = self._measure(session, turn)
            finally:
                self.progress.done(self.expected(turn))
        except (CheckFailed, OSError, subprocess.SubprocessError, ValueError, KeyError) as problem:
            # The load ends with the proxy's sockets, a little before the proxy itself.
            death = session.death(within=DEATH_SECONDS)
            self.failed(turn, death or _reason(problem), getattr(problem, "load", None))
            return not death
        self.results.add({**line, **_place(turn)})
        self._figures_of(turn, turn.profile.name).append(line.get("value"))
        return True

    def _figures_of(self, turn, profile):
        return self._figures[turn.peer.name, profile, turn.round]

    def _measure(self, session, turn):
        # It may have died since its last turn.
        session.check()
        setting = measure.Setting(turn.length.seconds, turn.length.warmup, self.options.cpus, None)
        if turn.profile.stage == "account":
            return accounting.account(session, setting)
        maximum = self._figures_of(turn, MAXIMUM)
        if turn.profile.is_open_loop and not maximum:
            raise CheckFailed(f"its maximum ({MAXIMUM}) could not be measured")
        if turn.keeps_histograms:
            setting.raw = self.results.raw(turn.round, turn.peer.name, turn.profile.name)
        return {"kind": "point", **measure.take(session, turn.profile, setting,
                                                statistics.median(maximum) if maximum else None)}

    def failed(self, turn, why, load=None):
        """Writes down that there is no point here."""
        self.results.add({"kind": "failure", **_place(turn), "reason": why, "load": load})
        # The report has all of it.
        self.progress.say(turn, f"FAILED: {why.splitlines()[0]}")


class Stage:
    """Batches of turns. All proxies of a batch run before its first turn and end with it. One that
    died is started again for its next turn; one that cannot start has no further turn."""

    def __init__(self, course, name, batches):
        self._course = course
        self._name = name
        self._left = batches
        self._sessions = {}

    def expected(self, name=None):
        """Seconds for what is left: of this proxy, or of all."""
        batches = [[turn for turn in batch if name in (None, turn.peer.name)]
                   for batch in self._left]
        return sum(SESSION_SECONDS * len(_peers(batch)) + sum(map(self._course.expected, batch))
                   for batch in batches)

    def run(self):
        for batch in self._left:
            with contextlib.ExitStack() as cleanup:
                self._run_batch(batch, cleanup)

    def _run_batch(self, batch, cleanup):
        self._sessions = {}
        for peer in _peers(batch):
            if self._session(peer, cleanup):
                self._course.progress.done(SESSION_SECONDS)
        while batch:
            session = self._session(batch[0].peer, cleanup)
            if session and not self._course.take(session, batch.pop(0)):
                self._sessions.pop(session.peer.name).close()

    def _session(self, peer, cleanup):
        """The proxy's session, begun if there is none; None when it cannot begin: the proxy then
        has no turn left."""
        if peer.name not in self._sessions:
            begin = time.monotonic()
            try:
                self._sessions[peer.name] = cleanup.enter_context(
                    Session(self._course, peer, self._name))
            except (CheckFailed, OSError) as problem:
                self._leave_out(peer.name, problem, time.monotonic() - begin)
        return self._sessions.get(peer.name)

    def _leave_out(self, name, problem, spent):
        """A failure for each profile that was still to come."""
        course = self._course
        course.progress.leave_out(self.expected(name), spent)
        first = {}
        for batch in self._left:
            for turn in batch:
                if turn.peer.name == name:
                    first.setdefault(turn.profile.name, turn)
            batch[:] = [turn for turn in batch if turn.peer.name != name]
        for turn in first.values():
            course.failed(turn, f"not started, and left out from here on: {_reason(problem)}")


def _peers(turns):
    """Whose turns these are, in order."""
    return list({turn.peer.name: turn.peer for turn in turns}.values())


def _reason(problem):
    """In words."""
    # A KeyError's own text is only the key.
    return str(problem) if isinstance(problem, CheckFailed) else repr(problem)


def _place(turn):
    """Where a line belongs."""
    return {"round": turn.round, "slice": turn.slice, "proxy": turn.peer.name,
            "profile": turn.profile.name}


def _figures_text(figures, unit):
    if None in figures:
        # Where time goes is more than one figure.
        return "done"
    value = statistics.median(figures)
    digits = 2 if value < 100 else 0
    if unit == "bit/s":
        value, unit, digits = value / 1e9, "Gbit/s", 2
    return f"{value:>10,.{digits}f} {unit}".replace(",", " ")
