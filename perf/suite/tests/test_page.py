"""The command line, and the page that a run becomes."""

import dataclasses
import pathlib
import tempfile
import unittest

from suite import options, peers, profiles, report, styles
from suite.errors import UsageError
from suite.results import Results


def a_point(profile, proxy, number, value, **more):
    return {"kind": "point", "profile": profile, "proxy": proxy, "round": number, "value": value,
            "load": {"per_second": value, "latency_us": {}}, "core_idle": 0.0, "core_stolen": 0.0,
            **more}


class CommandLine(unittest.TestCase):
    def test_open_loop_brings_the_maximum_along(self):
        names = [profile.name for profile in profiles.select(["open-loop"])]
        self.assertEqual(names, ["rr64", "open20", "open50", "open80"])

    def test_a_disturbance_brings_the_undisturbed_along(self):
        names = [profile.name for profile in profiles.select(["scrape"])]
        self.assertEqual(names, ["rr64", "open50", "scrape"])

    def test_patterns_keep_the_order_of_measurement(self):
        names = [profile.name for profile in profiles.select(["churn", "rr1*"])]
        self.assertEqual(names, ["rr1", "rr1-1k", "rr1-16k", "churn"])

    def test_the_targets_come_out_of_one_run(self):
        chosen = options.parse(["--profile", "targets"])
        self.assertEqual({profile.name for profile in chosen.profiles}, set(profiles.TARGETS))
        self.assertLessEqual({"direct", "haproxy", "envoy", "haproxy-http", "envoy-http", "egret",
                              "egret-http"}, {peer.name for peer in chosen.peers})
        self.assertFalse(chosen.usual)
        named = options.parse(["--profile", "targets", "--proxy", "haproxy,egret"])
        self.assertEqual([peer.name for peer in named.peers], ["haproxy", "egret"])

    def test_only_a_run_that_names_nothing_spares_the_secondary_proxies(self):
        self.assertTrue(options.parse([]).usual)
        for named in (["--proxy", "tokio"], ["--profile", "rr1"], ["--quick"]):
            self.assertFalse(options.parse(named).usual, named)

    def test_a_pattern_does_not_ask_for_a_second_binary(self):
        names = [peer.name for peer in options.parse(["--proxy", "egret*"]).peers]
        self.assertIn("egret-untracked", names)
        self.assertNotIn("egret-b", names)
        self.assertNotIn("egret-http-b", names)

    def test_the_other_binary_stands_beside_what_it_is_compared_with(self):
        chosen = options.parse(["--egret-b", "x", "--proxy", "egret-http,egret-b,egret,"
                                "egret-http-b", "--profile", "rr*,churn,bulk*,http,blackhole"])
        self.assertEqual([peer.name for peer in chosen.peers],
                         ["egret", "egret-b", "egret-http", "egret-http-b"])

    def test_a_run_of_two_binaries_measures_both_configurations_with_each(self):
        for run in ([], ["--quick"], ["--profile", "targets"]):
            names = {peer.name for peer in options.parse([*run, "--egret-b", "x"]).peers}
            self.assertLessEqual({*peers.PAIRS, *peers.PAIRS.values()}, names, run)

    def test_unknown_names_are_refused(self):
        for wrong in (["--profile", "rr65"], ["--proxy", "squid"], ["--rounds", "0"],
                      ["--seconds", "0.1"], ["--mode", "both"], ["--proxy", "egret-b"],
                      ["--proxy", "egret,egret-http-b"]):
            with self.assertRaises(UsageError, msg=wrong):
                options.parse(wrong)

    def test_quick_has_what_the_gate_needs(self):
        quick = options.parse(["--quick"])
        self.assertLessEqual({"direct", "haproxy", "envoy", "egret"},
                             {peer.name for peer in quick.peers})
        self.assertLessEqual({"rr64", "churn", "bulk", "http"},
                             {profile.name for profile in quick.profiles})
        self.assertTrue(quick.quick)

    def test_the_default_leaves_no_profile_out(self):
        self.assertEqual(len(options.parse([]).profiles), len(profiles.PROFILES))


