#!/usr/bin/env python3
"""Draws registries of some service entries, and connections that may belong to them.

    draw.py SEED COUNT    writes COUNT scenarios, one JSON object a line

Hosts, addresses and ports come from short lists, so that entries meet on them. The addresses are
IPv4: Istio's simulation of Envoy knows its IPv4 listeners only.
"""

import json
import random
import sys

NAMES = ["api.example.com", "www.example.com", "deep.www.example.com", "example.com", "db.other.test"]
WILDCARDS = ["*.example.com", "*.www.example.com", "*.test"]
ADDRESSES = ["203.0.113.1", "203.0.113.2", "198.51.100.3"]
PREFIXES = ["203.0.113.0/24", "203.0.113.0/29", "198.51.100.0/25", "198.51.100.3/32"]
ELSEWHERE = ["203.0.113.77", "192.0.2.9", "192.0.2.77", "240.240.0.9"]
ENDPOINTS = ["192.0.2.9", "192.0.2.10"]
ENDPOINT_NAMES = ["one.example.net", "two.example.net"]
PROTOCOLS = {
    80: ["HTTP", "HTTP", "HTTP2", "GRPC", "TCP", None],
    443: ["TLS", "TLS", "HTTPS", "HTTP", "TCP", None],
    3306: ["TCP", "MYSQL", "TLS", "HTTP", None],
    8080: ["HTTP", "HTTP_PROXY", "GRPC-WEB", "TLS", "TCP", None],
    9000: ["MONGO", "REDIS", "HTTPS", "HTTP", "TCP", None, "HTTPX"],
}
RESOLUTIONS = ["NONE", "NONE", "STATIC", "STATIC", "DNS", "DNS", "DNS_ROUND_ROBIN", "DYNAMIC_DNS"]


def ports(rng):
    drawn = []
    for number in rng.sample(list(PROTOCOLS), rng.choice([1, 1, 2])):
        port = {"number": number, "name": f"p{number}"}
        protocol = rng.choice(PROTOCOLS[number])
        if protocol:
            port["protocol"] = protocol
        if rng.random() < 0.1:
            port["targetPort"] = 8443
        drawn.append(port)
    return drawn


def addresses(rng):
    kinds = [[], [], rng.sample(ADDRESSES, 1), rng.sample(ADDRESSES, 2), rng.sample(PREFIXES, 1)]
    return rng.choice([*kinds, [rng.choice(ADDRESSES), rng.choice(PREFIXES)]])


def document(rng, number):
    hosts = rng.sample(NAMES, rng.choice([1, 1, 2])) if rng.random() < 0.75 else [rng.choice(WILDCARDS)]
    spec = {"hosts": hosts, "ports": ports(rng), "resolution": rng.choice(RESOLUTIONS)}
    listed = addresses(rng)
    if listed:
        spec["addresses"] = listed
    if spec["resolution"] == "STATIC" and rng.random() < 0.9:
        spec["endpoints"] = [{"address": one} for one in rng.sample(ENDPOINTS, rng.choice([1, 2]))]
    elif spec["resolution"] == "DNS" and rng.random() < 0.4:
        spec["endpoints"] = [{"address": rng.choice(ENDPOINT_NAMES + ENDPOINTS)}]
    created = f"2026-03-01T00:00:{number:02}Z"
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "ServiceEntry",
        "metadata": {"name": f"e{number}", "namespace": "app", "creationTimestamp": created},
        "spec": spec,
    }


def call(rng, specs):
    spec = rng.choice(specs)
    address = rng.choice(ADDRESSES + ELSEWHERE)
    if spec.get("addresses") and rng.random() < 0.5:
        address = rng.choice(spec["addresses"]).split("/")[0]
    port = rng.choice(spec["ports"])["number"] if rng.random() < 0.9 else rng.choice(list(PROTOCOLS))
    drawn = {"destination": f"{address}:{port}", "speaks": rng.choice(["http", "http", "tls", "tls", "other"])}
    name = rng.choice(spec["hosts"]).replace("*", rng.choice(["x", "x.y"]))
    if rng.random() < 0.4:
        name = rng.choice(NAMES + ["nobody.test", "nobody.example.org"])
    if drawn["speaks"] == "http":
        name = rng.choice([name] * 6 + [name.upper(), f"{name}:{port}", address])
    elif rng.random() < 0.1:
        name = None
    if drawn["speaks"] != "other" and name:
        drawn["name"] = name
    return drawn


def scenario(seed, number):
    rng = random.Random(f"{seed}/{number}")
    documents = [document(rng, n) for n in range(rng.choice([1, 1, 2, 2, 3, 5]))]
    specs = [one["spec"] for one in documents]
    return {
        "id": f"{seed}-{number}",
        "mode": rng.choice(["REGISTRY_ONLY", "REGISTRY_ONLY", "ALLOW_ANY"]),
        "documents": [{"text": one} for one in documents],
        "calls": [call(rng, specs) for _ in range(24)],
    }


if __name__ == "__main__":
    seed, count = int(sys.argv[1]), int(sys.argv[2])
    for number in range(count):
        print(json.dumps(scenario(seed, number)))
