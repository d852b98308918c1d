"""Generated HTTP/2 connections, for gateways that carry requests on as HTTP/1.

As inputs.py: one allowed request, and a denied one that only a careless gateway writes to its
backend. Each piece is a frame, so that a failure is made smaller by whole frames.
"""

import random

from inputs import ALLOWED, DENIED, KEY, MARK, Input, Piece, frame, odd, respell, smuggled

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS = 0, 1, 4
END_STREAM, END_HEADERS = 1, 4


def literal(name, value):
    """A field in HPACK, without index and without Huffman code."""
    return b"\0" + integer(len(name)) + name + integer(len(value)) + value


def integer(number):
    """RFC 7541 5.1, with a prefix of seven bits."""
    if number < 127:
        return bytes([number])
    out, number = [127], number - 127
    while number >= 128:
        out.append(number % 128 + 128)
        number //= 128
    return bytes([*out, number])


class Stream:
    """A request in parts that families may change. Names and values are raw."""

    def __init__(self):
        self.method, self.scheme, self.authority = b"GET", b"http", ALLOWED
        self.path = b"/" + KEY + b"/a"
        self.fields, self.data, self.trailers = [], [], []
        self.extra_pseudo = []

    def frames(self, number):
        pseudo = [(b":method", self.method), (b":scheme", self.scheme), (b":path", self.path)]
        if self.authority is not None:
            pseudo.append((b":authority", self.authority))
        block = encode(pseudo + self.extra_pseudo + self.fields)
        ends = not self.data and not self.trailers
        frames = [frame(HEADERS, END_HEADERS | ends, number, block)]
        for at, data in enumerate(self.data):
            ends = at == len(self.data) - 1 and not self.trailers
            frames.append(frame(DATA, int(ends), number, data))
        if self.trailers:
            frames.append(frame(HEADERS, END_HEADERS | END_STREAM, number, encode(self.trailers)))
        return frames


def encode(fields):
    return b"".join(literal(name, value) for name, value in fields)


