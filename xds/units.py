"""Units of compilation: the kinds that there are, the order in which they run, and which an object begins.

It owns only these tables; it must never compile, nor know what a unit gave.
"""

from __future__ import annotations

from collections.abc import Iterable

from xds.api.core import Key
from xds.hosts import Name
from xds.tables import Unit

ORDER = {
    "check": 0,
    "policy": 0,
    "authorization": 0,
    "authentication": 0,
    "entry": 0,
    "reach": 0,
    "limit": 0,
    "telemetry": 0,
    "fault": 0,
    "external": 1,
    "clusters": 2,
    "endpoints": 3,
    "sidecar": 4,
    "transparent": 4,
    "older-sidecar": 4,
    "older-transparent": 4,
    "demand": 4,
    "caller": 4,
    "vhosts": 5,
    "rules": 5,
    "foreign": 6,
}
"""Checks decide what is in force, so they run first; the others follow make-before-break. An entry lets go of a host
before the Service that has it now takes its clusters' names."""

PROXY_LAYERS = {
    "sidecar": "proxy",
    "transparent": "transparent",
    "older-sidecar": "older-proxy",
    "older-transparent": "older-transparent",
}
"""Units of one proxy each, as (kind, namespace, pod), one for each form of its listeners that somebody sees: by kind,
how the layer of their results begins."""

PROXY_UNITS = frozenset(PROXY_LAYERS)


TABLE_UNITS = frozenset({"vhosts", "foreign", "caller", "rules"})
"""Units of one route table each, or of who shares one, as (kind, layer, …): they end with their layer."""


_OF_KIND = {
    "VirtualService": "check",
    "PeerAuthentication": "policy",
    "ServiceEntry": "entry",
    "Sidecar": "reach",
    "RateLimit": "limit",
    "Telemetry": "telemetry",
    "Fault": "fault",
    "AuthorizationPolicy": "authorization",
    "RequestAuthentication": "authentication",
}
"""The one unit that an object of a kind begins, where it is one."""


def proxy_unit(pod: Name, *, transparent: bool, older: bool) -> Unit:
    """Return the unit of a Pod's proxy in the form of its listeners."""
    return (f"{'older-' if older else ''}{'transparent' if transparent else 'sidecar'}", *pod)


def proxy_layer(unit: Unit) -> str:
    """Return the layer of what only one Pod's proxy sees, in the form of a unit of ``PROXY_UNITS``."""
    kind, namespace, name = unit
    return f"{PROXY_LAYERS[kind]}/{namespace}/{name}"


def units_of(key: Key, layers: Iterable[str]) -> list[Unit]:
    """Return the units that an object begins and that end with it; ``layers`` are those of the route tables in use."""
    name = (key.namespace, key.name)
    if key.kind == "Service":
        return [("clusters", *name), ("endpoints", *name), *(("vhosts", layer, *name) for layer in layers)]
    return [(unit, *name)] if (unit := _OF_KIND.get(key.kind)) else []
