#!/usr/bin/env python3
"""Hold idle connections open, so that a proxy's memory for them can be read.

    idle.py ADDRESS PORT COUNT

Opens COUNT connections one after the other, makes one HTTP request on each, reads the answer, and
then prints "ready" and waits to be stopped. The request matters: a connection that has carried
bytes and fell silent is the common idle connection, and the one where buffers could be left behind.
"""

import signal
import socket
import sys


def exchange(connection, request):
    """One request and its whole answer (head, then Content-Length bytes)."""
    connection.sendall(request)
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += receive(connection)
    head, body = answer.split(b"\r\n\r\n", 1)
    status, *fields = head.decode("latin-1").split("\r\n")
    if " 200 " not in status:
        sys.exit(f"idle.py: unexpected answer: {status}")
    headers = {name.lower(): value for name, value in (field.split(": ", 1) for field in fields)}
    missing = int(headers["content-length"]) - len(body)
    while missing > 0:
        missing -= len(receive(connection))


def receive(connection):
    data = connection.recv(4096)
    if not data:
        sys.exit("idle.py: a connection was closed in the middle of an answer")
    return data


def main():
    address, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    request = f"GET / HTTP/1.1\r\nHost: {address}\r\n\r\n".encode()
    held = []
    for _ in range(count):
        connection = socket.create_connection((address, port), timeout=10)
        exchange(connection, request)
        held.append(connection)
    print("ready", flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
