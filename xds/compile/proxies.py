"""All that belongs to one proxy alone, in the form that the proxy takes.

It owns which form is made for whom; it must never decide what stands in it.
"""

from __future__ import annotations

from dataclasses import replace

from xds import ir
from xds.compile.lens import Lens
from xds.compile.sidecar import Sidecar, routes_of, sidecar
from xds.compile.transparent import transparent
from xds.hosts import Name


def proxy(lens: Lens, kind: str, name: Name) -> Sidecar | None:
    """Return what a unit of a kind of ``units.PROXY_UNITS`` gives, None when there is no Pod."""
    found = transparent(lens, name) if kind.endswith("transparent") else sidecar(lens, name)
    return _older(found) if found is not None and kind.startswith("older-") else found


def _older(found: Sidecar) -> Sidecar:
    """Return the same for an Envoy that takes no filters from routes."""
    routes = tuple(table for one in found.routes for table in routes_of((replace(one.port, is_older=True),)))
    return replace(found, listeners=tuple(map(_guarded, found.listeners)), routes=routes)


def _guarded(node: ir.Listener) -> ir.Listener:
    match node:
        case ir.Inbound():
            return replace(node, is_older=True)
        case ir.Intercepted():
            return replace(node, ports=tuple(replace(port, is_older=True) for port in node.ports))
        case _:
            return node
