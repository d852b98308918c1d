"""What is read from the kernel and from tools."""

import os
import unittest

from suite import accounting, measure, memory
from suite.errors import CheckFailed
from suite.profiles import BY_NAME

SLABINFO = """\
slabinfo - version: 2.1
# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> : tunables ...
TCP              26   26 2368 13 8 : tunables 0 0 0 : slabdata      2      2      0
ext4_inode_cache 9000 9000 1000 13 8 : tunables 0 0 0 : slabdata  700    700      0
nf_conntrack     16   16  256 16 1 : tunables 0 0 0 : slabdata      3      3      0
"""

SOCKSTAT = """\
sockets: used 10
TCP: inuse 1 orphan 0 tw 2 alloc 1 mem 96
UDP: inuse 0 mem 7
"""

STRACE = """\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 60.00    0.060000           6     10000           recvfrom
 39.50    0.039500           6      9900       100 sendto
  0.50    0.000500           5         1           close
------ ----------- ----------- --------- --------- ----------------
100.00    0.100000           5     19901       100 total
"""

STACKS = """\
\tffffffff81a00010 tcp_sendmsg_locked
\tffffffff81a00000 tcp_sendmsg
\t    7f0000001000 main

\tffffffff81b00000 schedule
\t    7f0000001000 main

\t    7f0000001000 main

\tffffffff81c00000 memcpy
\tffffffff81a10000 tcp_recvmsg

"""


class Kernel(unittest.TestCase):
    def test_only_the_caches_of_connections_count(self):
        self.assertEqual(memory.slabs(SLABINFO), {
            "TCP": 26 * 8 / 13 * memory.PAGE_KIB, "nf_conntrack": 1.0 * memory.PAGE_KIB})

    def test_socket_buffers_are_those_of_tcp_in_pages(self):
        self.assertEqual(memory.socket_buffers(SOCKSTAT), 96 * memory.PAGE_KIB)

    def test_growth_is_divided_by_the_connections(self):
        before = {"user": 100, "slab": 1000, "sockets": 0, "cgroup": None, "threads": 3,
                  "caches": {"TCP": 1000}}
        after = {"user": 500, "slab": 9000, "sockets": 400, "cgroup": None, "threads": 3,
                 "caches": {"TCP": 8000, "filp": 1000}}
        grown = memory.per_connection(before, after, 400)
        self.assertEqual((grown["user"], grown["slab"], grown["sockets"]), (1.0, 20.0, 1.0))
        self.assertEqual(grown["caches"], {"TCP": 17.5, "filp": 2.5})
        self.assertIsNone(grown["cgroup"])
        self.assertEqual((grown["threads_before"], grown["threads_after"]), (3, 3))


class Tools(unittest.TestCase):
    def test_the_mix_of_calls_leaves_rare_ones_out(self):
        mix = accounting.call_mix(STRACE)
        self.assertEqual(list(mix), ["recvfrom", "sendto"])
        self.assertAlmostEqual(mix["recvfrom"], 10000 / 19901)

    def test_a_sample_counts_once_wherever_tcp_is_on_its_stack(self):
        shares = accounting.stack_shares(STACKS, samples_min=4)
        self.assertEqual(shares["samples"], 4)
        self.assertEqual(
            (shares["tcp_share"], shares["kernel_share"], shares["program_share"]),
            (0.5, 0.25, 0.25))

    def test_a_handful_of_samples_is_no_share(self):
        # One sample outside tcp_sendmsg is not "no TCP at all".
        self.assertEqual(list(accounting.stack_shares(STACKS, samples_min=5)), ["tcp_note"])

    def test_calls_are_counted_by_the_clock_of_perf(self):
        text = (" Performance counter stats for process id '1,2':\n\n"
                "              3000      raw_syscalls:sys_enter\n\n"
                "       1.500000000 seconds time elapsed\n")
        self.assertAlmostEqual(accounting.calls_per_second(text), 2000)
        self.assertIsNone(accounting.calls_per_second("  <not supported>  raw_syscalls:sys_enter"))

    def test_a_perf_that_is_blind_to_the_kernel_is_no_measurement(self):
        self.assertIn("tcp_note", accounting.stack_shares(""))
        self.assertEqual(list(accounting.stack_shares("\t    7f0000001000 main\n\n")), ["tcp_note"])


