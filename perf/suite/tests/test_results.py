"""Where a run is written, and what of it is committed."""

import json
import pathlib
import re
import tempfile
import unittest
from unittest import mock

from suite import report, results
from suite.errors import SuiteError
from suite.lab import PERF, ROOT

COMMITTED = PERF / "results"
RUNS_MAX = 3
# Where a committed run may be cited.
DOCUMENTS = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "perf/README.md")
RUN_NAME = re.compile(r"\b\d{4}-\d\d-\d\d-[0-9a-f]{10}(?:-\d+)?\b")


class Written(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.runs = pathlib.Path(directory.name)
        patch = mock.patch("suite.results.RUNS", self.runs)
        patch.start()
        self.addCleanup(patch.stop)

    SETTINGS = {"kind": "settings", "date": "2026-01-02T03:04:05+00:00", "commit": "abc"}

    def test_a_second_run_of_a_commit_has_a_number(self):
        made = [results.Results.create(self.SETTINGS, quick=False).directory for _ in range(2)]
        self.assertEqual(made, [self.runs / "2026-01-02-abc", self.runs / "2026-01-02-abc-2"])

    def test_quick_runs_are_kept_apart(self):
        made = results.Results.create(self.SETTINGS, quick=True).directory
        self.assertEqual(made, self.runs / "quick" / "2026-01-02-abc")

    def test_a_line_is_on_disk_at_once(self):
        made = results.Results.create(self.SETTINGS, quick=False)
        made.add({"kind": "end", "how": "complete"})
        self.assertEqual(results.Results.read(made.directory).of_kind("end"),
                         [{"kind": "end", "how": "complete"}])
        text = (made.directory / "points.jsonl").read_text()
        self.assertEqual(json.loads(text.splitlines()[0]), self.SETTINGS)

    def test_a_directory_without_points_cannot_be_reported(self):
        with self.assertRaises(SuiteError):
            results.Results.read(self.runs)


class Committed(unittest.TestCase):
    def setUp(self):
        self.kept = sorted(COMMITTED.iterdir())
        self.cited = {name for document in DOCUMENTS
                      for name in RUN_NAME.findall((ROOT / document).read_text())}

    def test_git_ignores_what_a_run_writes(self):
        place = results.RUNS.relative_to(ROOT)
        self.assertIn(f"/{place}", (ROOT / ".gitignore").read_text().splitlines())

    def test_at_most_three_runs_are_kept(self):
        self.assertLessEqual(len(self.kept), RUNS_MAX, [run.name for run in self.kept])

    def test_of_a_run_only_the_report_and_its_pictures_are_kept(self):
        for run in self.kept:
            text = (run / "report.md").read_text()
            pictures = {f"{name}.svg" for name, _ in report.PICTURES if f"({name}.svg)" in text}
            self.assertEqual({path.name for path in run.rglob("*")}, {"report.md", *pictures},
                             run.name)

    def test_the_runs_that_are_kept_are_those_that_documents_cite(self):
        self.assertEqual({run.name for run in self.kept}, self.cited)


if __name__ == "__main__":
    unittest.main()
