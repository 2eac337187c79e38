"""Load assignments of services, past the compiler: slices to chunks to bytes, each chunk framed once.

It owns the cache of chunks and must never serve one whose slice or Pods have changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from xds.api.core import EndpointSlice, Labels
from xds.compile.clusters import Shape
from xds.hosts import Name, host_of
from xds.resources import endpoint, names
from xds.sources.store import Change
from xds.world import Topic, World

Selectors = Mapping[str, tuple[tuple[str, Labels], ...]]
"""The subsets of a service, name and labels, as each namespace sees them; "" is everybody else."""

UNSHAPED: Selectors = {"": ()}
"""A service that no rule tells anything of."""

EVERYTHING: tuple[tuple[str, Labels], ...] = (("", ()),)
"""The service itself: no subset, every endpoint."""


_Key = tuple[str, str, Labels]
"""What a chunk is of: the slice's name, the port's name, and the subset's labels."""


@dataclass(slots=True)
class _Held:
    """What is kept of one service."""

    chunks: dict[_Key, tuple[EndpointSlice, endpoint.Chunk | None]] = field(
        default_factory=dict[_Key, tuple[EndpointSlice, endpoint.Chunk | None]]
    )
    """Each chunk beside the slice that it was made from: another slice of that name makes it stale."""
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

    def build(self, service: Name, selectors: Selectors) -> dict[tuple[str, str], bytes]:
        """Return the load assignment of each (namespace, cluster): every port, and its subsets."""
        found = self._world.service(service)
        if found is None or found.external_name:
            return {}
        host = host_of(*service)
        slices = self._world.slices(service)
        held = self._held.setdefault(service, _Held())
        out: dict[tuple[str, str], bytes] = {}
        for port in found.ports:
            for namespace, subsets in selectors.items():
                # Where everybody sees the service, its own assignment is everybody's.
                is_first = not namespace or "" not in selectors
                for subset, labels in (*EVERYTHING, *subsets) if is_first else subsets:
                    name = names.cluster(port.port, subset, host)
                    out[namespace, name] = self._build(held, name, slices, port.name, labels)
        return out

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
            for key in [key for key in held.chunks if key[0] == old.meta.name]:
                del held.chunks[key]

    def drop(self, service: Name) -> None:
        """Drop all chunks of a service."""
        self._held.pop(service, None)

    def _build(self, held: _Held, name: str, slices: list[EndpointSlice], port: str, labels: Labels) -> bytes:
        found = [self._chunk(held, one, port, labels) for one in slices]
        chunks = [chunk for chunk in found if chunk is not None]
        if len(chunks) < 2:
            return endpoint.build(name, chunks, are_disjoint=True)
        before = held.disjoint.pop((port, labels), [])
        are_disjoint = _stay_disjoint(before, chunks) or not endpoint.overlap(chunks)
        if are_disjoint:
            held.disjoint[port, labels] = chunks
        return endpoint.build(name, chunks, are_disjoint=are_disjoint)

    def _chunk(self, held: _Held, found: EndpointSlice, port: str, labels: Labels) -> endpoint.Chunk | None:
        key = (found.meta.name, port, labels)
        known = held.chunks.get(key)
        if known is not None and known[0] is found:
            return known[1]
        backend = self._world.backend
        if known is None:
            chunk = self._frames.chunk(found, port, labels, backend)
        else:
            chunk = self._frames.patch(known[1], known[0], found, port, labels, backend)
        held.chunks[key] = (found, chunk)
        return chunk


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
