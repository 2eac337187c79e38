"""Questions to the control plane's API and to Envoy's admin endpoints, over plain HTTP on loopback.

It owns the URLs and the reading of Envoy's counters; it must never change anything.
"""

from __future__ import annotations

import http.client
import json
import re
from datetime import datetime
from typing import Final

import msgspec

from xds import report, settings
from xds.bootstrap import ADMIN_PORT

# Both ends are on this machine, which may be busy; more means that something hangs.
_TIMEOUT_S: Final = 10.0

_COUNTER: Final = re.compile(
    r"^listener\.(inbound\|\d+)\."
    r"(downstream_cx_total|ssl\.handshake|ssl\.connection_error|no_filter_chain_match): (\d+)$"
)


class Unreachable(Exception):  # noqa: N818  # a fact about the other side
    """Nobody answers there, or not with 200."""


def get(host: str, port: int, path: str) -> bytes:
    """Return the body of a GET; Unreachable for anything but 200."""
    connection = http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        message = f"http://{host}:{port}{path}: {error}"
        raise Unreachable(message) from None
    finally:
        connection.close()
    if response.status != http.client.OK:
        message = (
            f"http://{host}:{port}{path}: status {response.status}: {body[:200].decode(errors='replace')}"
        )
        raise Unreachable(message)
    return body


class Edge(msgspec.Struct, frozen=True):
    """One caller and one destination, as one of them (`reporter`) sees them."""

    source: str
    service: str
    destination: str
    reporter: str
    protocol: str
    security: str


class Traffic(msgspec.Struct, frozen=True):
    """What an edge carries: rate, errors, durations."""

    edge: Edge
    requests: int
    errors: int
    connections: int
    requests_per_s: float
    errors_per_s: float
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None


class _Edges(msgspec.Struct, frozen=True):
    edges: tuple[Traffic, ...]


class ControlPlane:
    """The API of `proa serve --admin HOST:PORT`."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port

    def is_ready(self) -> bool:
        """Tell whether the world has been read."""
        try:
            get(self._host, self._port, "/readyz")
        except Unreachable:
            return False
        return True

    def proxies(self) -> tuple[report.Proxy, ...]:
        """Return every connected proxy."""
        return msgspec.json.decode(self._get("/api/v1/proxies"), type=report.Proxies).proxies

    def pushes(self) -> tuple[report.PushRecord, ...]:
        """Return the newest pushes, newest first."""
        return msgspec.json.decode(self._get("/api/v1/pushes"), type=report.Pushes).pushes

    def problems(self) -> tuple[report.ProblemRecord, ...]:
        """Return what is wrong with the objects that were read."""
        return msgspec.json.decode(self._get("/api/v1/problems"), type=report.Problems).problems

    def edges(self) -> tuple[Traffic, ...]:
        """Return every edge that the sidecars have reported, with the rates of the last seconds."""
        return msgspec.json.decode(self._get("/api/v1/edges?window=10"), type=_Edges).edges

    def _get(self, path: str) -> bytes:
        return get(self._host, self._port, path)


def is_ready(pod_ip: str, port: int) -> bool:
    """Tell whether a sidecar's readiness door answers 200."""
    try:
        get(pod_ip, port, "/ready")
    except Unreachable:
        return False
    return True


def stats(pod_ip: str, pattern: str) -> dict[str, int]:
    """Return the counters and gauges of a sidecar whose name matches a regex."""
    body = get(pod_ip, ADMIN_PORT, f"/stats?filter={pattern}").decode()
    lines = (line.rpartition(": ") for line in body.splitlines())
    return {name: int(value) for name, _, value in lines if value.isdigit()}


def hops(pod_ip: str) -> tuple[int, int]:
    """Return how many connections a sidecar's inbound listeners took over TLS, and how many in plaintext.

    A connection that none of the filter chains wanted (plaintext under STRICT) was refused: it is no hop.
    """
    tls = plaintext = 0
    counters: dict[str, dict[str, int]] = {}
    for line in get(pod_ip, ADMIN_PORT, "/stats?filter=^listener").decode().splitlines():
        found = _COUNTER.match(line)
        if found:
            counters.setdefault(found[1], {})[found[2]] = int(found[3])
    for seen in counters.values():
        shaken = seen.get("ssl.handshake", 0)
        tls += shaken
        refused = seen.get("ssl.connection_error", 0) + seen.get("no_filter_chain_match", 0)
        plaintext += max(0, seen.get("downstream_cx_total", 0) - shaken - refused)
    return tls, plaintext


def call(outbound: str, host: str, path: str) -> int:
    """Return the status of a GET that an application makes through its sidecar; 0 without an answer."""
    connection = http.client.HTTPConnection(outbound, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", path, headers={"Host": host})
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def certificate_age_s(pod_ip: str, now: float) -> float | None:
    """Return the age of a sidecar's own certificate in seconds; None before it has one."""
    for entry in json.loads(get(pod_ip, ADMIN_PORT, "/certs"))["certificates"]:
        for chain in entry.get("cert_chain", ()):
            made_at = datetime.fromisoformat(chain["valid_from"]).timestamp() + settings.CLOCK_SKEW_S
            return max(0.0, now - made_at)  # a certificate is dated back by the skew
    return None
