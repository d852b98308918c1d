"""What can go wrong, by what follows from it."""


class UsageError(Exception):
    """The command line is wrong: exit code 64."""


class SuiteError(Exception):
    """The run cannot go on at all; the message names the fix."""


class CheckFailed(Exception):
    """One point does not measure what it says: it is left out, and the run ends with 1."""

    # What loadgen said, if it came so far: to find out why.
    load = None
