"""The course of a run, with sessions and points that are made up."""

import collections
import pathlib
import tempfile
import types
import unittest
from unittest import mock

from suite import course, options
from suite.errors import CheckFailed
from suite.progress import Progress
from suite.results import Results


class Machine:
    """Stands for sessions and loads; writes down what happens to them."""

    def __init__(self):
        self.events = []
        # By proxy: how often it starts before it does not; at which of its points it dies.
        self.starts = {}
        self.deaths = {}
        self.points = {}
        self.maxima = collections.defaultdict(list)

    def session(self, _, peer, stage):
        return Session(self, peer.name, stage)

    def take(self, session, profile, setting, maximum):
        count = self.points[session.name] = self.points.get(session.name, 0) + 1
        self.events.append(("point", session.name, profile.name))
        if profile.is_open_loop:
            self.maxima[session.name].append(maximum)
        if self.deaths.get(session.name) == count:
            session.dead = True
            raise CheckFailed("no answer")
        return {"value": 100.0 * count, "unit": profile.unit}

    def account(self, session, setting):
        self.events.append(("account", session.name, session.stage))
        return {"kind": "account", "profiles": {}}


class Session:
    def __init__(self, machine, name, stage):
        self.machine = machine
        self.name = name
        self.stage = stage
        self.peer = types.SimpleNamespace(name=name)
        self.dead = False
        self.closed = False

    def __enter__(self):
        left = self.machine.starts.get(self.name, 99)
        self.machine.starts[self.name] = left - 1
        self.machine.events.append(("start" if left > 0 else "no start", self.name, self.stage))
        if left <= 0:
            raise CheckFailed("port in use")
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        if not self.closed:
            self.machine.events.append(("stop", self.name, self.stage))
        self.closed = True

    def check(self):
        pass

    def death(self, within=0):
        return f"{self.name} died\nof old age" if self.dead else None


