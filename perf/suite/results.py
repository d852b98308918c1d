"""The lines of one run, on disk from the first one on: what was measured survives an early end."""

import json
import pathlib

from .errors import SuiteError
from .lab import PERF

LINES = "points.jsonl"
# Git ignores it; what documents cite of a run is copied to perf/results.
RUNS = PERF / "runs"


class Results:
    """A run's lines: settings, points, failures, and in the end whether it is complete."""

    def __init__(self, directory, lines):
        self.directory = directory
        self.lines = lines

    @classmethod
    def create(cls, settings, quick):
        """runs/DATE-COMMIT, with a number when that is taken; in runs/quick for --quick."""
        parent = RUNS / "quick" if quick else RUNS
        base = f"{settings['date'][:10]}-{settings['commit']}"
        for number in range(1, 100):
            directory = parent / (base if number == 1 else f"{base}-{number}")
            try:
                directory.mkdir(parents=True)
            except FileExistsError:
                continue
            except OSError as problem:
                raise SuiteError(f"cannot make {directory}: {problem}") from None
            results = cls(directory, [])
            results.add(settings)
            return results
        raise SuiteError(f"{parent} has a hundred runs of {base}; remove some")

    @classmethod
    def read(cls, directory):
        directory = pathlib.Path(directory)
        try:
            text = (directory / LINES).read_text()
        except OSError as problem:
            raise SuiteError(f"no run to report: {problem}") from None
        return cls(directory, [json.loads(line) for line in text.splitlines()])

    def add(self, line):
        with open(self.directory / LINES, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self.lines.append(line)

    def of_kind(self, kind):
        return [line for line in self.lines if line["kind"] == kind]

    @property
    def settings(self):
        return self.of_kind("settings")[0]

    def raw(self, number, peer, profile):
        """Where the histograms of this point go, without the suffix."""
        directory = self.directory / "raw" / f"round-{number}" / peer
        directory.mkdir(parents=True, exist_ok=True)
        return directory / profile