class Peers(unittest.TestCase):
    def test_what_is_left_out_exists(self):
        for peer in peers.PEERS:
            self.assertLessEqual(set(peer.leaves_out), set(profiles.BY_NAME), peer.name)

    def test_every_configuration_exists_and_is_rendered_whole(self):
        for peer in peers.PEERS:
            for blackholes in (False, True):
                with tempfile.TemporaryDirectory() as directory:
                    config = peer.render(directory, 2, blackholes)
                    if config.is_file():
                        self.assertNotRegex(config.read_text(), r"@[a-z]+@", peer.name)

    def test_every_one_has_a_look_of_its_own(self):
        looks = [styles.STYLES[peer.name] for peer in peers.PEERS]
        self.assertEqual(len(set(looks)), len(looks))

    def test_what_is_usual_can_be_measured(self):
        for peer in peers.PEERS:
            for profile in peer.usual or ():
                self.assertIn(profile, profiles.BY_NAME, peer.name)

    def test_a_pair_differs_in_nothing_but_its_binary(self):
        for other, first in peers.PAIRS.items():
            other, first = peers.BY_PEER_NAME[other], peers.BY_PEER_NAME[first]
            self.assertEqual((other.program, first.program), ("egret-b", "egret"))
            self.assertEqual(dataclasses.replace(other, name=first.name, label=first.label,
                                                 program=first.program), first)

    def test_a_transparent_peer_is_told_so(self):
        for name, transparent in (("haproxy", False), ("haproxy-tproxy", True)):
            with tempfile.TemporaryDirectory() as directory:
                config = peers.BY_PEER_NAME[name].render(directory, 1).read_text()
                self.assertEqual(":16001 transparent\n" in config, transparent)

    def test_the_http_peer_brings_its_registry(self):
        with tempfile.TemporaryDirectory() as directory:
            for name in ("egret-http", "egret-http-b"):
                own = pathlib.Path(directory, name)
                own.mkdir()
                peers.BY_PEER_NAME[name].render(own, 1)
                registry, = (own / "registry.d").glob("*.yaml")
                for host in profiles.HOSTS:
                    self.assertIn(host, registry.read_text())


