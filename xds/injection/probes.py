"""Probes that interception would falsify, asked of the sidecar, which asks the application's port itself.

It owns which probes are rewritten and how; it must never touch an HTTP, gRPC or exec probe, nor a lifecycle hook:
those reach the application through the sidecar's probe chains, or not through it at all.

A TCP probe of a dead port succeeds through a sidecar, which accepts first. An HTTPS probe is TLS without our mark, and
finds no chain where mutual TLS is required: it becomes a TCP probe, which is less than was asked, and is told.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from xds.address import PORT_MAX
from xds.api.kubernetes import PROBE_PORT
from xds.injection.names import fields, items
from xds.injection.patch import Operation, pointer

_PROBES: Final = ("startupProbe", "livenessProbe", "readinessProbe")
_LISTS: Final = ("containers", "initContainers")


class Rewritten(NamedTuple):
    """The operations on the Pod as it came, the ports that the sidecar must watch, ascending, and what to tell."""

    operations: tuple[Operation, ...] = ()
    ports: tuple[int, ...] = ()
    warnings: tuple[str, ...] = ()


class _Found(NamedTuple):
    at: str
    """JSON pointer of the probe."""
    container: Mapping[str, object]
    kind: str
    reference: object


def rewrite(spec: Mapping[str, object], excluded: tuple[int, ...]) -> Rewritten:
    """Return how a Pod's probes are to be asked; those of ``excluded`` ports are not intercepted and stay."""
    operations: list[Operation] = []
    ports: set[int] = set()
    warnings: list[str] = []
    for found in _probes(spec):
        port = _port(found.reference, found.container)
        if not port or port in excluded:
            continue
        ports.add(port)
        asked = {"path": f"/tcp/{port}", "port": PROBE_PORT, "scheme": "HTTP"}
        operations += (
            Operation("remove", f"{found.at}/{found.kind}"),
            Operation("add", f"{found.at}/httpGet", asked),
        )
        if found.kind == "httpGet":
            name = found.container.get("name")
            warnings.append(
                f"container {name}: an HTTPS probe becomes one whether port {port} accepts connections"
            )
    return Rewritten(tuple(operations), tuple(sorted(ports)), tuple(dict.fromkeys(warnings)))


def _probes(spec: Mapping[str, object]) -> Iterator[_Found]:
    for kind in _LISTS:
        for index, item in enumerate(items(spec.get(kind))):
            container = fields(item)
            for name in _PROBES:
                probe = fields(container.get(name))
                at = pointer("spec", kind, index, name)
                socket, http = fields(probe.get("tcpSocket")), fields(probe.get("httpGet"))
                # A probe of another host is no connection to this Pod.
                if socket and not socket.get("host"):
                    yield _Found(at, container, "tcpSocket", socket.get("port"))
                elif not http.get("host") and str(http.get("scheme")).upper() == "HTTPS":
                    yield _Found(at, container, "httpGet", http.get("port"))


def _port(reference: object, container: Mapping[str, object]) -> int:
    """Return a port's number (IntOrString, or the name of one of the container's ports), 0 where there is none."""
    if isinstance(reference, str) and not reference.isdigit():
        named = (fields(port) for port in items(container.get("ports")))
        reference = next((port.get("containerPort") for port in named if port.get("name") == reference), 0)
    if isinstance(reference, str):
        reference = int(reference) if reference.isascii() and len(reference) <= len("65535") else 0
    if isinstance(reference, bool) or not isinstance(reference, int):
        return 0
    return reference if 0 < reference <= PORT_MAX else 0
