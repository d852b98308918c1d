"""perf/run.sh: prepare as the user, measure as root, report."""

import os
import signal
import subprocess
import sys

from . import machine, options, report, tools
from .course import Course
from .errors import SuiteError, UsageError
from .lab import PERF, ROOT, SCRIPTS
from .results import Results

# What `prepare` found, for this program when it runs again as root.
PREPARED = "EGRET_PERF_TOOLS"


def main(arguments):
    try:
        chosen = options.parse(arguments)
        if chosen.report:
            found = tools.Tools()
            tools.find_plotter(found, say)
            return write_report(Results.read(chosen.report), found)
        return run(chosen)
    except UsageError as problem:
        print(f"run.sh: error: {problem} (see perf/run.sh --help)", file=sys.stderr)
        return 64
    except SuiteError as problem:
        print(f"run.sh: error: {problem}", file=sys.stderr)
        return 1


def run(chosen):
    """The whole run; 0 when every check passed."""
    if PREPARED in os.environ:
        found = tools.Tools.from_json(os.environ[PREPARED])
    else:
        # Before root is taken, so that the target directory stays the user's.
        found = tools.prepare(chosen, say)
    if os.geteuid():
        # In a user namespace, as scripts/run.sh does it; results and target stay where they are.
        os.environ[PREPARED] = found.to_json()
        os.execv(SCRIPTS / "lab.sh", ["lab.sh", "enter", str(PERF / "run.sh"), *chosen.arguments])
    results = Results.create(machine.settings(chosen, found), chosen.quick)
    for what, reason in found.missing.items():
        results.add({"kind": "left-out", "what": what, "reason": reason})
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    say(report.settings_text(results.settings))
    end = "interrupted"
    try:
        Course(chosen, found, results, say, show).run()
        end = "complete"
    except KeyboardInterrupt:
        say("interrupted; what was measured is kept")
    except BaseException as problem:
        end = f"stopped: {problem}"
        raise
    finally:
        results.add({"kind": "end", "how": end})
        code = write_report(results, found)
    return code if end == "complete" else 130


def write_report(results, found):
    """report.md and the plots, from the lines; 1 when a check had failed."""
    drawn = True
    if results.of_kind("point") and "plotter" in found.paths:
        command = [found.paths["plotter"], "-B", "-m", "suite.plots", results.directory]
        drawn = subprocess.run(command, check=False, timeout=300).returncode == 0
    text = report.write(results)
    say("")
    say(report.without_settings(text))
    say(f"written to {os.path.relpath(results.directory, ROOT)}/")
    failures = len(results.of_kind("failure"))
    if failures:
        print(f"run.sh: error: {failures} checks failed; the report names them", file=sys.stderr)
    if not drawn:
        print("run.sh: error: the plots could not be drawn; see above", file=sys.stderr)
    return 1 if failures or not drawn else 0


def say(text):
    print(f"{_erase()}{text}", flush=True)


def show(text):
    """A line that the next one replaces; a log has no use for it."""
    if _erase():
        print(f"{_erase()}{text}", end="\r", flush=True)


def _erase():
    """What clears a line of a terminal."""
    return "\x1b[K" if sys.stdout.isatty() else ""


def _interrupt(*_):
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