class Page(unittest.TestCase):
    SETTINGS = {"kind": "settings", "date": "2026-01-02T03:04:05+00:00", "commit": "abc",
                "load_average_at_start": 0.0, "mode": "one-core", "rounds": 2,
                "versions": {"haproxy": "2.6"}, "profiles": ["rr64"],
                "proxies": ["direct", "haproxy", "egret"]}
    GOOD = [a_point("rr64", "haproxy", 1, 100.0), a_point("rr64", "egret", 1, 125.0),
            a_point("rr64", "haproxy", 2, 102.0), a_point("rr64", "egret", 2, 126.0)]

    def page(self, *lines):
        with tempfile.TemporaryDirectory() as directory:
            return report.write(Results(pathlib.Path(directory), [self.SETTINGS, *lines]))

    def test_a_complete_run(self):
        text = self.page(*self.GOOD, {"kind": "end", "how": "complete"})
        self.assertIn("| rr64 | 1 (spread 1.0%) | 1.24 (1.24 to 1.25) |", text)
        self.assertIn("| rr64, against haproxy | >= 1.2 | 1.24 (1.24 to 1.25) | **met** | - |",
                      text)
        self.assertNotIn("next to haproxy, by processor time", text)
        self.assertNotIn("Incomplete", text)
        self.assertNotIn("Doubts", text)

    def test_less_processor_time_is_better(self):
        cost = {"haproxy": 30_000, "egret": 20_000}
        text = self.page(*(dict(point, path_ns_per_request=cost[point["proxy"]])
                           for point in self.GOOD))
        self.assertIn("## Throughput next to haproxy, by processor time", text)
        self.assertIn("| rr64 | 1 (spread 0.0%) | 1.50 (1.50 to 1.50) |", text)
        self.assertIn("| **met** | 1.50 (1.50 to 1.50) |", text)

    def test_kernel_memory_that_moved_is_named(self):
        lines = [a_point("idle", proxy, number, 0.4, memory={
            "user": 0.4, "slab": slab, "sockets": 0.0, "cgroup": None, "caches": {},
            "threads_before": 1, "threads_after": 1})
            for number in (1, 2)
            for proxy, slab in (("direct", 8.0), ("haproxy", 17.0), ("egret", 10.0 * number))]
        self.assertIn("**Kernel memory of egret** lies more than 1 KiB", self.page(*lines))

    def test_many_disturbed_points_are_counted_rather_than_named(self):
        points = [a_point("rr64", "egret", number, 100.0, core_foreign=0.2)
                  for number in range(1, 11)]
        text = self.page(*self.GOOD[:1], *points)
        self.assertIn("used by other processes** for more than 5% of 10 points (of rr64; median "
                      "20%, at most 20%)", text)

    def test_an_interrupted_run_says_so(self):
        text = self.page(*self.GOOD, {"kind": "end", "how": "interrupted"})
        self.assertIn("**Incomplete (interrupted)", text)

    def test_a_failed_check_is_named(self):
        text = self.page({"kind": "failure", "round": 1, "proxy": "egret", "profile": "rr64",
                          "reason": "it died"}, {"kind": "end", "how": "complete"})
        self.assertIn("| 1 | egret | rr64 | it died |", text)

    def test_a_profile_of_which_several_slices_failed_is_named_once(self):
        failure = {"kind": "failure", "round": 1, "proxy": "egret", "profile": "rr64",
                   "reason": "it lost bytes"}
        text = self.page(failure, dict(failure, slice=2), dict(failure, profile="churn"))
        self.assertIn("| 1 | egret | rr64, churn | it lost bytes |", text)

    def test_a_ratio_that_moves_is_noisy(self):
        moved = [dict(self.GOOD[0], value=150.0), *self.GOOD[1:]]
        self.assertIn("**Noisy: rr64 of egret to haproxy.**", self.page(*moved))

    def test_an_idle_core_is_named(self):
        idle = [dict(self.GOOD[0], core_idle=0.3), *self.GOOD[1:]]
        self.assertIn("The core was idle** for more than 5% of rr64 of haproxy", self.page(*idle))

    def test_spread_over_cores_there_are_no_targets_and_idle_cores_are_no_doubt(self):
        settings = dict(self.SETTINGS, mode="spread")
        idle = [dict(point, core_idle=0.3) for point in self.GOOD]
        with tempfile.TemporaryDirectory() as directory:
            text = report.write(Results(pathlib.Path(directory), [settings, *idle]))
        self.assertIn("bounds on mode one-core", text)
        self.assertNotIn("**met**", text)
        self.assertNotIn("Doubts", text)

    PAIR = [a_point(profile, proxy, number, value + number)
            for profile, proxy, value in (("rr64", "egret", 100.0), ("rr64", "egret-b", 110.0),
                                          ("http", "egret", 90.0), ("http", "egret-b", 90.0),
                                          ("http", "egret-http", 50.0),
                                          ("http", "egret-http-b", 40.0))
            for number in (1, 2)]

    def page_of(self, proxies, *lines):
        settings = dict(self.SETTINGS, profiles=["rr64", "http"], proxies=proxies)
        with tempfile.TemporaryDirectory() as directory:
            return report.write(Results(pathlib.Path(directory), [settings, *lines]))

    def test_two_binaries_are_compared_in_each_configuration(self):
        text = self.page_of(["egret", "egret-b", "egret-http", "egret-http-b"], *self.PAIR)
        self.assertIn("## The two binaries of Egret\n", text)
        for row in ("| rr64 | egret-b | egret | 1.10 (1.10 to 1.10) | - | 2 |",
                    "| http | egret-b | egret | 1.00 (1.00 to 1.00) | - | 2 |",
                    "| http | egret-http-b | egret-http | 0.81 (0.80 to 0.81) | - | 2 |"):
            self.assertIn(row, text)
        # Once: the second is no column of the first one's own table.
        self.assertNotIn("## Throughput next to egret", text)
        self.assertIn("| profile | egret-http | egret | egret-b |", text)

    def test_the_processor_time_of_the_two_binaries_is_compared(self):
        cost = {"egret": 30_000, "egret-b": 20_000, "egret-http": 20_000, "egret-http-b": 40_000}
        text = self.page_of(list(cost), *(dict(point, path_ns_per_request=cost[point["proxy"]])
                                          for point in self.PAIR))
        self.assertRegex(text, r"\| rr64 \| egret-b \|.*\| 1\.50 \(1\.50 to 1\.50\) \| 2 \|")
        self.assertRegex(text, r"\| http \| egret-http-b \|.*\| 0\.50 \(0\.50 to 0\.50\) \| 2 \|")

    def test_two_binaries_are_compared_beside_other_proxies_too(self):
        text = self.page_of(["haproxy", "egret", "egret-b"], *self.GOOD, *self.PAIR[2:4])
        self.assertIn("| rr64 | egret-b | egret | 0.89 (0.89 to 0.89) | - | 2 |", text)
        self.assertIn("| profile | haproxy | egret | egret-b |", text)

    def test_one_binary_alone_is_not_compared(self):
        for proxies in (["egret", "egret-http"], ["egret-b", "egret-http"]):
            text = self.page_of(proxies, *(point for point in self.PAIR
                                           if point["proxy"] in proxies))
            self.assertNotIn("The two binaries", text)

    def test_a_noisy_pair_is_named(self):
        moved = [dict(point, value=20.0) if point["round"] == 1
                 and point["proxy"] == "egret-http-b" else point for point in self.PAIR]
        text = self.page_of(["egret", "egret-b", "egret-http", "egret-http-b"], *moved)
        self.assertIn("**Noisy: http of egret-http-b to egret-http.**", text)

    def test_noise_is_named_of_the_ratios_that_are_shown(self):
        lines = [a_point("http", proxy, number, 100.0 * number ** power)
                 for proxy, power in (("haproxy", 0), ("haproxy-http", 0), ("egret-http", 1))
                 for number in (1, 2)]
        text = self.page_of(["haproxy", "haproxy-http", "egret-http"], *lines)
        self.assertIn("**Noisy: http of egret-http to haproxy-http.**", text)


if __name__ == "__main__":
    unittest.main()
