"""How each namespace sees each Service, and the subsets that stay because routes still use them.

It owns the last shapes of every Service, by which a subset that no rule names any more is known; it must never
decide whether a route may name a subset.
"""

from __future__ import annotations

from collections.abc import Callable

from xds.api.istio_traffic import Subset
from xds.assignments import UNSHAPED, Selectors, selectors
from xds.compile.clusters import Shape, exported, shapes
from xds.compile.lens import Lens
from xds.hosts import Name, host_of
from xds.resources import names
from xds.tables import Unit
from xds.world import World


class Subsets:
    """The shapes in force; ``uses`` tells whether some route names a cluster."""

    def __init__(self, world: World, uses: Callable[[str], bool]) -> None:
        self._world = world
        self._uses = uses
        self._shapes: dict[Name, dict[str, Shape]] = {}
        self._selectors: dict[Name, Selectors] = {}
        self._held: dict[Name, frozenset[str]] = {}

    def selectors(self, service: Name) -> Selectors:
        """Return what of a Service's shapes its endpoints depend on."""
        return self._selectors.get(service, UNSHAPED)

    def shape(self, lens: Lens, service: Name) -> tuple[dict[str, Shape], bool]:
        """Return how each namespace sees a Service now, and whether that makes other endpoints than before.

        Subsets that no rule names any more stay while routes in force use them: make before break.
        """
        found = lens.service(service)
        held = self._hold(lens, service)
        now = exported(found, shapes(lens, service, held)) if found else {}
        before, after = self._selectors.get(service), selectors(now)
        self._shapes[service], self._selectors[service] = now, after
        return now, before != after

    def drop(self, service: Name) -> None:
        """Forget a Service that is gone."""
        for kept in (self._shapes, self._selectors, self._held):
            kept.pop(service, None)

    def released(self) -> set[Unit]:
        """Return the units of Services that may let go of subsets which were held only for routes."""
        return {
            ("clusters", *service)
            for service, subsets in self._held.items()
            if not all(self._is_used(service, subset) for subset in subsets)
        }

    def _hold(self, lens: Lens, service: Name) -> dict[str, Subset]:
        """Return the subsets that no rule names any more while routes in force still use them."""
        before = self._shapes.get(service, {})
        named = {s.name for shape in shapes(lens, service, {}).values() for s in shape.subsets}
        gone = {s.name: s for shape in before.values() for s in shape.subsets if s.name not in named}
        held = {name: subset for name, subset in gone.items() if self._is_used(service, name)}
        if held:
            self._held[service] = frozenset(held)
        else:
            self._held.pop(service, None)
        return held

    def _is_used(self, service: Name, subset: str) -> bool:
        found = self._world.service(service)
        host = host_of(*service)
        return found is not None and any(
            self._uses(names.cluster(port.port, subset, host)) for port in found.ports
        )
