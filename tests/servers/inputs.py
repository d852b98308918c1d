"""Generated HTTP/1 connections: one allowed request, and a denied one that only a careless parser sees.

Every input is a client's bytes on one connection, as pieces. Its families are the kinds of request
that two parsers are known to read in different ways (docs/security.md). By RFC 9112 each input
asks for nothing but the allowed host, or must be refused; the control family `pipeline` asks for
both hosts in the open.

An input is a pure function of the seed and its number, so a failure is replayed from these two.
"""

import dataclasses
import random

KEY = b"k0000000"  # stands for the number of a connection; as long as what replaces it
ALLOWED = KEY + b".allowed.example"
DENIED = KEY + b".denied.example"
# In every smuggled request, whatever its host.
MARK = b"smuggled"


@dataclasses.dataclass
class Piece:
    """Bytes that are sent in one write, after `wait`: "none", "pause" or "answer"."""

    data: bytes
    wait: str = "none"


@dataclasses.dataclass
class Input:
    """What one client sends."""

    families: list
    pieces: list
    linger: float  # seconds without a byte from the server until the client closes
    # How many requests the gate may let pass, if Egret's log does not say it: in HTTP/2.
    asked: int = 0

    def keyed(self, key):
        """The pieces of the connection with this key."""
        return [Piece(piece.data.replace(KEY, key), piece.wait) for piece in self.pieces]


@dataclasses.dataclass
class Request:
    """A request in parts that families may change. `lines` are raw header lines."""

    method: bytes = b"GET"
    target: bytes = b"/" + KEY + b"/a"
    version: bytes = b"HTTP/1.1"
    space: bytes = b" "
    eol: bytes = b"\r\n"
    lines: list = dataclasses.field(default_factory=lambda: [b"Host: " + ALLOWED])
    body: bytes = b""
    after: bytes = b""
    body_wait: str = ""  # how the body is sent, if not at once
    after_wait: str = ""
    linger: float = 0.2

    def head(self):
        start = self.method + self.space + self.target + self.space + self.version
        return self.eol.join([start, *self.lines]) + self.eol + self.eol

    def add(self, rng, *lines):
        """Adds header lines at a random place."""
        at = rng.choice([0, 1, len(self.lines)])
        self.lines[at:at] = lines

    def frame(self, body, rng, chance_of_chunks=0.0):
        """Gives the request a body with well-formed framing."""
        self.method = rng.choice([b"POST", b"POST", b"PUT", b"PATCH"])
        if rng.random() < chance_of_chunks:
            self.lines.append(b"Transfer-Encoding: chunked")
            self.body = chunk(body) + b"0\r\n\r\n"
        else:
            self.lines.append(b"Content-Length: %d" % len(body))
            self.body = body


def chunk(data, size=None, end=b"\r\n"):
    return (b"%x" % len(data) if size is None else size) + b"\r\n" + data + end


