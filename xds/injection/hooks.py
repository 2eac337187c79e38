"""Lifecycle hooks that the kubelet sends by HTTP, which interception makes a stranger's requests.

It owns which hooks these are, and what is said of them; it must never change one, nor open a way for it: whoever could
ask in the kubelet's name would stop the application.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from xds.injection.names import fields, items
from xds.injection.probes import PROBES, port_of
from xds.injection.wishes import INBOUND_PORTS

_HOOKS: Final = {
    "postStart": "the container is killed and started again",
    "preStop": "the application gets SIGTERM at once",
}
"""Hook → what the kubelet does when it fails (Kubernetes, Container Lifecycle Hooks)."""

_LISTS: Final = ("containers", "initContainers")


class Hook(NamedTuple):
    """One hook whose request comes to an intercepted port."""

    container: str
    name: str
    port: int

    @property
    def said(self) -> str:
        """What becomes of it under STRICT, and what to write instead."""
        return (
            f"container {self.container}: lifecycle.{self.name}.httpGet: the kubelet's request to port {self.port} is "
            f"a stranger's, which STRICT and AuthorizationPolicies refuse: then {_HOOKS[self.name]}; "
            f'use exec or sleep, or a port of its own with {INBOUND_PORTS[0]}: "PORT"'
        )


def hooks(spec: Mapping[str, object], excluded: Sequence[int]) -> Iterator[Hook]:
    """Yield the hooks of a Pod's containers that ask a port which is intercepted.

    One that asks just what a plaintext probe asks passes as the probe does.
    """
    for container in _containers(spec):
        lifecycle = fields(container.get("lifecycle"))
        for name in _HOOKS:
            http = fields(fields(lifecycle.get(name)).get("httpGet"))
            port = port_of(http.get("port"), container)
            if (
                port
                and not http.get("host")
                and port not in excluded
                and _asked(http, port) not in _open(spec)
            ):
                yield Hook(str(container.get("name")), name, port)


def _containers(spec: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
    for kind in _LISTS:
        yield from map(fields, items(spec.get(kind)))


def _open(spec: Mapping[str, object]) -> set[tuple[int, str]]:
    """Return port and path of every HTTP probe: these stay open to the kubelet."""
    found: set[tuple[int, str]] = set()
    for container in _containers(spec):
        for name in PROBES:
            http = fields(fields(container.get(name)).get("httpGet"))
            found.add(_asked(http, port_of(http.get("port"), container)))
    return found


def _asked(http: Mapping[str, object], port: int) -> tuple[int, str]:
    """Return what is asked in plaintext; port 0 for what is not."""
    is_plain = str(http.get("scheme") or "HTTP").upper() == "HTTP" and not http.get("host")
    path = str(http.get("path") or "/").partition("?")[0]
    return (port, path if path.startswith("/") else f"/{path}") if is_plain else (0, "")
