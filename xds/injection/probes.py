"""Probes that interception would falsify, asked of the sidecar, which asks the application's port itself.

It owns which probes are rewritten and how; it must never touch a plain HTTP, a gRPC or an exec probe, nor a lifecycle
hook: those reach the application through the sidecar's probe chains, or not through it at all.

A TCP probe of a dead port succeeds through a sidecar, which accepts first. An HTTPS probe is TLS without our mark, and
finds no chain where mutual TLS is required. So the sidecar connects, or sends the HTTPS request, itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from xds.address import PORT_MAX
from xds.api.kubernetes import PROBE_PORT
from xds.fields import ConfigError
from xds.injection.names import fields, items
from xds.injection.patch import Operation, pointer

PROBES: Final = ("startupProbe", "livenessProbe", "readinessProbe")
_LISTS: Final = ("containers", "initContainers")

_TIMEOUT_MAX_S: Final = 3600
"""Longest wait of one probe that is taken over; nobody waits longer for an answer that says "alive"."""


class Watched(NamedTuple):
    """What the sidecar asks of the application on 127.0.0.1, and where it tells the result."""

    asked_at: str
    """Path on the sidecar's readiness port."""
    port: int
    path: str = ""
    """Path and query of an HTTPS request; empty: only whether the port accepts a connection."""
    headers: tuple[tuple[str, str], ...] = ()
    timeout_s: int = 1


class Rewritten(NamedTuple):
    """The operations on the Pod as it came, and what the sidecar must watch."""

    operations: tuple[Operation, ...] = ()
    watched: tuple[Watched, ...] = ()


class _Found(NamedTuple):
    at: str
    """JSON pointer of the probe."""
    container: Mapping[str, object]
    probe: Mapping[str, object]
    kind: str

    @property
    def asked(self) -> Mapping[str, object]:
        return fields(self.probe.get(self.kind))


def rewrite(spec: Mapping[str, object], excluded: tuple[int, ...]) -> Rewritten:
    """Return how a Pod's probes are to be asked; those of ``excluded`` ports are not intercepted and stay.

    Raises ConfigError for a header that no request can carry.
    """
    operations: list[Operation] = []
    watched: dict[str, Watched] = {}
    for found in _probes(spec):
        port = port_of(found.asked.get("port"), found.container)
        if not port or port in excluded:
            continue
        watch = _tcp(port) if found.kind == "tcpSocket" else _https(found, port, watched)
        watched[watch.asked_at] = watch
        asked = {"path": watch.asked_at, "port": PROBE_PORT, "scheme": "HTTP"}
        operations += (
            Operation("remove", f"{found.at}/{found.kind}"),
            Operation("add", f"{found.at}/httpGet", asked),
        )
    return Rewritten(
        tuple(operations), tuple(sorted(watched.values(), key=lambda one: (one.port, one.asked_at)))
    )


def _tcp(port: int) -> Watched:
    return Watched(f"/tcp/{port}", port)


def _https(found: _Found, port: int, others: Mapping[str, Watched]) -> Watched:
    """Return the HTTPS request of a probe; each different one of a port is told at a path of its own."""
    path = str(found.asked.get("path") or "/").partition("#")[0]
    wait = found.probe.get("timeoutSeconds")
    timeout_s = wait if isinstance(wait, int) and 1 <= wait <= _TIMEOUT_MAX_S else 1
    headers = tuple(_headers(found))
    number = 1
    while True:
        at = f"/https/{port}" + (f"/{number}" if number > 1 else "")
        watch = Watched(at, port, path if path.startswith("/") else f"/{path}", headers, timeout_s)
        if others.get(at, watch) == watch:
            return watch
        number += 1


def _headers(found: _Found) -> Iterator[tuple[str, str]]:
    for header in map(fields, items(found.asked.get("httpHeaders"))):
        name, value = str(header.get("name") or ""), str(header.get("value") or "")
        if not _is_token(name) or not value.isprintable():
            path = f"{found.at.removeprefix('/').replace('/', '.')}.httpGet.httpHeaders"
            raise ConfigError(path, "must be names and values that a request can carry, in one line")
        yield name, value


def _is_token(name: str) -> bool:
    return name.isascii() and bool(name) and all(c.isalnum() or c in "!#$%&'*+-.^_`|~" for c in name)


def _probes(spec: Mapping[str, object]) -> Iterator[_Found]:
    for kind in _LISTS:
        for index, item in enumerate(items(spec.get(kind))):
            container = fields(item)
            for name in PROBES:
                probe = fields(container.get(name))
                at = pointer("spec", kind, index, name)
                socket, http = fields(probe.get("tcpSocket")), fields(probe.get("httpGet"))
                # A probe of another host is no connection to this Pod.
                if socket and not socket.get("host"):
                    yield _Found(at, container, probe, "tcpSocket")
                elif not http.get("host") and str(http.get("scheme")).upper() == "HTTPS":
                    yield _Found(at, container, probe, "httpGet")


def port_of(reference: object, container: Mapping[str, object]) -> int:
    """Return a port's number (IntOrString, or the name of one of the container's ports), 0 where there is none."""
    if isinstance(reference, str) and not reference.isdigit():
        named = (fields(port) for port in items(container.get("ports")))
        reference = next((port.get("containerPort") for port in named if port.get("name") == reference), 0)
    if isinstance(reference, str):
        reference = int(reference) if reference.isascii() and len(reference) <= len("65535") else 0
    if isinstance(reference, bool) or not isinstance(reference, int):
        return 0
    return reference if 0 < reference <= PORT_MAX else 0
