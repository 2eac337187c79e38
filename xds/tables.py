"""Route tables: one for each class of clients or calling workload, joined from framed parts.

It owns the frames, the order of the join and the count of which clusters routes use. It must
never compile: it is given IR and says what it holds.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable, Iterable, KeysView, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from xds import ir
from xds.compile.hosts import Client
from xds.compile.outbound import Caller
from xds.features.mirror import Mirror
from xds.resources import destinations, names, route
from xds.snapshot import ResourceType, Snapshot

Unit = tuple[str, ...]

Reader = TypeVar("Reader", Client, Caller)
"""Who shares a table."""

Part = TypeVar("Part", ir.VirtualHost, ir.Rules)
"""What a table is joined from."""


@dataclass(frozen=True, slots=True)
class Form(Generic[Part]):
    """How a table is built: a part to a frame, and frames to a RouteConfiguration."""

    frame: Callable[[Part], bytes]
    join: Callable[[str, Sequence[bytes]], bytes]


BY_HOST = Form(route.build_virtual_host, route.build_table)
"""The Host chooses."""

BY_DESTINATION = Form(destinations.build_rules, destinations.build_destinations)
"""The dialled address chooses."""


@dataclass(slots=True)
class _Table(Generic[Part]):
    """The parts of one table, by the unit that gave them."""

    parts: dict[Unit, tuple[Part, ...]] = field(default_factory=dict[Unit, tuple[Part, ...]])
    frames: dict[Unit, bytes] = field(default_factory=dict[Unit, bytes])
    order: list[Unit] = field(default_factory=list[Unit])


class Tables(Generic[Reader, Part]):
    """All route tables of one form in use."""

    def __init__(self, form: Form[Part]) -> None:
        self._form = form
        self._tables: dict[Reader, _Table[Part]] = {}
        self._by_layer: dict[str, Reader] = {}
        self._frames: dict[Part, tuple[bytes, int]] = {}
        self._uses: Counter[str] = Counter()
        self._dirty: set[Reader] = set()

    @property
    def are_dirty(self) -> bool:
        """Whether a table has changed since the last flush."""
        return bool(self._dirty)

    def open(self, client: Reader) -> bool:
        """Begin the table of a class; False when it exists already."""
        if client in self._tables:
            return False
        self._tables[client] = _Table[Part]()
        self._by_layer[client.layer] = client
        self._dirty.add(client)
        return True

    def close(self, client: Reader) -> None:
        """End the table of a class whose units have given their hosts back."""
        del self._tables[client], self._by_layer[client.layer]
        self._dirty.discard(client)

    def clients(self) -> KeysView[Reader]:
        """Return every class that has a table."""
        return self._tables.keys()

    def client(self, layer: str) -> Reader:
        """Return the class of a layer."""
        return self._by_layer[layer]

    def clusters(self, client: Reader, units: Iterable[Unit] | None = None) -> set[str]:
        """Return every cluster that the routes of a table name, or those that came from some units."""
        parts = self._tables[client].parts
        chosen = parts if units is None else [unit for unit in units if unit in parts]
        return {cluster for unit in chosen for part in parts[unit] for cluster in _clusters(part)}

    def mirrors(self, client: Reader, units: Iterable[Unit]) -> set[str]:
        """Return the clusters to which routes from some units send copies."""
        parts = self._tables[client].parts
        return {cluster for unit in units for part in parts.get(unit, ()) for cluster in _mirrors(part)}

    def has(self, client: Reader, unit: Unit) -> bool:
        """Tell whether a unit gives anything to a table."""
        return unit in self._tables[client].parts

    def uses(self, cluster: str) -> bool:
        """Tell whether a route in some table names this cluster."""
        return cluster in self._uses

    def put(self, client: Reader, unit: Unit, parts: Iterable[Part]) -> None:
        """Replace what one unit gives to a table; an equal result changes nothing."""
        table = self._tables[client]
        new = tuple(parts)
        old = table.parts.get(unit, ())
        if new == old:
            return
        for host in new:
            self._uses.update(_clusters(host))
        for host in old:
            self._release(_clusters(host))
        if not new:
            del table.parts[unit], table.frames[unit]
            del table.order[bisect_left(table.order, unit)]
        else:
            if unit not in table.parts:
                insort(table.order, unit)
            table.parts[unit] = new
            table.frames[unit] = b"".join(self._frame(host) for host in new)
        for host in old:
            self._unframe(host)
        self._dirty.add(client)

    def flush(self, snapshot: Snapshot, cause: tuple[str, ...]) -> list[str]:
        """Put every table that changed into the snapshot; return the layers that differ."""
        changed: list[str] = []
        if not self._dirty:
            return changed
        for client in sorted(self._dirty, key=lambda c: c.layer):
            table = self._tables[client]
            body = self._form.join(names.OUTBOUND, [table.frames[unit] for unit in table.order])
            if snapshot.put(client.layer, ResourceType.ROUTES, names.OUTBOUND, body, cause=cause):
                changed.append(client.layer)
        self._dirty.clear()
        return changed

    def _release(self, clusters: list[str]) -> None:
        for cluster in clusters:
            self._uses[cluster] -= 1
            if not self._uses[cluster]:
                del self._uses[cluster]

    def _frame(self, host: Part) -> bytes:
        """Return a virtual host's bytes, built once however many tables hold it."""
        frame, holders = self._frames.get(host) or (self._form.frame(host), 0)
        self._frames[host] = (frame, holders + 1)
        return frame

    def _unframe(self, host: Part) -> None:
        frame, holders = self._frames[host]
        if holders > 1:
            self._frames[host] = (frame, holders - 1)
        else:
            del self._frames[host]


def _clusters(host: ir.VirtualHost | ir.Rules) -> list[str]:
    """Return every cluster that a virtual host's routes name, mirrors among them."""
    out: list[str] = []
    for found in host.routes:
        if isinstance(found.action, ir.Forward):
            out += [destination.cluster for destination in found.action.destinations]
    return out + _mirrors(host)


def _mirrors(host: ir.VirtualHost | ir.Rules) -> list[str]:
    features = (feature for found in host.routes for feature in found.features)
    return [feature.cluster for feature in features if isinstance(feature, Mirror)]
