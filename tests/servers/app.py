"""The application that the HTTP servers of Python serve: `app` by ASGI, `wsgi` by WSGI.

It reads the whole body, answers 200, and adds to the file RECORD a line of what it has been told:
method, hosts and target, with a tab between them.
"""

import os

try:
    import uwsgi
except ImportError:
    uwsgi = None

RECORD = os.open(os.environ["RECORD"], os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o644)


def note(method, hosts, target):
    fields = [method, " ".join(hosts), target]
    line = "\t".join(field.translate({9: " ", 10: " ", 13: " "}) for field in fields)
    os.write(RECORD, line.encode("latin-1", "replace") + b"\n")


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    # The last of a name counts, as in the dictionaries of frameworks.
    host = dict(scope["headers"]).get(b"host", b"")
    note(scope["method"], [host.decode("latin-1")], scope["raw_path"].decode("latin-1"))
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]})
    await send({"type": "http.response.body", "body": b"x"})


def wsgi(environ, start_response):
    read_body(environ)
    target = environ.get("REQUEST_URI") or environ.get("RAW_URI") or environ["PATH_INFO"]
    note(environ["REQUEST_METHOD"], [environ.get("HTTP_HOST", "")], target)
    start_response("200 OK", [("Content-Length", "1")])
    return [b"x"]


def read_body(environ):
    if uwsgi and environ.get("HTTP_TRANSFER_ENCODING"):
        # uWSGI's input has no chunked body: the application reads it by this call.
        while uwsgi.chunked_read():
            pass
    else:
        environ["wsgi.input"].read()
