"""Which form of a resource a client takes: that of today, unless its node says that it is an older Envoy.

It owns that choice; it must never give another form to a client of today, nor another version to another form, because
a version names what the resource says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from xds import releases
from xds.resources import names, older
from xds.snapshot import Resource, ResourceType, encode

if TYPE_CHECKING:
    from xds.events import Node

Form = Callable[[Resource], Resource]
"""What a client gets in place of a resource."""

_FORMED = frozenset({ResourceType.LISTENER, ResourceType.ROUTES})
"""The kinds that have another form; most responses carry others."""


def form_of(node: Node | None, kind: ResourceType | None) -> Form | None:
    """Return what turns resources of a kind into what a client takes, None where it takes them as they are."""
    if kind not in _FORMED or node is None or (found := releases.release(node.version)) is None:
        return None
    match kind:
        case ResourceType.LISTENER if found < releases.SCOPED_STATS:
            return lambda resource: _with_body(resource, older.listener(resource.body, found))
        case ResourceType.ROUTES if found < releases.EACH_LINE:
            return _of_routes
        case _:
            return None


def _of_routes(resource: Resource) -> Resource:
    """Change a workload's own ports only: all rules of access stand there."""
    if names.parse_inbound_listener(resource.name) is None:
        return resource
    return _with_body(resource, older.inbound_routes(resource.body))


def _with_body(resource: Resource, body: bytes) -> Resource:
    return encode(resource.type, resource.name, body, cause=resource.cause, version=str(resource.version))
