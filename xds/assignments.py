"""Load assignments of services, past the compiler: slices to chunks to bytes, each chunk framed once.

It owns the cache of chunks and must never serve one whose slice or Pods have changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from xds.api.core import EndpointSlice, Labels, Service
from xds.compile.clusters import Shape
from xds.hosts import Name, host_of
from xds.places import Place, layer_of
from xds.resources import endpoint, names
from xds.snapshot import ResourceType
from xds.sources.store import Change
from xds.world import Topic, World

Selectors = Mapping[str, tuple[tuple[str, Labels], ...]]
"""The subsets of a service, name and labels, as each namespace sees them; "" is everybody else."""

UNSHAPED: Selectors = {"": ()}
"""A service that no rule tells anything of."""

EVERYTHING: tuple[tuple[str, Labels], ...] = (("", ()),)
"""The service itself: no subset, every endpoint."""


_Wanted = tuple[tuple[Place, str, Labels], ...]
"""The load assignments of a service: where each stands, the port's name, and the subset's labels."""

_Chunks = dict[str, tuple[EndpointSlice, endpoint.Chunk | None]]
"""Chunks by the slice's name, each beside the slice that it was made from: another of that name makes it stale."""


@dataclass(slots=True)
class _Held:
    """What is kept of one service."""

    service: Service | None = None
    selectors: Selectors = field(default_factory=dict[str, tuple[tuple[str, Labels], ...]])
    wanted: _Wanted = ()
    """What these two ask for, which is the same however often endpoints change."""
    chunks: dict[tuple[str, Labels], _Chunks] = field(default_factory=dict[tuple[str, Labels], _Chunks])
    """By port and labels."""
    disjoint: dict[tuple[str, Labels], list[endpoint.Chunk]] = field(
        default_factory=dict[tuple[str, Labels], list[endpoint.Chunk]]
    )
    """By port and labels, the last chunks that share no address, where there are several."""


class Assignments:
    """The load assignments of all services, from the world's slices."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._frames = endpoint.Frames()
        self._held: dict[Name, _Held] = {}

    def build(self, service: Name, selectors: Selectors) -> dict[Place, bytes]:
        """Return the load assignments of a service by their places."""
        found = self._world.service(service)
        if found is None or found.external_name:
            return {}
        held = self._held.get(service)
        if held is None:
            held = self._held[service] = _Held()
        if held.service is not found or held.selectors is not selectors:
            held.service, held.selectors, held.wanted = found, selectors, _wanted(found, selectors)
        slices = self._world.slices(service)
        return {
            place: self._build(held, place[2], slices, port, labels) for place, port, labels in held.wanted
        }

    def forget(self, touched: Iterable[Topic], change: Change | None) -> None:
        """Drop the chunks of a slice that is gone; of a service whose Pods changed, all of them."""
        if change is None or change.key.kind != "EndpointSlice":
            for topic in touched:
                if topic[0] == "endpoints":
                    self.drop((topic[1], topic[2]))
            return
        old, new = change.old, change.new
        if isinstance(old, EndpointSlice) and not (
            isinstance(new, EndpointSlice) and new.service == old.service
        ):
            held = self._held.get((old.meta.namespace, old.service), _Held())
            held.disjoint.clear()
            for chunks in held.chunks.values():
                chunks.pop(old.meta.name, None)

    def drop(self, service: Name) -> None:
        """Drop all chunks of a service."""
        self._held.pop(service, None)

    def _build(self, held: _Held, name: str, slices: list[EndpointSlice], port: str, labels: Labels) -> bytes:
        known = held.chunks.setdefault((port, labels), {})
        for found in slices:
            before = known.get(found.meta.name)
            if before is None:
                chunk = self._frames.chunk(found, port, labels, self._world.backend)
                known[found.meta.name] = (found, chunk)
            elif before[0] is not found:
                chunk = self._frames.patch(before[1], before[0], found, port, labels, self._world.backend)
                known[found.meta.name] = (found, chunk)
        every = [known[found.meta.name][1] for found in slices]
        chunks = [chunk for chunk in every if chunk is not None]
        if len(chunks) < 2:
            return endpoint.build(name, chunks, are_disjoint=True)
        last = held.disjoint.pop((port, labels), [])
        are_disjoint = _stay_disjoint(last, chunks) or not endpoint.overlap(chunks)
        if are_disjoint:
            held.disjoint[port, labels] = chunks
        return endpoint.build(name, chunks, are_disjoint=are_disjoint)


def _wanted(service: Service, selectors: Selectors) -> _Wanted:
    """Return the load assignments of a service: of every port, and of its subsets as each namespace sees them."""
    host = host_of(service.meta.namespace, service.meta.name)
    out: list[tuple[Place, str, Labels]] = []
    for port in service.ports:
        for namespace, subsets in selectors.items():
            # Where everybody sees the service, its own assignment is everybody's.
            is_first = not namespace or "" not in selectors
            for subset, labels in (*EVERYTHING, *subsets) if is_first else subsets:
                name = names.cluster(port.port, subset, host)
                out.append(((layer_of(namespace), ResourceType.ENDPOINTS, name), port.name, labels))
    return tuple(out)


def _stay_disjoint(before: list[endpoint.Chunk], now: list[endpoint.Chunk]) -> bool:
    """Tell whether chunks share no address, given that those before shared none: where one of them is new."""
    if len(before) != len(now):
        return False
    differing = [i for i, (old, new) in enumerate(zip(before, now, strict=True)) if old is not new]
    if len(differing) != 1:
        return False
    (index,) = differing
    if before[index].port != now[index].port:
        return False
    came = now[index].addresses - before[index].addresses
    return all(came.isdisjoint(other.addresses) for other in now if other is not now[index])


def selectors(shapes: Mapping[str, Shape]) -> Selectors:
    """Return the part of the shapes that endpoints depend on."""
    return {
        namespace: tuple((s.name, s.labels) for s in shape.subsets) for namespace, shape in shapes.items()
    }
