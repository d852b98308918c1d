"""Ratios inside a round, medians over rounds, verdicts on targets."""

import math
import unittest

from suite import hgrm
from suite.arithmetic import Points, Span, kernel_kib, spread, total_kib
from suite.targets import MET, NOISY, NOT_MEASURED, NOT_MET, TARGETS, Target


def point(profile, proxy, number, value, **more):
    return {"kind": "point", "profile": profile, "proxy": proxy, "round": number, "value": value,
            **more}


def idle(proxy, number, user, slab, sockets):
    return point("idle", proxy, number, user,
                 memory={"user": user, "slab": slab, "sockets": sockets})


class Spans(unittest.TestCase):
    def test_the_median_does_not_follow_one_outlier(self):
        self.assertEqual(Span.of([1.0, 1.1, 9.0]), Span(1.1, 1.0, 9.0, 3))

    def test_the_width_is_a_share_of_the_median(self):
        self.assertAlmostEqual(Span.of([90, 100, 110]).width, 0.2)

    def test_the_interval_leaves_out_what_chance_explains(self):
        # Of 20 figures the 6th and the 15th: 2 P(fewer than 6 of 20 tosses are heads) = 0.041.
        self.assertEqual(Span.of(range(1, 21)), Span(10.5, 6, 15, 20))
        # Of 9 the 2nd and the 8th (0.039), of 6 the ends (0.031).
        self.assertEqual(Span.of(range(1, 10)), Span(5, 2, 8, 9))
        self.assertEqual(Span.of(range(1, 7)), Span(3.5, 1, 6, 6))

    def test_few_figures_have_no_narrower_interval_than_all_of_them(self):
        for count in range(1, 6):
            span = Span.of(range(count))
            self.assertEqual((span.low, span.high), (0, count - 1))

    def test_the_spread_is_that_of_the_middle_half(self):
        self.assertAlmostEqual(Span.of([1, 90, 100, 110, 900]).spread, 0.2)

    def test_nothing_measured_is_none(self):
        self.assertIsNone(Span.of([]))

    def test_a_median_of_zero_has_no_spread(self):
        self.assertEqual(Span.of([0, 0]).width, 0.0)


class Ratios(unittest.TestCase):
    def test_a_ratio_is_taken_inside_its_round(self):
        # The machine is twice as fast in the second round: the ratio does not see it.
        points = Points([point("rr64", "haproxy", 1, 100), point("rr64", "egret", 1, 120),
                         point("rr64", "haproxy", 2, 200), point("rr64", "egret", 2, 240)])
        self.assertEqual(points.ratio("rr64", "egret", "haproxy"), Span(1.2, 1.2, 1.2, 2))

    def test_a_slice_is_compared_with_its_neighbour(self):
        points = Points([point("rr64", "haproxy", 1, 100, slice=1),
                         point("rr64", "haproxy", 1, 50, slice=2),
                         point("rr64", "egret", 1, 130, slice=1),
                         point("rr64", "egret", 1, 65, slice=2)])
        self.assertEqual(points.ratio("rr64", "egret", "haproxy"), Span(1.3, 1.3, 1.3, 2))

    def test_a_round_in_which_one_side_failed_does_not_count(self):
        points = Points([point("rr64", "haproxy", 1, 100), point("rr64", "egret", 1, 150),
                         point("rr64", "egret", 2, 900)])
        self.assertEqual(points.ratio("rr64", "egret", "haproxy").count, 1)

    def test_a_proxy_without_points_has_no_ratio(self):
        points = Points([point("rr64", "haproxy", 1, 100)])
        self.assertIsNone(points.ratio("rr64", "egret", "haproxy"))

    def test_another_profile_can_be_the_base(self):
        points = Points([point("open50", "egret", 1, 10.0), point("scrape", "egret", 1, 15.0)])
        self.assertEqual(
            points.ratio("scrape", "egret", "egret", base_profile="open50").median, 1.5)

    def test_lines_of_another_kind_are_no_points(self):
        self.assertFalse(Points([{"kind": "failure", "profile": "rr64", "proxy": "egret",
                                  "round": 1, "reason": "died"}]))


