"""In what order points are taken: a ratio is made of neighbours in time."""

import dataclasses

from .peers import Peer
from .profiles import Profile

# About the length of a slice. Between two slices of a proxy lies one of each other, so that a slow
# stretch of the machine meets all of them.
SLICE_SECONDS = 0.5
# The load before it that is not measured: for streams to reach their pace, and for each kept
# connection to come up (the slowest proxy makes 3000 in a second).
SLICE_WARMUP_SECONDS = 0.1
CONNECTION_SECONDS = 0.0005


@dataclasses.dataclass(frozen=True)
class Length:
    """Of one point: what is measured, what comes before it, and how many make up a round."""

    seconds: float
    warmup: float
    slices: int = 1


@dataclasses.dataclass(frozen=True)
class Turn:
    """One point to be taken."""

    peer: Peer
    profile: Profile
    round: int
    length: Length
    slice: int = 1

    @property
    def ends_round(self):
        """Whether it is the last of this proxy, profile and round."""
        return self.slice == self.length.slices

    @property
    def keeps_histograms(self):
        """Of slices one is enough: their percentiles are not shown."""
        return not self.profile.is_cut or self.round == 1 and self.ends_round


def length(profile, seconds, warmup):
    """A round of so many seconds, cut into slices where the profile's figure allows that."""
    if not profile.is_cut:
        return Length(seconds, warmup)
    slices = max(1, round(seconds / SLICE_SECONDS))
    warmup = SLICE_WARMUP_SECONDS + profile.kept * CONNECTION_SECONDS
    return Length(seconds / slices, warmup, slices)


def side_by_side(peers, profiles, rounds, length_of, measures):
    """For proxies that all run, the turns of each round: profile by profile everybody has a turn,
    then everybody again."""
    for number in range(rounds):
        yield [turn for block in _blocks(profiles)
               for turn in _in_slices(peers, block, number, length_of, measures)]


def _in_slices(peers, block, number, length_of, measures):
    taking = [peer for peer in peers if any(measures(peer, profile) for profile in block)]
    slices = length_of(block[0]).slices
    for part in range(slices):
        for peer in _order(taking, number * slices + part):
            for profile in block:
                if measures(peer, profile):
                    yield Turn(peer, profile, number + 1, length_of(profile), part + 1)


def one_at_a_time(peers, profile, rounds, length_of, measures):
    """For a profile that wants a new proxy, and no other one beside it."""
    taking = [peer for peer in peers if measures(peer, profile)]
    for number in range(rounds):
        for peer in _order(taking, number):
            yield Turn(peer, profile, number + 1, length_of(profile))


def _blocks(profiles):
    """Each profile by itself, but the open loops together: a disturbed one is compared with the
    undisturbed one of the same proxy, so these are its neighbours."""
    blocks = []
    for profile in profiles:
        if profile.is_open_loop and blocks and blocks[-1][0].is_open_loop:
            blocks[-1].append(profile)
        else:
            blocks.append([profile])
    return blocks


def _order(peers, turn):
    """Each turn begins with another one. When all have begun, the direction is turned round, so
    that nobody always comes after the same other."""
    if not peers:
        return []
    cycle, first = divmod(turn, len(peers))
    order = peers[first:] + peers[:first]
    return order[::-1] if cycle % 2 else order
