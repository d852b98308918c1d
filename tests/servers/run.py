"""Tries generated connections on real servers behind Egret: what they read must be what Egret allowed.

scripts/servers.sh installs the servers and runs this. Each input is sent to each server through an
Egret that allows *.allowed.example alone. Every server records each request that it reads. Two
things must hold of every connection:
- `host`: no request has another host than the allowed one;
- `request`: there are not more requests than Egret's access log says have passed.

An input that fails is tried again, made smaller as long as it fails, and printed with the command
that replays it. With --direct the inputs go past Egret, and a table says which families of input
make which servers read a request that nobody may send: what the test can find.
"""

import argparse
import asyncio
import collections
import dataclasses
import itertools
import os
import random
import re
import sys
import time
import traceback

import frames
import inputs
import peers
from lab import Broken, Lab, wait_for

AT_ONCE = 160  # connections
AT_ONCE_PER_PEER = 24
SHOWN_MAX = 6  # failures that are made smaller and printed
ROUNDS_MAX = 12  # of making them smaller
CANDIDATES_MAX = 64
KEYS = itertools.count(1)
# An ordinary request.
CONTROL = {
    "http1": inputs.Input(["control"], [inputs.Piece(inputs.Request().head())], 0.2),
    "http2": inputs.Input(["control"], [inputs.Piece(frames.PREFACE + frames.frame(frames.SETTINGS, 0, 0)), *map(inputs.Piece, frames.Stream().frames(1))], 0.3),
}
# The families that show both requests in the open.
CONTROLS = {"pipeline", "h2 second_stream"}
GENERATE = {"http1": inputs.generate, "http2": frames.generate}
# What a smaller input is made of: single bytes, but for names, without which nothing can be judged.
TOKEN = re.compile(b"%b|%b|%b|." % (inputs.ALLOWED, inputs.DENIED, inputs.KEY), re.DOTALL)
# An allowed host, or what servers put in the place of none.
HOST = re.compile(rb"[a-z0-9-]+\.allowed\.example|[-_]?|default|null|203\.0\.113\.1[0-2]")


@dataclasses.dataclass
class Trial:
    """One input on one server."""

    peer: peers.Peer
    input: inputs.Input
    number: int  # of the input; None if it is no input of the seed
    key: int = 0
    address: str = ""  # of the client
    seen: list = dataclasses.field(default_factory=list)
    logged: list = dataclasses.field(default_factory=list)


def main():
    options = parse()
    with Lab(options.egret, options.cache, options.peers) as lab:
        try:
            # The JVM's servers are slow at first.
            settle(lab, options.peers, options.direct)
            if options.direct:
                return show_direct(lab, options)
            return max(show_gated(lab, seeded) for seeded in rounds(options))
        finally:
            print(f"the first seed was {options.seed}", flush=True)


def parse():
    parser = argparse.ArgumentParser(description="see the head of this file")
    parser.add_argument("--egret", required=True, help="the program")
    parser.add_argument("--cache", required=True, help="where the servers are installed")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--inputs", type=int, default=2000, help="how many")
    parser.add_argument("--input", type=int, help="only this one")
    parser.add_argument("--peers", help="comma-separated names; default all")
    parser.add_argument("--direct", action="store_true", help="past Egret")
    parser.add_argument("--night", action="store_true", help="more servers")
    parser.add_argument("--minutes", type=float, default=0, help="draw again for so long")
    options = parser.parse_args()
    known = {peer.name: peer for peer in peers.QUICK + (peers.NIGHT if options.night else [])}
    names = options.peers.split(",") if options.peers else list(known)
    options.peers = [known[name] for name in names]
    return options


def rounds(options):
    """The options with one seed after the other, as long as the time lasts; at least one."""
    end = time.monotonic() + 60 * options.minutes
    for seed in itertools.count(options.seed):
        print(f"seed {seed}", flush=True)
        yield argparse.Namespace(**{**vars(options), "seed": seed})
        if time.monotonic() > end:
            return


def trials(options):
    numbers = [options.input] if options.input is not None else range(options.inputs)
    for number in numbers:
        drawn = {speaks: generate(options.seed, number) for speaks, generate in GENERATE.items()}
        for peer in options.peers:
            yield Trial(peer, drawn[peer.speaks], number)


# --- running ------------------------------------------------------------------------------------


def run(lab, batch, is_direct=False):
    """Runs trials side by side, and fills in what the servers saw and what Egret logged."""
    batch = list(batch)
    for trial in batch:
        trial.key = next(KEYS)
    with lab.inside("pod"):
        asyncio.run(converse_all(lab, batch, is_direct))
    settle(lab, {trial.peer.name: trial.peer for trial in batch}.values(), is_direct)
    log = lab.access_log.read().lines
    for trial in batch:
        trial.seen = lab.records[trial.peer.name].read().get(key(trial), [])
        to = "%s:%d" % lab.address(trial.peer, is_direct)
        trial.logged = [line for line in log.get((trial.address, to), []) if line["verdict"] != "blackhole"]
    return batch