def binary_field(rng, s):
    """Line ends in a field that may hold raw bytes for gRPC, and in others."""
    name = rng.choice([b"x-bin", b"x-bin", b"grpc-trace-bin", b"x-a", b"cookie", b"referer"])
    hidden = smuggled(rng)
    end = rng.choice([b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\x00"])
    value = rng.choice(
        [
            lambda: b"a" + end + b"Host: " + DENIED,
            lambda: b"a\r\nContent-Length: 0\r\n\r\n" + hidden + b"X: ",
            lambda: b"a" + end + end + hidden,
            lambda: b"a\r\nTransfer-Encoding: chunked",
        ]
    )()
    # gRPC marks a value as raw bytes by a NUL before it.
    s.fields.append((name, rng.choice([b"", b"\x00"]) + value))


def unframed_data(rng, s):
    """A body that no content-length announces, with a method that seldom has one."""
    s.method = rng.choice([b"GET", b"HEAD", b"DELETE", b"OPTIONS", b"TRACE", b"POST", b"CONNECT", b"PURGE"])
    s.data = [smuggled(rng)]
    if rng.random() < 0.3:
        s.data.insert(rng.randint(0, 1), b"")


def content_length(rng, s):
    """Lengths in spellings that are read as another number, or that do not fit the data."""
    hidden = smuggled(rng)
    number = rng.choice([len(hidden), 0, 2])
    text = b"%d" % number
    spelt = rng.choice([odd(rng, text), b"0" * 20 + text, b"+" + text, text + b"," + text, text + b" ", b"\x0b" + text, b"%d" % ((1 << 32) + number), b"", b"-1", text])
    s.method = rng.choice([b"POST", b"PUT", b"GET"])
    s.fields.append((rng.choice([b"content-length", b"content-length", b"content-length ", b"content_length"]), spelt))
    if rng.random() < 0.2:
        s.fields.append((b"content-length", b"0"))
    s.data = [hidden]


def hop_field(rng, s):
    """Fields that belong to HTTP/1's connection, and names that are taken for one."""
    name, value = rng.choice(
        [
            (b"transfer-encoding", b"chunked"), (b"transfer-encoding", b"identity"), (b"connection", b"host"), (b"connection", b"close"),
            (b"connection", b"content-length"), (b"upgrade", b"h2c"), (b"upgrade", b"foo"), (b"te", b"chunked"), (b"keep-alive", b"x"),
            (b"proxy-connection", b"x"), (b"http2-settings", b"AAMAAABk"), (b"expect", b"100-continue"), (b"expect", b"x"),
        ]
    )
    if rng.random() < 0.4:
        name = respell(rng, name).lower() if rng.random() < 0.8 else name.upper()
    s.fields.append((name, odd(rng, value) if rng.random() < 0.2 else value))
    hidden = smuggled(rng)
    s.method = rng.choice([b"POST", b"POST", b"GET"])
    s.data = [rng.choice([b"0\r\n\r\n", b""]) + hidden]
    if rng.random() < 0.5:
        s.fields.append((b"content-length", b"%d" % len(s.data[0])))


def authority(rng, s):
    """Who is asked, twice or in an odd spelling."""
    join = rng.choice([b"#", b"?", b"/", b"\\", b"@", b":80@", b" ", b",", b"\t", b"%00", b"\r\nHost: ", b"\r\n\r\n"])
    host = rng.choice([b"host", b"host", b"Host", b"host ", b"host_", b"x-host"])
    change = rng.choice(["joined", "host", "host_only", "twice", "scheme"])
    if change == "joined":
        s.authority = rng.choice([ALLOWED + join + DENIED, DENIED + join + ALLOWED])
    elif change == "host":
        s.fields.append((host, DENIED))
    elif change == "host_only":
        s.authority = rng.choice([None, b""])
        s.fields += rng.sample([(b"host", ALLOWED), (host, DENIED)], 2)
    elif change == "twice":
        s.extra_pseudo.append((b":authority", DENIED))
    else:
        s.scheme = rng.choice([b"http://" + DENIED + b"/", b"https", b"http ", b"http\r\nHost: " + DENIED, b"HTTP", b""])


def path(rng, s):
    """Paths that are read as a target with an authority, or as more than a target."""
    tail = b"/" + KEY + b"/" + MARK
    s.path = rng.choice(
        [
            lambda: b"http://" + DENIED + tail,
            lambda: b"//" + DENIED + tail,
            lambda: b"//" + DENIED + tail + b"?a://b",
            lambda: tail + b" HTTP/1.1\r\nHost: " + DENIED + b"\r\nX:",
            lambda: b"http://" + ALLOWED + rng.choice([b"#@", b"?@", b"\\@", b":@", b"@"]) + DENIED + tail,
            lambda: b"@" + DENIED + tail,
            lambda: DENIED + tail,
            lambda: b"*",
            lambda: b"",
            lambda: odd(rng, tail),
            lambda: tail + b"#" + DENIED,
        ]
    )()


def method(rng, s):
    """Methods in another case, or with more than a method in them."""
    s.method = rng.choice([b"get", b"connect", b"trace", b"CONNECT", b"TRACE", b"GET /" + KEY + b"/" + MARK + b" HTTP/1.1\r\nHost: " + DENIED + b"\r\n\r\nGET", b"GET ", b" GET", b"GET\t", b"", b"PRI", b"head"])
    if rng.random() < 0.6:
        s.data = [smuggled(rng)]
    if rng.random() < 0.4:
        s.fields.append((b"content-length", b"%d" % len(b"".join(s.data))))
    if s.method.lower() == b"connect" and rng.random() < 0.5:
        s.extra_pseudo.append((b":protocol", rng.choice([b"websocket", b"x", b"h2c"])))


def trailers(rng, s):
    """Trailers that frame, that route, or that are read as the next request."""
    tail = b"/" + KEY + b"/" + MARK
    choices = [
        (rng.choice([b"host", b"Host", b":authority", b"host_"]), DENIED),
        (b"content-length", b"0"),
        (b"transfer-encoding", b"chunked"),
        (b"connection", b"host"),
        (b"x-bin", b"a\r\n\r\n" + smuggled(rng)),
        (b"x", b"GET " + tail + b" HTTP/1.1"),
        (b"x", b"a\r\nHost: " + DENIED),
        (b"get " + tail + b" HTTP/1.1\r\nhost", DENIED),
        (b":path", tail),
        (b"x-forwarded-host", DENIED),
    ]
    s.method = rng.choice([b"POST", b"GET"])
    s.data = [b"ab"]
    s.trailers = rng.sample(choices, rng.choice([1, 1, 2]))


def encoding(rng, s):
    """Bytes above 127 that a decoder joins with what follows, or turns into CR or LF."""
    bad = rng.choice([b"\xe0", b"\xc3", b"\xf0\x9f", b"\xff", b"\xc0\x8a", b"\xe5\x98\x8d\xe5\x98\x8a", b"\xc4\x8d\xc4\x8a", b"\x85", b"\x8d\x8a"])
    if rng.random() < 0.5:
        s.fields.append((b"x-a", b"a" + bad + rng.choice([b"", b"Host: " + DENIED + bad])))
    else:
        s.path += bad + rng.choice([b"", b" HTTP/1.1" + bad + b"Host: " + DENIED + bad])
    s.method, s.data = b"POST", [smuggled(rng)]
    s.fields.append((b"content-length", b"%d" % len(s.data[0])))


def second_stream(rng, s):
    """The control: the second request stands there in the open."""
    s.fields.append((b"x-a", b"a"))


FAMILIES = [binary_field, unframed_data, content_length, hop_field, authority, path, method, trailers, encoding, second_stream]


def generate(seed, number):
    """Input `number` of a seed: one family, or two of them in one request."""
    rng = random.Random(f"{seed}:{number}")
    chosen = [FAMILIES[number % len(FAMILIES)], *rng.sample(FAMILIES, rng.choice([0, 0, 0, 1]))]
    first = Stream()
    for family in chosen:
        family(rng, first)
    streams = [first]
    if second_stream in chosen or rng.random() < 0.2:
        streams.append(Stream())
        streams[1].authority = rng.choice([DENIED, ALLOWED])
        if second_stream not in chosen:
            chosen.append(second_stream)
    pieces = [Piece(PREFACE + frame(SETTINGS, 0, 0))]
    for at, stream in enumerate(streams):
        wait = rng.choice(["none", "pause", "answer"])
        for data in stream.frames(2 * at + 1):
            pieces.append(Piece(data, wait))
            wait = rng.choice(["none", "none", "none", "pause"])
    asked = sum(stream.authority != DENIED for stream in streams)
    return Input(["h2 " + family.__name__ for family in chosen], pieces, 0.3, asked)
