"""The servers that the inputs are tried on: how each is started, and where it says what it has read.

Each peer writes a *record*: a line per request with its method, the hosts that it goes by, and its
target, with a tab between them.
"""

import dataclasses
import glob
import os
import signal
import textwrap

HERE = os.path.dirname(os.path.abspath(__file__))


@dataclasses.dataclass
class Peer:
    """A server. `commands(place)` are the programs to start; the last one listens on the port."""

    name: str
    commands: object
    # What makes it write its record, if it keeps lines back.
    flush: int = 0
    # What it is sent: inputs.py or frames.py.
    speaks: str = "http1"


@dataclasses.dataclass
class Place:
    """Where a peer runs."""

    port: int
    directory: str
    record: str
    cache: str  # what scripts/servers.sh has installed

    def write(self, name, text):
        path = os.path.join(self.directory, name)
        with open(path, "w") as file:
            file.write(textwrap.dedent(text))
        return path

    def venv(self, program):
        return os.path.join(self.cache, "venv/bin", program)

    @property
    def behind(self):
        """The port of the recorder behind a gateway."""
        return self.port + 1000

    def recorder(self):
        return ["python3", os.path.join(HERE, "recorder.py"), str(self.behind), self.record]


def go(name):
    return Peer(name, lambda place: [[os.path.join(place.cache, "peers"), name, str(place.port), place.record]])


def uvicorn(place):
    arguments = "--http httptools --log-level critical --no-access-log app:app --host 0.0.0.0 --port"
    return [[place.venv("uvicorn"), *arguments.split(), str(place.port)]]


def cheroot(place):
    return [[place.venv("cheroot"), "--bind", f"0.0.0.0:{place.port}", "app:wsgi"]]


def gunicorn(place):
    arguments = "--worker-class gthread --threads 32 --log-level critical app:wsgi --bind"
    return [[place.venv("gunicorn"), *arguments.split(), f"0.0.0.0:{place.port}"]]


def uwsgi(place):
    # Any socket that keeps connections open: a second request is what is looked for.
    arguments = "--module app:wsgi --threads 32 --disable-logging --die-on-term --http11-socket"
    return [[place.venv("uwsgi"), *arguments.split(), f"0.0.0.0:{place.port}"]]


def nginx(place):
    log = r"'$request_method\t$host $http_host\t$request_uri'"
    return nginx_with(place, f"log_format r {log}; access_log {place.record} r;", "return 200 x;")


def nginx_with(place, http, location, protocol=""):
    path = place.write(
        "nginx.conf",
        f"""\
        user root; worker_processes 1; daemon off; pid {place.directory}/pid; error_log /dev/null;
        events {{ }}
        http {{
            {http}
            client_body_temp_path {place.directory}/t1; proxy_temp_path {place.directory}/t2;
            fastcgi_temp_path {place.directory}/t3; uwsgi_temp_path {place.directory}/t4;
            scgi_temp_path {place.directory}/t5;
            server {{ listen {place.port} {protocol}; location / {{ {location} }} }}
        }}
        """,
    )
    return [["nginx", "-c", path]]


def lighttpd(place):
    path = place.write(
        "lighttpd.conf",
        f"""\
        server.modules = ("mod_accesslog")
        server.port = {place.port}
        server.document-root = "{place.directory}"
        accesslog.filename = "{place.record}"
        accesslog.format = "%m\t%{{Host}}i\t%r"
        """,
    )
    return [["lighttpd", "-D", "-f", path]]


def h2o(place):
    path = place.write(
        "h2o.yaml",
        f"""\
        listen: {{ host: 0.0.0.0, port: {place.port} }}
        user: root
        num-threads: 1
        hosts: {{ default: {{ paths: {{ "/": {{ file.dir: "{place.directory}" }} }} }} }}
        access-log: {{ path: "{place.record}", format: "%m\\t%V %{{host}}i\\t%r" }}
        """,
    )
    return [["h2o", "-c", path]]


def varnish(place, *options):
    path = place.write(
        "varnish.vcl",
        f"""\
        vcl 4.1;
        backend default {{ .host = "127.0.0.1"; .port = "{place.behind}"; }}
        sub vcl_recv {{ return (pass); }}
        """,
    )
    listen = ["-a", f"0.0.0.0:{place.port}", "-f", path, "-n", place.directory + "/varnish"]
    return [place.recorder(), ["varnishd", "-F", "-j", "none", "-s", "malloc,8M", *options, *listen]]


def varnish_h2(place):
    return varnish(place, "-p", "feature=+http2")