def key(trial):
    return b"k%07x" % trial.key


async def converse_all(lab, batch, is_direct):
    everything = asyncio.Semaphore(AT_ONCE)
    by_peer = collections.defaultdict(lambda: asyncio.Semaphore(AT_ONCE_PER_PEER))

    async def one(trial):
        async with by_peer[trial.peer.name], everything:
            await converse(trial, lab.address(trial.peer, is_direct))

    await asyncio.gather(*map(one, batch))


async def converse(trial, address):
    """Sends the pieces and reads until the server has ended, or has been silent for `linger`."""
    try:
        reader, writer = await asyncio.wait_for(asyncio.open_connection(*address), 10)
    except (OSError, asyncio.TimeoutError):
        return
    trial.address = "%s:%d" % writer.get_extra_info("sockname")
    try:
        for piece in trial.input.keyed(key(trial)):
            if piece.wait == "pause":
                await asyncio.sleep(0.02)
            elif piece.wait == "answer":
                await read_until_silent(reader, 0.3, first=True)
            writer.write(piece.data)
        await read_until_silent(reader, trial.input.linger)
        writer.write_eof()
        await read_until_silent(reader, 0.1)
    except OSError:
        pass
    finally:
        writer.close()


async def read_until_silent(reader, seconds, first=False):
    try:
        while await asyncio.wait_for(reader.read(65536), seconds) and not first:
            pass
    except asyncio.TimeoutError:
        pass


def settle(lab, asked, is_direct):
    """Waits until every server, and Egret, have written down all that came before."""
    if not is_direct:
        wait_for("the end of all connections", lambda: lab.metric("egret_connections_active") == 0)
        if lab.metric("egret_access_log_dropped_total"):
            raise Broken("Egret has dropped lines of the access log: use fewer connections at once")
    missing = {peer.name: peer for peer in asked}

    def all_answer():
        controls = [Trial(peer, CONTROL[peer.speaks], None, next(KEYS)) for peer in missing.values()]
        with lab.inside("pod"):
            asyncio.run(converse_all(lab, controls, is_direct))
        for control in controls:
            if is_written(lab, control, is_direct):
                del missing[control.peer.name]
        return not missing

    try:
        wait_for("an ordinary request to be recorded", all_answer)
    except Broken as broken:
        raise Broken(f"{broken} by {', '.join(missing)}") from None


def is_written(lab, control, is_direct):
    """Whether the server has recorded a request, and Egret logged it."""
    peer = control.peer
    if peer.flush:
        peer.process.send_signal(peer.flush)
        time.sleep(0.05)
    is_logged = is_direct or peer.speaks == "http2" or key(control) in lab.access_log.read().keys
    return is_logged and key(control) in lab.records[peer.name].read()


# --- judging ------------------------------------------------------------------------------------


def hosts(line):
    """The hosts in a line of a record, without port."""
    return [host.split(b":")[0].rstrip(b".").lower() for host in line.split(b"\t")[1].split(b" ") if host]


def fault(trial):
    """What does not hold: "host", "request" or nothing."""
    if any(not HOST.fullmatch(host) for line in trial.seen for host in hosts(line)):
        return "host"
    # A connection in HTTP/2 is one line of the log.
    if trial.peer.speaks == "http2":
        return "request" if len(trial.seen) > trial.input.asked else None
    if "h2c_upgrade" in trial.input.families:
        return None
    if len(trial.seen) > len(trial.logged) or is_smuggled(trial):
        return "request"
    return None


def is_smuggled(trial):
    """Whether the server has read the hidden request, and Egret has not. Where the first request has
    its target, they cannot be told apart."""
    first = trial.input.pieces[0].data.split(b"\n")[0]
    read = any(inputs.MARK in line.split(b"\t")[2] for line in trial.seen)
    return read and inputs.MARK not in first and not any(inputs.MARK.decode() in (line["path"] or "") for line in trial.logged)


def show_gated(lab, options):
    start = time.monotonic()
    found = run(lab, trials(options))
    failures = [trial for trial in found if fault(trial)]
    reached = sum(bool(trial.seen) for trial in found)
    print(
        f"{len(found)} connections to {len(options.peers)} servers in {time.monotonic() - start:.0f} s; "
        f"the servers have read a request on {reached} of them",
        flush=True,
    )
    if not failures:
        return 0
    print(table(failures, options))
    print(f"{len(failures)} connections on which a server has read what Egret did not allow", flush=True)
    shown = first_of_each_kind(failures)[:SHOWN_MAX]
    for trial, smallest in zip(shown, shrink(lab, shown)):
        show(options, trial, smallest)
    return 1


