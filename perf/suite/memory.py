"""Memory for connections: the process's own, and the kernel's on its behalf.

The kernel's has no exact owner. Two readings stand side by side: the growth of the slab caches that
a connection lives in, together with the buffers of all TCP sockets, on the whole machine (so a run
without a proxy has to be subtracted: the client's and the server's sockets are in it, too); and
what the kernel charged to the proxy's own memory cgroup, where there is one.
"""

import contextlib
import os
import pathlib
import time

PAGE_KIB = os.sysconf("SC_PAGE_SIZE") // 1024

# Where a connection lives in the kernel: the socket and its file; what netfilter knows of it; what
# waits on it; the buffers. kmalloc is where the small parts of these go (waiters, wait queues).
CACHES = ("TCP", "TCPv6", "sock_inode_cache", "filp", "dentry", "nf_conntrack", "eventpoll_epi",
          "eventpoll_pwq", "skbuff_", "io_kiocb", "io_", "tcp_bind_bucket", "tcp_bind2_bucket",
          "kmalloc-")

# Until then two readings differ by less than a few hundred connections' worth.
SETTLE_SECONDS, SETTLE_SECONDS_MAX, SETTLED_KIB = 0.3, 10, 200

CGROUP_V1 = pathlib.Path("/sys/fs/cgroup/memory")
CGROUP_V2 = pathlib.Path("/sys/fs/cgroup")


def reading(pids, group):
    """KiB by kind; `user` and `threads` are the proxy's, the others are not absolute figures."""
    caches = _slabs_now()
    return {
        "user": sum(anonymous(pid) for pid in pids),
        # Only root may read it.
        "slab": sum(caches.values()) if caches else None,
        "caches": caches,
        "sockets": socket_buffers(pathlib.Path("/proc/net/sockstat").read_text()),
        "cgroup": group.kernel() if group else None,
        "threads": sum(len(os.listdir(f"/proc/{pid}/task")) for pid in pids),
    }


def per_connection(before, after, connections):
    """The growth in KiB for each connection; threads stay whole numbers."""
    grown = {kind: None if after[kind] is None or before[kind] is None
             else (after[kind] - before[kind]) / connections
             for kind in ("user", "slab", "sockets", "cgroup")}
    caches = {name: round((after["caches"][name] - before["caches"].get(name, 0)) / connections, 3)
              for name in after["caches"]}
    return {**grown, "caches": {name: kib for name, kib in caches.items() if kib},
            "threads_before": before["threads"], "threads_after": after["threads"]}


def anonymous(pid):
    """RssAnon: heap, stacks and other private memory that is resident."""
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1])
    return 0


def settled():
    """Waits until the sockets of an earlier lab are gone: the kernel takes namespaces down later,
    and what it frees meanwhile would hide what is allocated."""
    deadline = time.monotonic() + SETTLE_SECONDS_MAX
    before = None
    while time.monotonic() < deadline:
        now = sum(_slabs_now().values())
        if before is not None and abs(now - before) < SETTLED_KIB:
            return
        before = now
        time.sleep(SETTLE_SECONDS)


def _slabs_now():
    try:
        return slabs(pathlib.Path("/proc/slabinfo").read_text())
    except PermissionError:
        return {}


def slabs(text):
    """KiB of the objects in use in each of the caches above, from the text of /proc/slabinfo
    (slabinfo(5)); each object with its share of what a slab cannot use."""
    found = {}
    for line in text.splitlines()[2:]:
        fields = line.split()
        if fields[0].startswith(CACHES):
            active, _, _, objects_per_slab, pages_per_slab = map(int, fields[1:6])
            found[fields[0]] = active * pages_per_slab * PAGE_KIB / objects_per_slab
    return found


def socket_buffers(text):
    """What all TCP sockets hold in buffers, from the text of /proc/net/sockstat (in pages)."""
    for line in text.splitlines():
        if line.startswith("TCP:"):
            words = line.split()
            return int(words[words.index("mem") + 1]) * PAGE_KIB
    return 0


class Group:
    """A memory cgroup (version 1 or 2)."""

    def __init__(self, directory):
        self._directory = directory

    def kernel(self):
        """KiB of kernel memory: slabs, page tables, and socket buffers."""
        old = self._directory / "memory.kmem.usage_in_bytes"
        if old.exists():
            sockets = self._directory / "memory.kmem.tcp.usage_in_bytes"
            return (int(old.read_text()) + int(sockets.read_text())) // 1024
        figures = dict(line.split() for line in
                       (self._directory / "memory.stat").read_text().splitlines())
        return (int(figures.get("kernel", 0)) + int(figures.get("sock", 0))) // 1024


@contextlib.contextmanager
def group_of(pids, name):
    """The processes in a group of their own; None where that is not allowed, or without any."""
    root = CGROUP_V1 if CGROUP_V1.is_dir() else CGROUP_V2
    directory = root / name
    group = None
    if pids:
        with contextlib.suppress(OSError):
            directory.mkdir()
            _move(pids, directory)
            # A group of version 2 in which nothing is counted has no such file.
            if any((directory / file).exists()
                   for file in ("memory.kmem.usage_in_bytes", "memory.stat")):
                group = Group(directory)
    try:
        yield group
    finally:
        with contextlib.suppress(OSError):
            _move(pids, root)
        with contextlib.suppress(OSError):
            directory.rmdir()


def _move(pids, group):
    for pid in pids:
        (group / "cgroup.procs").write_text(str(pid))
