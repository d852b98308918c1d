"""A strict HTTP/1 server that stands behind gateways: `recorder.py PORT RECORD`.

It reads requests by RFC 9112 and by nothing else, answers each with 200, and adds a line for each to
the file RECORD: method, hosts and target, with a tab between them. What it cannot read it answers
with 400, and ends the connection.
"""

import asyncio
import os
import re
import sys

START = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([!-~\x80-\xff]+) HTTP/1\.([01])")
FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*?)[ \t]*")
NO_CONTENT = b"HTTP/1.1 %s\r\nContent-Length: 0\r\n\r\n"

SECONDS_MAX = 10  # for a request; what never ends must not hold a gateway's connection


class Unreadable(Exception):
    """The bytes are no request."""


def main():
    port, path = int(sys.argv[1]), sys.argv[2]
    record = os.open(path, os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o644)
    asyncio.run(serve(port, record))


async def serve(port, record):
    server = await asyncio.start_server(lambda r, w: connection(r, w, record), "0.0.0.0", port)
    await server.serve_forever()


async def connection(reader, writer, record):
    try:
        while await asyncio.wait_for(exchange(reader, writer, record), SECONDS_MAX):
            pass
    except (Unreadable, asyncio.LimitOverrunError):
        writer.write(NO_CONTENT % b"400 Bad Request")
    except (asyncio.IncompleteReadError, ConnectionError, asyncio.TimeoutError):
        pass
    finally:
        writer.close()


async def exchange(reader, writer, record):
    """One request and its answer; whether another may follow."""
    method, target, minor, fields = await head(reader)
    hosts = [value for name, value in fields if name == b"host"]
    os.write(record, b"\t".join([method, b" ".join(hosts).replace(b"\t", b" "), target]) + b"\n")
    values = {name: value.lower() for name, value in fields}
    if values.get(b"expect") == b"100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    await body(reader, fields)
    writer.write(NO_CONTENT % b"200 OK")
    await writer.drain()
    return minor == b"1" and values.get(b"connection") != b"close"


async def line(reader):
    read = await reader.readuntil(b"\r\n")
    return read[:-2]


async def head(reader):
    start = START.fullmatch(await line(reader))
    if not start:
        raise Unreadable
    return *start.groups(), await header_fields(reader)


async def header_fields(reader):
    fields = []
    while text := await line(reader):
        field = FIELD.fullmatch(text)
        if not field:
            raise Unreadable
        fields.append((field[1].lower(), field[2]))
    return fields


async def body(reader, fields):
    codings = [value.lower() for name, value in fields if name == b"transfer-encoding"]
    lengths = {value for name, value in fields if name == b"content-length"}
    if codings:
        if codings != [b"chunked"] or lengths:
            raise Unreadable
        await chunks(reader)
    elif lengths:
        length = lengths.pop()
        if lengths or not length.isdigit():
            raise Unreadable
        await discard(reader, int(length))


async def chunks(reader):
    while size := await chunk_size(reader):
        await discard(reader, size)
        if await reader.readexactly(2) != b"\r\n":
            raise Unreadable
    await header_fields(reader)


async def chunk_size(reader):
    text = (await line(reader)).split(b";")[0].strip(b" \t")
    if not re.fullmatch(rb"[0-9a-fA-F]{1,15}", text):
        raise Unreadable
    return int(text, 16)


async def discard(reader, count):
    while count:
        data = await reader.read(min(count, 65536))
        if not data:
            raise asyncio.IncompleteReadError(b"", count)
        count -= len(data)


main()
