"""Who is measured when."""

import unittest

from suite import order
from suite.peers import PEERS
from suite.profiles import BY_NAME

THREE = list(PEERS[:3])
NAMES = [peer.name for peer in THREE]


def everything(peer, profile):
    return True


def two_seconds(profile):
    return order.length(profile, 2.0, 0.5)


def side_by_side(profiles, rounds=1, measures=everything):
    chosen = [BY_NAME[name] for name in profiles]
    return [turn for turns in order.side_by_side(THREE, chosen, rounds, two_seconds, measures)
            for turn in turns]


class Lengths(unittest.TestCase):
    def test_a_rate_is_measured_in_slices(self):
        self.assertEqual(two_seconds(BY_NAME["rr64"]), order.Length(0.5, 0.132, 4))

    def test_connections_come_up_before_it_is_measured(self):
        self.assertAlmostEqual(two_seconds(BY_NAME["rr512"]).warmup, 0.1 + 512 * 0.0005)

    def test_percentiles_need_one_piece(self):
        for name in ("open50", "scrape", "reload", "mixed"):
            self.assertEqual(two_seconds(BY_NAME[name]), order.Length(2.0, 0.5, 1), name)

    def test_the_shortest_round_is_one_slice(self):
        self.assertEqual(order.length(BY_NAME["churn"], 0.5, 0.5), order.Length(0.5, 0.1, 1))


class SideBySide(unittest.TestCase):
    def test_everybody_has_a_turn_before_anybody_has_the_next(self):
        turns = side_by_side(["rr64"], rounds=2)
        self.assertEqual(len(turns), 2 * 4 * 3)
        for at in range(0, len(turns), 3):
            together = turns[at:at + 3]
            self.assertEqual({turn.peer.name for turn in together}, set(NAMES))
            self.assertEqual(len({(turn.round, turn.slice) for turn in together}), 1)

    def test_each_turn_begins_with_another_one(self):
        turns = side_by_side(["rr64"])
        self.assertEqual([turn.peer.name for turn in turns[0:9:3]], NAMES)

    def test_nobody_always_follows_the_same_other(self):
        turns = [turn.peer.name for turn in side_by_side(["rr64"], rounds=2)]
        before = {turns[at - 1] for at in range(1, len(turns)) if turns[at] == NAMES[0]}
        self.assertTrue({NAMES[1], NAMES[2]} <= before)

    def test_rounds_and_slices_are_counted_from_one(self):
        turns = side_by_side(["rr1"], rounds=2)
        places = sorted({(turn.round, turn.slice) for turn in turns})
        self.assertEqual(places, [(round_, slice_) for round_ in (1, 2) for slice_ in range(1, 5)])

    def test_a_round_has_all_profiles_and_all_their_slices(self):
        chosen = [BY_NAME[name] for name in ("rr64", "churn")]
        rounds = list(order.side_by_side(THREE, chosen, 2, two_seconds, everything))
        for number, turns in enumerate(rounds, 1):
            self.assertEqual({turn.round for turn in turns}, {number})
            self.assertEqual([turn.profile.name for turn in turns], ["rr64"] * 12 + ["churn"] * 12)
        self.assertEqual(len(rounds), 2)

    def test_the_order_goes_on_over_rounds(self):
        turns = [turn for turn in side_by_side(["rr64"], rounds=2) if turn.slice == 1]
        self.assertEqual([turn.peer.name for turn in turns],
                         [*NAMES, NAMES[0], NAMES[2], NAMES[1]])

    def test_one_profile_ends_before_the_next_begins(self):
        names = [turn.profile.name for turn in side_by_side(["rr1", "churn"])]
        self.assertEqual(names, ["rr1"] * 12 + ["churn"] * 12)

    def test_a_disturbed_latency_follows_the_undisturbed_one_of_the_same_proxy(self):
        turns = side_by_side(["open50", "scrape"])
        self.assertEqual([(turn.peer.name, turn.profile.name) for turn in turns[:2]],
                         [(NAMES[0], "open50"), (NAMES[0], "scrape")])

    def test_what_a_proxy_is_not_measured_by_is_left_out(self):
        turns = side_by_side(["rr64"], measures=lambda peer, profile: peer is not THREE[1])
        self.assertEqual({turn.peer.name for turn in turns}, {NAMES[0], NAMES[2]})

    def test_one_histogram_is_kept_of_all_slices(self):
        kept = [turn for turn in side_by_side(["rr64"], rounds=3) if turn.keeps_histograms]
        self.assertEqual(len(kept), len(THREE))


class OneAtATime(unittest.TestCase):
    def test_the_order_changes_from_round_to_round(self):
        turns = list(order.one_at_a_time(THREE, BY_NAME["idle"], 2, two_seconds, everything))
        self.assertEqual([turn.peer.name for turn in turns],
                         [*NAMES, NAMES[1], NAMES[2], NAMES[0]])