class Usage(unittest.TestCase):
    def test_shares_are_of_the_time_between(self):
        before = measure.Usage(at=10.0, process_ns=0, user=0, system=0, idle=0, stolen=0, total=0)
        after = measure.Usage(at=12.0, process_ns=1_000_000_000, user=25, system=75, idle=20,
                              stolen=10, total=200)
        self.assertEqual(after.since(before), {
            "busy": 0.5, "user_share": 0.25, "core_idle": 0.1, "core_stolen": 0.05})

    def test_what_others_took_is_neither_ours_nor_idle(self):
        before = measure.Usage(at=10.0)
        after = measure.Usage(at=11.0, process_ns=500_000_000, idle=10, stolen=5, total=100)
        path = after.path_since(before, client_seconds=0.2)
        self.assertAlmostEqual(path["path_seconds"], 0.7)
        self.assertAlmostEqual(path["core_foreign"], 0.85 - 0.7 * 100 / 100)

    def test_a_proxy_that_did_nothing_has_no_user_share(self):
        nothing = measure.Usage(at=1.0, total=5)
        self.assertIsNone(measure.Usage(at=2.0, total=10).since(nothing)["user_share"])

    def test_this_process_can_be_read(self):
        usage = measure.Usage.now([os.getpid()], [0])
        self.assertGreater(usage.process_ns, 0)
        self.assertGreater(usage.total, 0)


class Costs(unittest.TestCase):
    class Proxied:
        proxy = True

    def test_for_a_request(self):
        cost = measure.cost({"busy": 0.5}, {"per_second": 50_000}, self.Proxied)
        self.assertAlmostEqual(cost["ns_per_request"], 10_000)

    def test_for_a_stream(self):
        cost = measure.cost({"busy": 1.0}, {"bits_per_second": 8 * 1024 * 1_000_000}, self.Proxied)
        self.assertAlmostEqual(cost["ns_per_kib"], 1000)

    def test_of_the_whole_path_over_the_whole_load(self):
        usage = {"path_seconds": 2.0}
        load = {"per_second": 1, "overall": {"requests": 100_000}}
        self.assertEqual(measure.cost(usage, load, self.Proxied), {"path_ns_per_request": 20_000})
        load = {"bits_per_second": 1,
                "overall": {"requests": 0, "bytes_sent": 1024 * 1_000_000, "bytes_received": 0}}
        self.assertEqual(measure.cost(usage, load, self.Proxied), {"path_ns_per_kib": 2_000})

    def test_a_window_that_outlasted_the_load_has_no_cost(self):
        self.assertEqual(measure.cost({}, {"per_second": 50_000}, self.Proxied), {})

    def test_a_figure_deep_in_the_line(self):
        self.assertEqual(measure.figure({"latency_us": {"p99": 7}}, "latency_us.p99"), 7)


class Checks(unittest.TestCase):
    """The load's line against the server's counts."""

    def check(self, name, load, counted, relays=True):
        class Session:
            class peer:
                relays_connections = relays

        measure.check_load(Session, BY_NAME[name], {
            "errors": {}, "requests": 1000, "overall": {"connections": 64}, **load},
            {"accepted": 64, "bytes": 128_000, **counted})

    def test_a_good_load_passes(self):
        self.check("rr64", {}, {})

    def test_an_error_fails(self):
        with self.assertRaisesRegex(CheckFailed, "reset"):
            self.check("rr64", {"errors": {"reset": 1}}, {})

    def test_connections_that_were_not_kept_fail(self):
        with self.assertRaisesRegex(CheckFailed, "kept"):
            self.check("rr64", {"overall": {"connections": 65}}, {"accepted": 65})

    def test_churn_needs_a_connection_for_each_request(self):
        with self.assertRaisesRegex(CheckFailed, "one for each"):
            self.check("churn", {"overall": {"connections": 999}}, {"accepted": 999})

    def test_a_connection_that_the_server_did_not_see_fails(self):
        with self.assertRaisesRegex(CheckFailed, "63 connections of 64"):
            self.check("rr64", {}, {"accepted": 63})

    def test_an_http_proxy_may_pool(self):
        self.check("http", {"statuses": {"200": 1000}}, {"accepted": 5}, relays=False)

    def test_another_status_fails(self):
        with self.assertRaisesRegex(CheckFailed, "503"):
            self.check("http", {"statuses": {"200": 1, "503": 2}}, {}, relays=False)

    def test_a_blackholed_connection_must_not_arrive(self):
        with self.assertRaisesRegex(CheckFailed, "reached the server"):
            self.check("blackhole", {}, {"accepted": 1})

    def test_bytes_that_did_not_arrive_fail(self):
        with self.assertRaisesRegex(CheckFailed, "bytes"):
            self.check("rr64", {}, {"bytes": 100})


if __name__ == "__main__":
    unittest.main()