def smuggled(rng):
    """A request that must reach no server: for the denied host, seldom a second one for the allowed."""
    host = ALLOWED if rng.random() < 0.15 else DENIED
    method = rng.choice([b"GET", b"GET", b"GET", b"POST", b"PUT", b"DELETE"])
    path = b"/" + KEY + b"/" + MARK
    target = rng.choice([path, path, path, b"http://" + host + path])
    lines = [b"Host: " + host]
    if method in (b"POST", b"PUT"):
        lines.append(b"Content-Length: 0")
    version = rng.choice([b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0"])
    start = method + b" " + target + b" " + version
    return b"\r\n".join([start, *lines]) + b"\r\n\r\n"


def respell(rng, name):
    """A field name that is not `name`, and that some reader takes for it."""
    return rng.choice(
        [
            name.replace(b"-", b"_") if b"-" in name else name + b"_",
            name.replace(b"-", b""),
            name.replace(b"-", b" "),
            name.replace(b"-", b"."),
            name.replace(b"-", b"--") if b"-" in name else b"-" + name,
            name.replace(b"-", b"\xad") if b"-" in name else name + b"\xad",
            name.upper().replace(b"-", b"_") if b"-" in name else name.upper() + b"_",
            name + b" ",
            name + b"\t",
            b" " + name,
            name + b"\x00",
            name + b"\x0b",
            name + rng.choice([b"-", b"_", b"'", b"!"]),
            b"_" + name,
            b"HTTP_" + name.replace(b"-", b"_"),
        ]
    )


def odd(rng, value):
    """A value with something at an end, or in the middle, that readers skip or stop at."""
    junk = rng.choice(
        [b" ", b"\t", b"\x0b", b"\x0c", b"\x00", b";", b",", b'"', b"'", b"\xa0", b"\x85", b"\r", b"\n", b"+", b"-", b"_", b"."]
    )
    at = rng.choice([0, len(value), rng.randint(0, len(value))])
    return value[:at] + junk + value[at:]


# --- families: how the body is framed ---------------------------------------------------------


def chunk_size(rng, q):
    """Sizes that are counted in another width, or read up to some junk."""
    data = b"ab"
    size = b"%x" % len(data)
    wide = rng.choice([32, 32, 33, 36, 40, 62, 63, 64, 64, 65, 68, 96, 128])
    size = rng.choice(
        [
            lambda: b"%x" % ((1 << wide) + len(data)),
            lambda: b"%x" % ((rng.randint(1, 255) << wide) + len(data)),
            lambda: b"%x" % ((1 << wide) - 1),
            lambda: b"%X" % ((0xF << wide) + len(data)),
            lambda: b"0" * rng.choice([1, 7, 8, 15, 16, 17, 40, 300]) + size,
            lambda: b"0x" + size,
            lambda: b"0X" + size,
            lambda: rng.choice([b"+", b"-", b" ", b"\t", b"_", b"\x0b"]) + size,
            lambda: size + rng.choice([b" ", b"\t", b"\x0b", b"\x00", b"_", b",", b"h", b"L", b".0", b"\xa0", b"\r", b" x"]),
            lambda: size + b";" + odd(rng, b"name=value"),
            lambda: size + rng.choice([b";a\n", b';a="\r\nx"', b';a="\n"', b";\n", b"\n;a", b";" + b"a" * rng.choice([300, 5000])]),
            lambda: b"",
            lambda: b"%x" % len(smuggled(rng)),
            lambda: odd(rng, size),
        ]
    )()
    q.method = b"POST"
    q.lines.append(b"Transfer-Encoding: chunked")
    end = rng.choice([b"\r\n", b"\r\n", b"\r\n", b"\n", b"", b"xx", b"\r", b"\r\r\n"])
    last = rng.choice([b"0", b"0", b"0", b"00", b"0;a", b"0 ", b" 0", b"-0", b"0x0", b"0_", b"000000000000000000"])
    q.body = size + b"\r\n" + data + end + last + b"\r\n\r\n"
    q.after = smuggled(rng)


def chunk_in_chunk(rng, q):
    """A chunk whose data looks like the end of the body, behind a size line that is odd."""
    inner = b"0\r\n\r\n" + smuggled(rng)
    size = b"%x" % len(inner)
    size = rng.choice([size + b";" + odd(rng, b"x"), odd(rng, size), size + b"\n", size, b"0" * 20 + size, size + b";\n0", size + b";a=\"\r\n\""])
    q.method = b"POST"
    q.lines.append(b"Transfer-Encoding: chunked")
    q.body = size + b"\r\n" + inner + b"\r\n0\r\n\r\n"


def content_length(rng, q):
    """Lengths in spellings that are read as another number."""
    hidden = smuggled(rng)
    number = rng.choice([len(hidden), 0, 2])
    text = b"%d" % number
    spelt = rng.choice(
        [
            lambda: b"0" * rng.choice([1, 2, 16, 17, 18, 19, 20, 21, 40, 200]) + text,
            lambda: b"%d" % ((1 << rng.choice([31, 32, 33, 63, 64, 65, 128])) + number),
            lambda: b"-%d" % number,
            lambda: b"+%d" % number,
            lambda: b"0x%x" % number,
            lambda: text + rng.choice([b",", b";", b".0", b"e0", b" 1", b", " + text, b",%d" % (number + 1), b"_", b"\x0b", b"\x00", b"\xa0", b"L"]),
            lambda: b"," + text,
            lambda: b"",
            lambda: b'"' + text + b'"',
            lambda: b"\r\n " + text,
            lambda: b" " * rng.choice([1, 5, 100]) + text + b" ",
            lambda: odd(rng, text),
            lambda: text,
        ]
    )()
    q.method = rng.choice([b"POST", b"PUT"])
    lines = [b"Content-Length: " + spelt]
    if rng.random() < 0.25:
        lines.append(b"Content-Length: %d" % rng.choice([0, len(hidden)]))
        rng.shuffle(lines)
    q.add(rng, *lines)
    q.body = (b"ab" if number == 2 else b"") + hidden


def transfer_encoding(rng, q):
    """Codings that one reader takes for chunked and another does not."""
    value = rng.choice(
        [
            b"chunked", b"Chunked", b"CHUNKED", b"chunked, identity", b"identity, chunked", b"identity",
            b"gzip, chunked", b"chunked, gzip", b"chunked;q=1", b'"chunked"', b"xchunked", b"chunkedx",
            b"chunked,", b",chunked", b"chunked chunked", b"chunked, chunked", b"\r\n chunked", b"", b"gzip",
        ]
    )
    if rng.random() < 0.3:
        value = odd(rng, value)
    name = b"Transfer-Encoding"
    if rng.random() < 0.35:
        name = respell(rng, name)
    lines = [name + rng.choice([b": ", b":", b":\t", b" : ", b":\x0b"]) + value]
    if rng.random() < 0.2:
        lines.append(b"Transfer-Encoding: " + rng.choice([b"chunked", b"identity", b"x", b""]))
    both(rng, q, lines)


def both(rng, q, lines):
    """`lines` may frame the body as chunked; a Content-Length may stand beside them. Either way, one
    reader's body ends where another's holds a request."""
    hidden = smuggled(rng)
    chunked = b"0\r\n\r\n" + hidden
    covered = chunk(b"x=1") + b"0\r\n\r\n"
    q.method = b"POST"
    shape = rng.choice(["length_covers", "length_is_short", "chunks_cover", "no_length"])
    if shape == "length_covers":
        lines.append(b"Content-Length: %d" % len(chunked))
        q.body = chunked
    elif shape == "length_is_short":
        lines.append(b"Content-Length: %d" % len(covered))
        q.body = covered
        q.after = hidden if rng.random() < 0.5 else b""
    elif shape == "chunks_cover":
        size = b"%x\r\n" % len(hidden)
        lines.append(b"Content-Length: %d" % len(size))
        q.body = size + hidden + b"\r\n0\r\n\r\n"
    else:
        q.body = chunked
    rng.shuffle(lines)
    q.add(rng, *lines)
    if rng.random() < 0.2:
        q.version = rng.choice([b"HTTP/1.0", b"HTTP/1.2", b"HTTP/2.0", b"HTTP/0.9"])


def look_alike(rng, q):
    """A field that is named almost as one that frames or routes."""
    name = respell(rng, rng.choice([b"Host", b"Content-Length", b"Transfer-Encoding", b"Connection", b"Expect", b"Upgrade", b"Trailer", b"TE"]))
    hidden = smuggled(rng)
    lower = name.lower()
    if b"host" in lower:
        q.add(rng, name + b": " + DENIED)
    elif b"content" in lower:
        q.method = b"POST"
        q.add(rng, name + b": 0", *rng.choice([[], [b"Content-Length: %d" % len(hidden)]]))
        q.body = hidden
    elif b"transfer" in lower:
        both(rng, q, [name + b": chunked"])
    else:
        q.frame(hidden, rng, 0.3)
        q.add(rng, name + b": " + rng.choice([b"close", b"100-continue", b"x", b"h2c", b"Host", b"trailers"]))


def trailers(rng, q):
    """Trailers that frame, that route, or that are read as the next request."""
    q.method = rng.choice([b"POST", b"PUT", b"GET"])
    q.lines.append(b"Transfer-Encoding: chunked")
    if rng.random() < 0.3:
        q.add(rng, b"Trailer: " + rng.choice([b"Host", b"X", b"Content-Length", b"Transfer-Encoding"]))
    path = b"/" + KEY + b"/" + MARK
    request_like = b"X" + rng.choice([b":", b": "]) + rng.choice([b"GET", b"POST", b"get"]) + b" " + rng.choice([path, b"http://" + DENIED + path]) + rng.choice([b" HTTP/1.1", b" HTTP/1.0", b"\tHTTP/1.1", b"  HTTP/1.1"])
    host = rng.choice([b"Host", b"Host", b"host", b"HOST", b":authority", respell(rng, b"Host"), b"X-Forwarded-For"])
    choices = [
        [host + b": " + DENIED],
        [request_like, b"Host: " + DENIED],
        [b"GET " + path + b" HTTP/1.1", b"Host: " + DENIED],
        [b"GET http://" + DENIED + path + b" HTTP/1.1"],
        [b"Content-Length: " + rng.choice([b"0", b"5", b"100"])],
        [b"Transfer-Encoding: chunked"],
        [b"Connection: " + rng.choice([b"close", b"keep-alive", b"Host", b"upgrade"])],
        [b"X: a\r\n Host: " + DENIED],
        [b"X: a\rHost: " + DENIED],
        [b"X: a\nHost: " + DENIED],
        [b" Host: " + DENIED],
        [b"X: a", b"", b"GET " + path + b" HTTP/1.1", b"Host: " + DENIED],
    ]
    lines = rng.choice(choices)
    if rng.random() < 0.3:
        lines = lines + rng.choice(choices)
    end = rng.choice([b"\r\n", b"\r\n", b"\r\n", b"\n"])
    q.body = rng.choice([chunk(b"ab"), b""]) + b"0\r\n" + end.join([*lines, b"", b""])
    if rng.random() < 0.2:
        q.after = smuggled(rng)


# --- families: the answer decides what the next bytes are ---------------------------------------


def expect(rng, q):
    """An expectation whose answer makes the server take the body for the next request."""
    value = rng.choice(
        [
            b"100-continue", b"100-continue", b"100-Continue", b"x", b"", b"100-continue, x", b"x, 100-continue",
            b"100-continue;q=1", b'"100-continue"', b"100-continue,", b"100", b"\r\n 100-continue", b"200-ok",
        ]
    )
    if rng.random() < 0.2:
        value = odd(rng, value)
    hidden = smuggled(rng)
    shape = rng.choice(["length", "length", "long", "chunked", "none"])
    if shape in ("length", "long"):
        q.method = b"POST"
        length = len(hidden) if shape == "length" else rng.choice([9_000_000, 200_000_000, 1 << 40])
        q.lines.append(b"Content-Length: %d" % length)
        q.body = hidden
    elif shape == "chunked":
        q.frame(hidden, rng, 1.0)
    else:
        q.after = hidden
    q.add(rng, b"Expect: " + value, *([b"Expect: x"] if rng.random() < 0.1 else []))
    if rng.random() < 0.1:
        q.version = b"HTTP/1.0"
    q.body_wait = q.after_wait = rng.choice(["", "pause", "answer", "answer"])
    q.linger = 1.3  # longer than a body is held for the answer


def upgrade_body(rng, q):
    """A body behind an Upgrade that is refused."""
    token = rng.choice([b"foo", b"websocket", b"TLS/1.2", b"TLS/1.0", b"h2c-16", b"h2", b"HTTP/2.0", b"foo, bar", b"", b"h2c", b"connect-udp"])
    hidden = smuggled(rng)
    q.frame(hidden, rng, 0.3)
    if rng.random() < 0.3:
        q.method = rng.choice([b"GET", b"OPTIONS", b"HEAD"])
    q.add(rng, b"Connection: " + rng.choice([b"Upgrade", b"upgrade", b"Upgrade, HTTP2-Settings", b"keep-alive, Upgrade", b"close"]))
    q.add(rng, b"Upgrade: " + token)
    if token == b"websocket":
        q.add(rng, b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==")
    if token == b"h2c":
        q.add(rng, b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA")
    q.body_wait = rng.choice(["", "pause", "pause", "answer"])
    q.linger = 1.3


def frame(kind, flags, stream, payload=b""):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def literal(name, value):
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


def h2c_upgrade(rng, q):
    """HTTP/2 by Upgrade, in spellings that servers accept; then a stream for the denied host."""
    token = rng.choice(
        [b"h2c", b"h2c", b"h2c;q=1", b"h2c websocket", b"websocket, h2c", b"h2c, websocket", b"h2c-14", b"h2c-16", b"h 2c", b"h2c\xa0", b"H2C", b'"h2c"', b"h2c/1", b"h2c,", b"h2", b"HTTP/2.0"]
    )
    if rng.random() < 0.15:
        token = odd(rng, token)
    q.add(rng, b"Connection: " + rng.choice([b"Upgrade, HTTP2-Settings", b"upgrade,http2-settings", b"Upgrade", b"HTTP2-Settings, Upgrade, keep-alive"]))
    q.add(rng, b"Upgrade: " + token)
    if rng.random() < 0.95:
        q.add(rng, b"HTTP2-Settings: " + rng.choice([b"AAMAAABkAARAAAAAAAIAAAAA", b"AAMAAABkAARAAAAAAAIAAAAA", b""]))
    path = b"/" + KEY + b"/" + MARK
    request = literal(b":method", b"GET") + literal(b":scheme", b"http") + literal(b":authority", DENIED) + literal(b":path", path)
    q.after = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0) + frame(1, 5, 3, request)
    q.after_wait = rng.choice(["answer", "answer", "answer", "pause", ""])
    q.linger = 0.4


# --- families: who is asked, and how ------------------------------------------------------------


def target(rng, q):
    """Targets whose authority ends at another byte for another reader."""
    path = b"/" + KEY + b"/" + MARK
    join = rng.choice([b"#", b"#@", b"?", b"?@", b"?.", b"#.", b"\\", b"\\@", b"@", b":80@", b":@", b";", b";@", b"%23@", b"%2f@", b"%00", b"&@", b"/@", b"//", b":", b"\t", b"\xa0", b",", b"|", b"^@", b":80#@", b":80?@", b"/..//"])
    scheme = rng.choice([b"http://", b"http://", b"http://", b"http://", b"HTTP://", b"https://", b"ftp://", b"//", b"//", b"///", b"/\\", b"\\\\", b"http:/", b"http:", b"http:///", b"http:\\\\", b"ws://", b"/http://"])
    q.target = rng.choice(
        [
            lambda: scheme + ALLOWED + join + DENIED + path,
            lambda: scheme + DENIED + join + ALLOWED + path,
            lambda: scheme + DENIED + path,
            lambda: scheme + DENIED + path + rng.choice([b"?a://b", b"?a=://b", b"#", b"?x=http://" + ALLOWED + b"/", b":80"]),
            lambda: b"/a" + join + b"//" + DENIED + path,
            lambda: DENIED + rng.choice([b":80", path, b""]),
            lambda: b"*",
            lambda: b"?" + DENIED + path,
            lambda: b"@" + DENIED + path,
            lambda: b":@" + DENIED + path,
            lambda: b"//" + ALLOWED + b"@" + DENIED + path,
            lambda: b"/./" + b"/" + DENIED + path,
            lambda: odd(rng, scheme + ALLOWED + b"/") + DENIED + path,
        ]
    )()
    q.method = rng.choice([b"GET", b"GET", b"GET", b"POST", b"OPTIONS", b"HEAD"])
    if rng.random() < 0.1:
        q.lines = []
    if rng.random() < 0.1:
        q.version = b"HTTP/1.0"


def host(rng, q):
    """Two Hosts, or one that holds two names."""
    join = rng.choice([b", ", b",", b" ", b"\t", b"#", b"?", b"/", b"\\", b"@", b":80@", b":", b";", b"\x00", b"%00", b"|", b"\xa0", b"\xad", b"\r", b"\n ", b"\r\n "])
    value = rng.choice([ALLOWED + join + DENIED, DENIED + join + ALLOWED])
    q.lines = rng.choice(
        [
            [b"Host: " + value],
            [b"Host: " + value],
            [b"Host: " + ALLOWED, b"Host: " + DENIED],
            [b"Host: " + DENIED, b"Host: " + ALLOWED],
            [b"Host: " + ALLOWED, rng.choice([b" ", b"\t"]) + b"Host: " + DENIED],
            [b" Host: " + DENIED, b"Host: " + ALLOWED],
            [b"Host: " + ALLOWED, b"Host : " + DENIED],
            [b"Host:" + ALLOWED + b"\r\n " + DENIED],
            [b"Host: " + ALLOWED, b"X: a\nHost: " + DENIED],
            [b"Host: " + ALLOWED, b"X: a\rHost: " + DENIED],
            [b"Host: " + ALLOWED, b"X: a\r\r\nHost: " + DENIED],
            [b"Host: " + ALLOWED, b"Connection: Host"],
            [b"Host: [" + DENIED + b"]"],
            [b"X: a", b"Host: " + ALLOWED + b"\x00." + DENIED],
            [b"Host: " + ALLOWED, b":authority: " + DENIED],
            [b"Host: ", b"Host: " + DENIED],
        ]
    )
    if rng.random() < 0.15:
        q.target = b"http://" + ALLOWED + q.target


def encoding(rng, q):
    """Bytes above 127 that a decoder joins with what follows, or turns into CR, LF or a letter."""
    bad = rng.choice(
        [b"\xe0", b"\xc3", b"\xf0\x9f", b"\xe0\xa0", b"\xf0", b"\xff", b"\xfe", b"\xc0\x8a", b"\xc0\x8d\xc0\x8a", b"\xe5\x98\x8a", b"\xe5\x98\x8d\xe5\x98\x8a", b"\xc4\x8a", b"\xc4\x8d\xc4\x8a", b"\x85", b"\xc2\x85", b"\xe2\x80\xa8", b"\xed\xa0\x80", b"\x8d\x8a"]
    )
    place = rng.choice(["before_length", "before_host", "target", "splits", "name"])
    hidden = smuggled(rng)
    if place == "before_length":
        q.frame(hidden, rng, 0.4)
        q.lines.insert(len(q.lines) - 1, b"X-A: " + rng.choice([b"", b"a"]) + bad)
    elif place == "before_host":
        q.lines = [b"X-A: " + bad, b"Host: " + ALLOWED, b"X-B: " + bad, b"Host: " + DENIED] if rng.random() < 0.3 else [b"Host: " + ALLOWED, b"X-B: " + bad + b"Host: " + DENIED]
    elif place == "target":
        q.target = q.target + bad + rng.choice([b"", b" HTTP/1.1" + bad + b"Host: " + DENIED + bad + b"X: "])
    elif place == "splits":
        q.lines.append(b"X-A: a" + bad + b"Host: " + DENIED + bad + bad + b"GET /" + KEY + b"/" + MARK + b" HTTP/1.1" + bad + b"Host: " + DENIED + bad + bad)
    else:
        q.lines.append(rng.choice([b"Host" + bad, bad + b"Host"]) + b": " + DENIED)


def trace_body(rng, q):
    """TRACE, which has no body, with one."""
    q.frame(smuggled(rng), rng, 0.3)
    q.method = rng.choice([b"TRACE", b"TRACE", b"trace", b"Trace", b"TRACK"])


def method(rng, q):
    """Methods in another case, or with a meaning of their own."""
    name = rng.choice([b"get", b"Get", b"gET", b"post", b"connect", b"CONNECT", b"Connect", b"options", b"head", b"PRI", b"PURGE", b"X", b"GET\x00", b"G\xc4\x96T", b"M-SEARCH", b"PROPFIND", b"UPGRADE", b"SOURCE", b"DEBUG"])
    if rng.random() < 0.7:
        q.frame(smuggled(rng), rng, 0.4)
    q.method = name
    if name.lower() == b"connect" and rng.random() < 0.7:
        q.target = rng.choice([ALLOWED + b":80", DENIED + b":80", b"http://" + ALLOWED + b"/"])
        q.body_wait = rng.choice(["", "answer"])


def unread_body(rng, q):
    """A body with a method that seldom has one."""
    q.frame(smuggled(rng), rng, 0.4)
    q.method = rng.choice([b"GET", b"GET", b"HEAD", b"OPTIONS", b"DELETE"])
    q.body_wait = rng.choice(["", "", "pause", "answer"])


# --- families: where a line, a head or a connection ends ----------------------------------------


def obs_fold(rng, q):
    """A value that goes on in the next line."""
    hidden = smuggled(rng)
    fold = rng.choice([b"\r\n ", b"\r\n\t", b"\n ", b"\r ", b"\r\n\r\n ", b"\r\n \r\n", b"\r\n\x0b"])
    lines = rng.choice(
        [
            [b"Transfer-Encoding:" + fold + b"chunked", b"Content-Length: %d" % (5 + len(hidden))],
            [b"Content-Length:" + fold + b"%d" % (5 + len(hidden))],
            [b"Content-Length: 1" + fold + b"0", b"X: y"],
            [b"X: a" + fold + b"Host: " + DENIED],
            [b"X: a" + fold + b"Content-Length: 0", b"Content-Length: %d" % (5 + len(hidden))],
            [b"X: a" + fold + b"Transfer-Encoding: chunked", b"Content-Length: %d" % (5 + len(hidden))],
        ]
    )
    q.method = b"POST"
    q.add(rng, *lines)
    q.body = b"0\r\n\r\n" + hidden


def line_ends(rng, q):
    """Lines and heads that end in something else than CR LF."""
    hidden = smuggled(rng)
    end = rng.choice([b"\n", b"\r", b"\r\r\n", b"\x00", b"\x0b", b"\x0c", b"\x85", b"\r\x00\n", b"\n\r\n"])
    where = rng.choice(["all", "one", "head", "inner", "leading"])
    q.frame(hidden, rng, 0.3)
    if where == "all":
        q.eol = end
    elif where == "one":
        at = rng.randint(0, len(q.lines) - 1)
        q.lines[at] += end + rng.choice([b"X: y", b"Host: " + DENIED, b"Content-Length: 0", b""])
    elif where == "head":
        q.lines.append(b"X: y" + end + end + hidden)
    elif where == "inner":
        q.lines.append(b"X: y" + end + rng.choice([b"Host: " + DENIED, b"Transfer-Encoding: chunked", b"Content-Length: 0"]))
        q.body = b"0\r\n\r\n" + q.body
    else:
        q.method = rng.choice([b"\r\n", b"\n", b"\r", b" ", b"\x00", b"\r\n\r\n"]) + q.method


def whitespace(rng, q):
    """White space, and versions, where the request line does not have them."""
    q.frame(smuggled(rng), rng, 0.3)
    change = rng.choice(["space", "version", "end", "colon", "target"])
    if change == "space":
        q.space = rng.choice([b"  ", b"\t", b"\x0b", b"\x0c", b" \t", b"\r", b"\xa0"])
    elif change == "version":
        q.version = rng.choice([b"HTTP/1.10", b"HTTP/1.1 ", b"HTTP/01.1", b"http/1.1", b"HTTP/1,1", b"HTTP/2.0", b"HTTP/1.", b"HTTP/1.1x", b"HTTP/1.1\t", b"HTTP/0.9", b"", b"HTTP/1.2", b"HTTP /1.1", b"ICAP/1.0", b"RTSP/1.0"])
    elif change == "end":
        q.version += rng.choice([b" ", b"\t", b"\x00", b" HTTP/1.0", b" x"])
    elif change == "colon":
        q.lines[-1] = q.lines[-1].replace(b": ", rng.choice([b" : ", b"\t: ", b" :", b":\x0b", b"\x00: ", b" ", b"=", b"::"]), 1)
    else:
        q.target = rng.choice([q.target + b" HTTP/1.1 ", b"/" + KEY + b" http://" + DENIED + b"/", q.target + b"\thttp://" + DENIED])


def connection(rng, q):
    """Fields that a hop takes away, and closes that do not happen."""
    hidden = smuggled(rng)
    names = rng.choice([b"Content-Length", b"Transfer-Encoding", b"Host", b"close, Content-Length", b"keep-alive", b"close", b"close, keep-alive", b"Upgrade", b"TE", b"Expect", b"x, Host"])
    q.frame(hidden, rng, 0.4)
    q.add(rng, b"Connection: " + names)
    if rng.random() < 0.3:
        q.version = b"HTTP/1.0"
    if rng.random() < 0.4:
        q.after = smuggled(rng)
        q.after_wait = rng.choice(["", "pause", "answer"])


def version_zero(rng, q):
    """HTTP/1.0 and what it does not have: chunks, an open connection."""
    q.version = b"HTTP/1.0"
    hidden = smuggled(rng)
    if rng.random() < 0.6:
        both(rng, q, [b"Transfer-Encoding: chunked"])
        q.version = b"HTTP/1.0"
    else:
        q.after = hidden
    q.add(rng, b"Connection: " + rng.choice([b"keep-alive", b"Keep-Alive", b"close"]))


def pipeline(rng, q):
    """The control: the second request stands there in the open."""
    if rng.random() < 0.5:
        q.frame(rng.choice([b"", b"ab", b"x" * 3000]), rng, 0.5)
    q.after = rng.choice([b"", b"", b"\r\n", b"\n", b"\r\n\r\n"]) + smuggled(rng)
    q.after_wait = rng.choice(["", "pause", "answer"])


FAMILIES = [
    chunk_size, chunk_in_chunk, content_length, transfer_encoding, look_alike, trailers, expect, upgrade_body,
    h2c_upgrade, target, host, encoding, trace_body, method, unread_body, obs_fold, line_ends, whitespace,
    connection, version_zero, pipeline,
]


def generate(seed, number):
    """Input `number` of a seed: mostly one family, sometimes two of them in one request."""
    rng = random.Random(f"{seed}:{number}")
    count = rng.choice([1, 1, 1, 2])
    # The first goes through all families in turn.
    chosen = [FAMILIES[number % len(FAMILIES)], *rng.sample(FAMILIES, count - 1)]
    q = Request()
    for family in chosen:
        family(rng, q)
    return Input([family.__name__ for family in chosen], pieces(rng, q), q.linger)


def pieces(rng, q):
    """The request's bytes, cut where a server might be between two states, and anywhere."""
    parts = [Piece(q.head())]
    for data, wait in ((q.body, q.body_wait), (q.after, q.after_wait)):
        if data and wait:
            parts.append(Piece(data, wait))
        else:
            parts[-1].data += data
    if rng.random() < 0.3:
        at = rng.randrange(len(parts))
        whole = parts[at].data
        cut = rng.randint(0, len(whole))
        parts[at : at + 1] = [Piece(whole[:cut], parts[at].wait), Piece(whole[cut:], "pause")]
    return [part for part in parts if part.data]