def first_of_each_kind(failures):
    """One failure of each family and server before a second one of any; short ones first."""
    ranks = collections.Counter()
    ordered = []
    for trial in sorted(failures, key=lambda trial: size(trial.input.pieces)):
        kind = (trial.peer.name, trial.input.families[0])
        ordered.append((ranks[kind], len(ordered), trial))
        ranks[kind] += 1
    return [trial for *_, trial in sorted(ordered, key=lambda one: one[:2])]


def show(options, trial, smallest):
    print(f"\nFAILED ({fault(smallest)}) {trial.peer.name}, {'+'.join(trial.input.families)}")
    for piece in smallest.input.pieces:
        print(f"  sends{'' if piece.wait == 'none' else ' after ' + piece.wait}: {piece.data!r}")
    for line in smallest.seen:
        print(f"  the server read: {line!r}")
    for line in smallest.logged:
        print(f"  Egret logged: {line['method']} {line['authority']} {line['path']} {line['response_code']}")
    print(f"  replay: scripts/servers.sh --seed {options.seed} --input {trial.number} --peers {trial.peer.name}", flush=True)


# --- making a failure smaller -------------------------------------------------------------------


def shrink(lab, failures):
    """For each failure the smallest input found that fails in the same way."""
    smallest = list(failures)
    for _ in range(ROUNDS_MAX):
        tried = [list(smaller(trial)) for trial in smallest]
        run(lab, itertools.chain(*tried))
        failing = [
            [one for one in some if fault(one) == fault(trial)] for some, trial in zip(tried, smallest)
        ]
        if not any(failing):
            break
        smallest = [
            min([trial, *some], key=lambda one: size(one.input.pieces)) for some, trial in zip(failing, smallest)
        ]
    return smallest


def smaller(trial):
    for pieces in itertools.islice(candidates(trial.input.pieces), CANDIDATES_MAX):
        yield Trial(trial.peer, dataclasses.replace(trial.input, pieces=pieces), None)


def size(pieces):
    return sum(len(piece.data) + 10 for piece in pieces)


def candidates(pieces):
    """Inputs with less in them: two pieces joined, a line or a part of a line left out."""
    for at in range(len(pieces) - 1):
        joined = inputs.Piece(pieces[at].data + pieces[at + 1].data, pieces[at].wait)
        yield [*pieces[:at], joined, *pieces[at + 2 :]]
    for at, piece in enumerate(pieces):
        for kept in shorter(piece.data):
            rest = [inputs.Piece(kept, piece.wait)] if kept else []
            yield [*pieces[:at], *rest, *pieces[at + 1 :]]


def shorter(data):
    lines = data.splitlines(keepends=True)
    for at in range(len(lines)):
        yield b"".join(lines[:at] + lines[at + 1 :])
    tokens = TOKEN.findall(data)
    step = len(tokens) // 2
    while step and len(tokens) // step <= 16:
        for at in range(0, len(tokens), step):
            yield b"".join(tokens[:at] + tokens[at + step :])
        step //= 2


# --- the table ----------------------------------------------------------------------------------


def show_direct(lab, options):
    """Which families make which servers read what nobody may send, without Egret."""
    found = run(lab, trials(options), is_direct=True)
    hits = [trial for trial in found if is_misread(trial)]
    print(table(hits, options))
    found = {trial.peer.name for trial in hits if not CONTROLS & set(trial.input.families)}
    missed = {peer.name for peer in options.peers} - found
    if missed:
        raise Broken(f"no input is read in two ways by {', '.join(sorted(missed))}: the test finds nothing there")
    return 0


def is_misread(trial):
    """Whether a server has read the denied host, or more requests than stand there."""
    asked = trial.input.asked or 1
    return len(trial.seen) > asked or any(b"denied" in line.split(b"\t")[1] for line in trial.seen)


def table(hits, options):
    counts = collections.Counter((trial.input.families[0], trial.peer.name) for trial in hits)
    names = [peer.name for peer in options.peers]
    rows = [" " * 18 + " ".join(f"{name[:8]:>8}" for name in names)]
    families = [family.__name__ for family in inputs.FAMILIES] + ["h2 " + family.__name__ for family in frames.FAMILIES]
    for family in families:
        cells = [counts[family, name] for name in names]
        if any(cells):
            rows.append(f"{family:<18}" + " ".join(f"{cell or '.':>8}" for cell in cells))
    return "\n".join(rows)


if __name__ == "__main__":
    os.environ["PATH"] += ":/usr/local/sbin:/usr/sbin:/sbin"
    try:
        sys.exit(main())
    except Exception:
        # The lab has failed, and no server: the caller may try again.
        traceback.print_exc()
        sys.exit(2)
