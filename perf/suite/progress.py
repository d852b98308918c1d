"""What is done of a run, and how long the rest will take."""

import time


class Progress:
    """The rest takes as long as expected, corrected by how wrong the past was. `say` writes a line,
    `show` one that the next of either replaces."""

    def __init__(self, expected, say, show, clock=time.monotonic):
        self._expected = expected
        self._done = 0.0
        self._clock = clock
        self._begin = clock()
        self._say = say
        self._show = show
        say(f"about {_minutes(expected)}")

    def done(self, expected):
        """So many of the expected seconds are behind us."""
        self._done += expected

    def leave_out(self, expected, spent):
        """So many of the expected seconds will not come; to find that out took `spent`."""
        self._expected -= expected
        self._begin += spent

    def say(self, turn, text):
        """What came of it."""
        self._say(f"{self._now()} {_turn_text(turn)} {text}")

    def show(self, turn):
        """What is measured now."""
        self._show(f"{self._now()} {_turn_text(turn)} {turn.slice} of {turn.length.slices}")

    def _now(self):
        return f"[{self._share():4.0%}, {_minutes(self._left())} left]"

    def _share(self):
        # A sum without all its parts is not quite nothing.
        return self._done / self._expected if self._rest() > 0.01 else 1.0

    def _left(self):
        if not self._done:
            return self._rest()
        return self._rest() * (self._clock() - self._begin) / self._done

    def _rest(self):
        return max(0.0, self._expected - self._done)


def _turn_text(turn):
    return f"{turn.round:>2}  {turn.peer.name:<17} {turn.profile.name:<10}"


def _minutes(seconds):
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