class Courses(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.results = Results(pathlib.Path(directory.name), [])
        self.machine = Machine()
        self.said, self.shown = [], []

    def run_course(self, *arguments):
        chosen = options.parse(["--proxy", "haproxy,nginx", "--seconds", "1", *arguments])
        with mock.patch("suite.course.Session", self.machine.session), \
                mock.patch("suite.measure.take", self.machine.take), \
                mock.patch("suite.accounting.account", self.machine.account), \
                mock.patch.object(course.Course, "_spare_core"):
            course.Course(chosen, None, self.results, self.said.append, self.shown.append).run()

    def failures(self):
        return [(line["proxy"], line["profile"], line["reason"])
                for line in self.results.of_kind("failure")]

    def points_of(self, name):
        return [(line["profile"], line["round"], line["slice"])
                for line in self.results.of_kind("point") if line["proxy"] == name]

    def test_all_run_before_the_first_is_measured(self):
        self.run_course("--profile", "rr64", "--rounds", "1")
        self.assertEqual([what for what, *_ in self.machine.events],
                         ["start"] * 2 + ["point"] * 4 + ["stop"] * 2)

    def test_each_round_has_new_ones(self):
        self.run_course("--profile", "rr64", "--rounds", "2")
        self.assertEqual([what for what, *_ in self.machine.events],
                         (["start"] * 2 + ["point"] * 4 + ["stop"] * 2) * 2)

    def test_the_rate_of_an_open_loop_is_of_the_maximum_in_its_own_round(self):
        self.run_course("--profile", "open50", "--rounds", "2")
        # The medians of two slices of rr64.
        self.assertEqual(self.machine.maxima["haproxy"], [150.0, 450.0])

    def test_in_some_stages_one_runs_at_a_time(self):
        self.run_course("--profile", "idle", "--rounds", "1")
        self.assertEqual([what for what, *_ in self.machine.events],
                         ["start", "point", "stop"] * 2)

    def test_one_that_cannot_start_fails_once_for_each_profile(self):
        self.machine.starts = {"nginx": 0}
        self.run_course("--profile", "rr64,churn", "--rounds", "2")
        why = "not started, and left out from here on: port in use"
        self.assertEqual(self.failures(), [("nginx", "rr64", why), ("nginx", "churn", why)])
        self.assertEqual(self.machine.events.count(("no start", "nginx", "relay")), 1)
        self.assertEqual(len(self.points_of("haproxy")), 8)

    def test_one_that_cannot_start_alone_is_not_tried_again(self):
        self.machine.starts = {"nginx": 0}
        self.run_course("--profile", "idle", "--rounds", "3")
        self.assertEqual([proxy for proxy, *_ in self.failures()], ["nginx"])
        self.assertEqual(len(self.points_of("haproxy")), 3)

    def test_one_that_died_is_replaced_for_its_next_turn(self):
        self.machine.deaths = {"nginx": 2}
        self.run_course("--profile", "rr64", "--rounds", "2")
        self.assertEqual(self.failures(), [("nginx", "rr64", "nginx died\nof old age")])
        self.assertEqual(self.points_of("nginx"), [("rr64", 1, 1), ("rr64", 2, 1), ("rr64", 2, 2)])
        self.assertEqual(len(self.points_of("haproxy")), 4)
        of_nginx = [what for what, name, _ in self.machine.events if name == "nginx"]
        self.assertEqual(of_nginx[:6], ["start", "point", "point", "stop", "start", "point"])

    def test_one_that_died_and_cannot_start_again_has_no_further_turn(self):
        self.machine.starts, self.machine.deaths = {"nginx": 1}, {"nginx": 1}
        self.run_course("--profile", "rr64,churn", "--rounds", "2")
        self.assertEqual([failure[:2] for failure in self.failures()],
                         [("nginx", "rr64"), ("nginx", "rr64"), ("nginx", "churn")])
        self.assertEqual(len(self.points_of("haproxy")), 8)

    def test_a_proxy_and_round_has_one_line_with_the_median(self):
        self.run_course("--profile", "rr64", "--rounds", "1")
        self.assertEqual([line.split("]")[1].split() for line in self.said[1:]],
                         [["1", "nginx", "rr64", "150", "requests/s"],
                          ["1", "haproxy", "rr64", "150", "requests/s"]])

    def test_each_slice_is_shown_while_it_is_measured(self):
        self.run_course("--profile", "rr64", "--rounds", "1")
        self.assertEqual([line.split("]")[1].split() for line in self.shown],
                         [["1", name, "rr64", part, "of", "2"] for name, part in (
                             ("haproxy", "1"), ("nginx", "1"), ("nginx", "2"), ("haproxy", "2"))])

    def test_a_failed_slice_has_a_line_and_its_round_the_rest(self):
        self.machine.deaths = {"haproxy": 2}
        self.run_course("--profile", "rr64", "--rounds", "1")
        of_haproxy = [line.split("rr64")[1].strip() for line in self.said if "haproxy" in line]
        self.assertEqual(of_haproxy, ["FAILED: haproxy died", "100 requests/s"])

    def test_an_account_is_done(self):
        self.run_course("--profile", "account")
        self.assertEqual([line.split("account")[1].strip() for line in self.said[1:]],
                         ["done"] * 2)
        self.assertEqual(self.results.of_kind("point"), [])
        self.assertEqual(len(self.results.of_kind("account")), 2)

    def test_a_round_without_figures_has_no_more_than_its_failures(self):
        self.machine.deaths = {"haproxy": 1}
        self.run_course("--profile", "idle", "--rounds", "1")
        of_haproxy = [line.split("idle")[1].strip() for line in self.said if "haproxy" in line]
        self.assertEqual(of_haproxy, ["FAILED: haproxy died"])

    def test_what_is_done_is_all_of_it_in_the_end(self):
        for starts in ({}, {"nginx": 0}, {"nginx": 0, "haproxy": 0}):
            self.machine.starts = starts
            self.said.clear()
            self.run_course("--profile", "rr64,churn,idle,blackhole", "--rounds", "2")
            self.assertIn("[100%, 0:00 left]", self.said[-1], starts)


class Estimates(unittest.TestCase):
    def setUp(self):
        self.now = 0.0
        self.said = []
        self.progress = Progress(100.0, self.said.append, None, lambda: self.now)

    def line(self):
        turn = types.SimpleNamespace(round=1, peer=types.SimpleNamespace(name="haproxy"),
                                     profile=types.SimpleNamespace(name="rr64"))
        self.progress.say(turn, "")
        return self.said[-1].split("]")[0]

    def test_nothing_is_done_at_first(self):
        self.assertEqual(self.said, ["about 1:40"])
        self.assertEqual(self.line(), "[  0%, 1:40 left")

    def test_the_rest_takes_as_long_as_the_past(self):
        self.now = 50.0
        self.progress.done(25.0)
        self.assertEqual(self.line(), "[ 25%, 2:30 left")

    def test_what_will_not_come_is_not_done_and_its_time_is_no_measure(self):
        self.now = 10.0
        self.progress.done(10.0)
        self.now = 30.0
        self.progress.leave_out(50.0, spent=20.0)
        self.assertEqual(self.line(), "[ 20%, 0:40 left")


if __name__ == "__main__":
    unittest.main()
