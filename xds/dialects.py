"""Which form of a resource a client takes: that of today, unless its node says that it is an older Envoy.

It owns that choice; it must never give another form to a client of today, nor another version to another form, because
a version names what the resource says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from xds.resources import older
from xds.snapshot import Resource, ResourceType, encode

if TYPE_CHECKING:
    from xds.events import Node

Form = Callable[[Resource], Resource]
"""What a client gets in place of a resource."""


def form_of(node: Node | None, kind: ResourceType | None) -> Form | None:
    """Return what turns resources of a kind into what a client takes, None where it takes them as they are."""
    if kind is not ResourceType.LISTENER or node is None:
        return None
    release = older.release(node.version)
    if release is None or release >= older.SCOPED_STATS:
        return None

    def form(resource: Resource) -> Resource:
        body = older.listener(resource.body, release)
        return encode(resource.type, resource.name, body, cause=resource.cause, version=str(resource.version))

    return form