def haproxy(place):
    path = place.write(
        "haproxy.cfg",
        f"""\
        defaults
            mode http
            timeout connect 5s
            timeout client 30s
            timeout server 30s
        listen gateway
            bind 0.0.0.0:{place.port}
            server recorder 127.0.0.1:{place.behind}
        """,
    )
    return [place.recorder(), ["haproxy", "-db", "-f", path]]


def java(name, netty="4.2.20"):
    def commands(place):
        jars = os.path.join(place.cache, "java")
        classes = f"{jars}/classes:{jars}/netty-{netty}/*"
        memory = ["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        return ["java", *memory, "-cp", classes, "Peers", name, str(place.port), place.record]

    return commands


def jvm(name):
    commands = java(name)
    return Peer(name, lambda place: [commands(place)])


def old_netty(place):
    return [java("netty", "4.2.12")(place)]


def undertow_proxy(place):
    return [place.recorder(), [*java("undertow-proxy")(place), str(place.behind)]]


def nginx_gateway(place):
    location = f"proxy_pass http://127.0.0.1:{place.behind}; proxy_http_version 1.1; proxy_set_header Host $http_host;"
    http = "access_log off;"
    [command] = nginx_with(place, http, location, "http2")
    return [place.recorder(), command]


def envoy(place):
    socket = '{{ socket_address: {{ address: {}, port_value: {} }} }}'
    route = "{ name: r, virtual_hosts: [{ name: v, domains: ['*'], routes: [{ match: { prefix: / }, route: { cluster: c } }] }] }"
    types = "type.googleapis.com/envoy.extensions.filters"
    path = place.write(
        "envoy.yaml",
        f"""\
        static_resources:
          listeners:
          - address: {socket.format('0.0.0.0', place.port)}
            filter_chains:
            - filters:
              - name: envoy.filters.network.http_connection_manager
                typed_config:
                  "@type": {types}.network.http_connection_manager.v3.HttpConnectionManager
                  stat_prefix: s
                  route_config: {route}
                  http_filters:
                  - name: envoy.filters.http.router
                    typed_config: {{ "@type": {types}.http.router.v3.Router }}
          clusters:
          - name: c
            type: STATIC
            load_assignment:
              cluster_name: c
              endpoints:
              - lb_endpoints:
                - endpoint: {{ address: {socket.format('127.0.0.1', place.behind)} }}
        """,
    )
    program = glob.glob(os.path.join(place.cache, "venv/lib/*/site-packages/envoy/_bin/envoy"))[0]
    return [place.recorder(), [program, "--concurrency", "1", "--disable-hot-restart", "--log-level", "error", "-c", path]]


def caddy(place):
    path = place.write(
        "Caddyfile",
        f"""\
        {{
            admin off
            auto_https off
            servers {{
                protocols h1 h2c
            }}
        }}
        http://:{place.port} {{
            reverse_proxy 127.0.0.1:{place.behind}
        }}
        """,
    )
    return [place.recorder(), [os.path.join(place.cache, "caddy"), "run", "--config", path]]


def node(place):
    return [place.recorder(), ["node", os.path.join(HERE, "node.js"), str(place.port), str(place.behind)]]


def h2(name, commands, **more):
    return Peer(name + "-h2", commands, speaks="http2", **more)


# What installs within two minutes.
QUICK = [
    Peer("nginx", nginx),
    Peer("lighttpd", lighttpd, flush=signal.SIGHUP),
    Peer("h2o", h2o),
    Peer("varnish", varnish),
    Peer("haproxy", haproxy),
    Peer("uvicorn", uvicorn),
    Peer("cheroot", cheroot),
    Peer("gunicorn", gunicorn),
    Peer("uwsgi", uwsgi),
    go("net-http"),
    go("h2c"),
    go("fasthttp"),
    go("hertz"),
    h2("nginx", nginx_gateway),
    h2("haproxy", haproxy),
]

# The JVM's servers, and the other gateways from HTTP/2 to HTTP/1.
NIGHT = [
    jvm("jdk"),
    Peer("netty-4.2.12", old_netty),
    *map(jvm, ["netty", "vertx", "pekko", "grizzly", "undertow", "httpcore"]),
    Peer("envoy", envoy),
    Peer("caddy", caddy),
    h2("envoy", envoy),
    h2("caddy", caddy),
    h2("node", node),
    h2("undertow", undertow_proxy),
    h2("lighttpd", lighttpd, flush=signal.SIGHUP),
    h2("h2o", h2o),
    h2("varnish", varnish_h2),
]
