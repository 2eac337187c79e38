"""Which Telemetry objects hold for a workload: the root namespace's, its namespace's, and one that selects it.

It owns the index of these objects and their order; it must never know what they say.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Final

from xds.api.core import Labels, selects
from xds.api.istio_telemetry import Telemetry
from xds.hosts import Name, age
from xds.topics import Topic

Chain = tuple[Telemetry, ...]
"""What holds for a workload, the widest first: each refines those before it."""


class Telemetries:
    """All Telemetry objects, by namespace."""

    KIND: Final = "Telemetry"

    def __init__(self) -> None:
        self._in: defaultdict[str, dict[str, Telemetry]] = defaultdict(dict)

    def get(self, name: Name) -> Telemetry | None:
        """Return one object."""
        return self._in.get(name[0], {}).get(name[1])

    def of(self, namespace: str) -> list[Telemetry]:
        """Return the objects of a namespace, oldest first."""
        return sorted(self._in.get(namespace, {}).values(), key=age)

    def selecting(self, namespace: str, labels: Labels) -> Telemetry | None:
        """Return the oldest object that selects Pods with these labels, None where none does."""
        usable = (found for found in self.of(namespace) if found.selector and not found.is_for_gateways)
        return next((found for found in usable if selects(found.selector, labels)), None)

    def chain(self, namespace: str, root: str, selecting: Telemetry | None) -> Chain:
        """Return what holds for workloads of a namespace that one object (None: none) selects."""
        wide = [self._wide(name) for name in dict.fromkeys((root, namespace))]
        return tuple(found for found in (*wide, selecting) if found is not None)

    def take(self, name: Name, old: object, new: object) -> set[Topic]:
        """Take one change of an object; return the topics it touches."""
        del old
        if isinstance(new, Telemetry):
            self._in[name[0]][name[1]] = new
        else:
            self._in[name[0]].pop(name[1], None)
            if not self._in[name[0]]:
                del self._in[name[0]]
        return {("telemetry", *name), ("telemetries", name[0])}

    def _wide(self, namespace: str) -> Telemetry | None:
        usable = (found for found in self.of(namespace) if not found.selector and not found.is_for_gateways)
        return next(usable, None)
