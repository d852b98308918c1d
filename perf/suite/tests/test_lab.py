"""How processes end, and what they said."""

import os
import pathlib
import tempfile
import unittest

from suite.lab import Process


class Ends(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = pathlib.Path(directory.name)

    def shell(self, script):
        cpu = str(min(os.sched_getaffinity(0)))
        process = Process("it", ["sh", "-c", script], self.directory / "log", cpu)
        self.addCleanup(process.stop)
        return process

    def test_a_process_that_runs_has_no_end(self):
        self.assertIsNone(self.shell("sleep 60").end(within=0))

    def test_an_end_is_waited_for(self):
        self.assertEqual(self.shell("sleep 0.1; exit 3").end(within=10), "exit code 3")

    def test_a_signal_is_named(self):
        self.assertEqual(self.shell("kill -9 $$").end(within=10), "signal 9")

    def test_what_it_said_is_its_last_lines(self):
        process = self.shell("seq 5; echo problem >&2")
        process.end(within=10)
        self.assertEqual(process.said(lines=2), "5\nproblem")

    def test_saying_nothing_is_named(self):
        process = self.shell("true")
        process.end(within=10)
        self.assertEqual(process.said(), "nothing")


if __name__ == "__main__":
    unittest.main()