class Memory(unittest.TestCase):
    def test_the_client_and_the_server_are_not_the_proxys(self):
        points = Points([idle("direct", 1, 0, 8.0, 0.5), idle("egret", 1, 0.2, 15.0, 1.0)])
        self.assertAlmostEqual(kernel_kib(points, "egret").median, 7.5)
        self.assertAlmostEqual(total_kib(points, "egret").median, 7.7)

    def test_slabs_that_could_not_be_read_are_not_zero(self):
        points = Points([idle("direct", 1, 0, None, 0.5), idle("egret", 1, 0.2, None, 1.0)])
        self.assertIsNone(total_kib(points, "egret"))

    def test_without_direct_the_kernels_share_is_unknown(self):
        points = Points([idle("egret", 1, 0.2, 15.0, 1.0)])
        self.assertIsNone(kernel_kib(points, "egret"))


class Verdicts(unittest.TestCase):
    ratio = Target("rr64", 1.2, True, None)
    cost = Target("memory", 0.5, False, None)

    def test_met_needs_every_round(self):
        self.assertEqual(self.ratio.verdict(Span.of([1.2, 1.3])), MET)
        self.assertEqual(self.cost.verdict(Span.of([0.1, 0.5])), MET)

    def test_rounds_on_both_sides_are_noise(self):
        self.assertEqual(self.ratio.verdict(Span.of([1.19, 1.3, 1.4])), NOISY)
        self.assertEqual(self.cost.verdict(Span.of([0.4, 0.6])), NOISY)

    def test_not_met(self):
        self.assertEqual(self.ratio.verdict(Span.of([1.0, 1.1])), NOT_MET)
        self.assertEqual(self.cost.verdict(Span.of([0.6])), NOT_MET)

    def test_not_measured(self):
        self.assertEqual(self.ratio.verdict(None), NOT_MEASURED)

    def test_a_sampled_share_near_its_bound_is_noise(self):
        target, = (target for target in TARGETS if "outside the kernel's TCP" in target.what)
        account = {"proxy": "egret", "profiles": {"rr64": {"tcp_share": 0.79, "samples": 1200}}}
        self.assertEqual(target.verdict(target.measured(Points([]), [account])), NOISY)
        account["profiles"]["rr64"]["tcp_share"] = 0.6
        self.assertEqual(target.verdict(target.measured(Points([]), [account])), NOT_MET)

    def test_every_target_copes_with_an_empty_run(self):
        for target in TARGETS:
            self.assertIsNone(target.measured(Points([]), []), target.what)


class Percentiles(unittest.TestCase):
    TEXT = ("       Value     Percentile TotalCount 1/(1-Percentile)\n\n"
            "      10.000 0.000000000000          1           1.00\n"
            "     100.000 0.900000000000         90          10.00\n"
            "     300.000 0.990000000000         99         100.00\n"
            "     900.000 1.000000000000        100\n"
            "#[Mean    =       50.000, StdDeviation   =       10.000]\n")

    def test_headings_and_comments_are_left_out(self):
        self.assertEqual([share for share, _ in hgrm.parse(self.TEXT)], [0.0, 0.9, 0.99, 1.0])

    def test_a_listed_percentile_is_exact(self):
        self.assertEqual(hgrm.at(hgrm.parse(self.TEXT), 0.99), 300.0)

    def test_between_two_it_is_on_the_line_of_the_axis(self):
        half_way = 1 - 10 ** -1.5
        self.assertAlmostEqual(hgrm.at(hgrm.parse(self.TEXT), half_way), 200.0)

    def test_beyond_the_last_finite_one_it_is_the_maximum(self):
        self.assertEqual(hgrm.at(hgrm.parse(self.TEXT), 0.9999), 900.0)

    def test_names_are_spread_around_the_middle_of_their_crowd(self):
        self.assertEqual(spread([0.0, 5.0], 1.0), [0.0, 5.0])
        self.assertEqual(spread([2.0, 2.0, 2.0], 1.0), [1.0, 2.0, 3.0])

    def test_nines(self):
        self.assertEqual(hgrm.nines(0.0), 0.0)
        self.assertTrue(math.isclose(hgrm.nines(0.999), 3.0))


if __name__ == "__main__":
    unittest.main()
