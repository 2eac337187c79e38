"""Which proxies a change concerns, where the topics that they read say too much or too little.

It owns these rules; it must never compile, nor change a view.
"""

from __future__ import annotations

from collections.abc import Iterable

from xds.api.core import Service, selects
from xds.hosts import Name
from xds.reads import Reads
from xds.sources.store import Change
from xds.tables import Unit
from xds.units import PROXY_UNITS
from xds.world import Topic, World


def proxies(units: Iterable[Unit]) -> set[Name]:
    """Return the Pods whose proxies somebody sees."""
    return {(unit[1], unit[2]) for unit in units if unit[0] in PROXY_UNITS}


def selected(change: Change, reads: Reads, world: World) -> set[Unit]:
    """Return the units of the Pods that a Service selected, or selects now."""
    selectors = [s.selector for s in (change.old, change.new) if isinstance(s, Service) and s.selector]
    asked = reads.of([("selecting", change.key.namespace)])
    pods = ((unit, world.pod((unit[1], unit[2]))) for unit in asked)
    return {
        unit
        for unit, pod in pods
        if unit[0] == "demand"  # of a Pod's address
        or (pod is not None and any(selects(selector, pod.meta.labels) for selector in selectors))
    }


def under_sidecars(touched: set[Topic], reads: Reads, world: World) -> set[Name]:
    """Return the Pods whose Sidecar, or Telemetry, may be another one."""
    namespaces = {topic[1] for topic in touched if topic[0] in {"sidecars", "telemetries"}}
    if not namespaces:
        return set()
    is_mesh_wide = world.settings.root_namespace in namespaces
    return {pod for pod in proxies(reads) if is_mesh_wide or pod[0] in namespaces}
