"""EndpointSlices to ClusterLoadAssignment bytes: the hot path, framed by hand and joined from cached chunks.

A chunk is what one slice gives to one cluster; a changed slice costs its own chunk and one
join. Building the same message through protobuf costs two orders of magnitude more
(``benchmarks/``, building). It must never give anything but what protobuf would have given; a
property test holds it to that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet

import msgspec

from xds.api.core import Endpoint, EndpointSlice, Labels, selects
from xds.backend import NOBODY, Backend
from xds.pb.envoy.config.core.v3 import base_pb2
from xds.slices import edits
from xds.wire import field, varint

MTLS_MATCH = "envoy.transport_socket_match"
"""Filter metadata that selects a cluster's transport socket for one endpoint (Envoy's own key)."""

ZONES = dict[str, bytes]
"""Framed LbEndpoints, joined, by zone ("" where none is known)."""


_Group = tuple[str, bool]
"""A zone, and whether its endpoints are ready; the others are draining."""


class Pieces(msgspec.Struct, frozen=True, gc=False):
    """What a slice's zones are joined from: here a change of one endpoint can be patched in."""

    groups: list[_Group | None]
    """The group of each endpoint of the slice; None: it is in no zone."""
    framed: dict[_Group, list[list[bytes]]]
    """Three pieces for each endpoint of a group, in the slice's order; of draining ones also as the last resort."""

    @property
    def size(self) -> int:
        """The number of endpoints that are in a zone."""
        return sum([len(lists[0]) for lists in self.framed.values()]) // 3

    def copy(self) -> Pieces:
        """Return what can be changed without changing this."""
        framed = {group: [found.copy() for found in lists] for group, lists in self.framed.items()}
        return Pieces(self.groups.copy(), framed)

    def replace(self, gone: slice, other: Pieces) -> None:
        """Put the pieces of other endpoints in the place of some."""
        before, here = self.groups[: gone.start], self.groups[gone]
        for group in {*here, *other.groups}:
            if group is None:
                continue
            mine, theirs = self.framed.get(group), other.framed.get(group, _NO_PIECES)
            if mine is None:
                self.framed[group] = theirs
                continue
            first = 3 * before.count(group)
            last = first + 3 * here.count(group)
            for old, new in zip(mine, theirs, strict=False):
                old[first:last] = new
            if not mine[0]:
                del self.framed[group]
        self.groups[gone] = other.groups


_NO_PIECES: list[list[bytes]] = [[], []]
"""What a group gains where nothing of it came."""


class Chunk(msgspec.Struct, frozen=True, gc=False):
    """The endpoints that one slice gives to one cluster, all on one port.

    ``last_resort`` are the draining ones as if healthy: used when a service has no other, so that
    a rollout which ends every Pod at once still answers (Kubernetes' ``serving`` condition).
    """

    port: int
    addresses: AbstractSet[str]
    ready: ZONES
    draining: ZONES
    last_resort: ZONES
    pieces: Pieces | None = None
    """What the zones were joined from, where the slice is large and has no address twice."""


PATCHED_FROM = 16
"""Endpoints from which a slice keeps its pieces (75 bytes each): below, framing all costs no more than a patch."""


class _Style:
    """What all endpoints of one workload on one port share: the bytes after the address, and before it by its size."""

    __slots__ = ("_after", "_before", "_fixed")

    def __init__(self, health: bytes, port: bytes, metadata: bytes) -> None:
        self._after = b"".join((port, health, metadata))
        self._before: dict[int, bytes] = {}
        self._fixed = len(port), len(health) + len(metadata)

    def pieces(self, address: str) -> tuple[bytes, bytes, bytes]:
        """Return an endpoint's bytes: before its address, the address, after it."""
        text = address.encode()
        size = len(text)
        return self._before.get(size) or self._frame(size), text, self._after

    def _frame(self, size: int) -> bytes:
        """Return the tags and lengths before an address of so many bytes.

        ``lb_endpoints (2) { endpoint (1) { address (1) { socket_address (1) { address (2), port_value }}}}``.
        """
        port, rest = self._fixed
        tags = b"\x12" + varint(size)
        length = len(tags) + size + port
        for tag in (b"\x0a", b"\x0a", b"\x0a"):
            wrapped = tag + varint(length)
            tags = wrapped + tags
            length += len(wrapped)
        self._before[size] = framed = b"\x12" + varint(length + rest) + tags
        return framed


class Frames:
    """The bytes that endpoints share, by workload and port."""

    __slots__ = ("_groups", "_styles")

    def __init__(self) -> None:
        self._groups: dict[_Group, _Group] = {}
        self._styles: dict[tuple[str, str, bool, int, bytes], _Style] = {}

    def chunk(
        self,
        found: EndpointSlice,
        port_name: str,
        selector: Labels,
        backend_of: Callable[[tuple[str, str]], Backend],
    ) -> Chunk | None:
        """Return one slice's endpoints on the named port, of Pods that carry the labels; None: it has no such port."""
        port = next((p.port for p in found.ports if p.name == port_name), None)
        if port is None:
            return None
        pieces, addresses = self._frame(found, found.endpoints, port, selector, backend_of)
        return _chunk(port, set(addresses), pieces)

    def patch(  # noqa: PLR0913, PLR0917 -- `chunk` and what it was made from
        self,
        before: Chunk | None,
        old: EndpointSlice,
        new: EndpointSlice,
        port_name: str,
        selector: Labels,
        backend_of: Callable[[tuple[str, str]], Backend],
    ) -> Chunk | None:
        """Return what ``chunk`` returns for a slice that replaces an old one; costs what differs if it can."""
        if before is None or before.pieces is None or old.ports != new.ports:
            return self.chunk(new, port_name, selector, backend_of)
        pieces, addresses = before.pieces.copy(), set(before.addresses)
        came: list[str] = []
        # By identity: the store shares equal endpoints between versions of a slice.
        # From the last to the first: the places before an edit stay what they are.
        for there, here in reversed(edits(old.endpoints, new.endpoints)):
            other, addressed = self._frame(new, new.endpoints[here], before.port, selector, backend_of)
            addresses.difference_update([endpoint.address for endpoint in old.endpoints[there]])
            came += addressed
            pieces.replace(there, other)
        addresses.update(came)
        if len(addresses) != pieces.size:
            return self.chunk(new, port_name, selector, backend_of)  # an address stands twice in the slice
        return _chunk(before.port, addresses, pieces)

    def _frame(
        self,
        found: EndpointSlice,
        endpoints: tuple[Endpoint, ...],
        port: int,
        selector: Labels,
        backend_of: Callable[[tuple[str, str]], Backend],
    ) -> tuple[Pieces, list[str]]:
        """Return the pieces of some of a slice's endpoints, and the addresses of those that are in a zone."""
        namespace, known = found.meta.namespace, self._groups
        groups: list[_Group | None] = []
        framed: dict[_Group, list[list[bytes]]] = {}
        addresses: list[str] = []
        group, parts = None, _NO_PIECES
        pod, backend, style = None, NOBODY, None
        for endpoint in endpoints:
            is_ready = endpoint.ready
            if not (is_ready or endpoint.serving):
                groups.append(None)
                continue
            if style is None or endpoint.pod != pod:
                pod = endpoint.pod
                found_backend = backend_of((namespace, pod))
                if style is None or found_backend is not backend:
                    backend = found_backend
                    style = self._style(backend, port)
            if selector and not selects(selector, backend.labels):
                groups.append(None)
                continue
            address = endpoint.address
            addresses.append(address)
            zone = endpoint.zone or backend.zone
            if group is None or group[0] != zone or group[1] is not is_ready:
                group = (zone, is_ready)
                group = known.setdefault(group, group)
                parts = framed.setdefault(group, [[]] if is_ready else [[], []])
            groups.append(group)
            if is_ready:
                parts[0] += style.pieces(address)
            else:
                parts[0].extend(self._style(backend, port, DRAINING).pieces(address))
                parts[1].extend(style.pieces(address))
        return Pieces(groups, framed), addresses

    def _style(self, backend: Backend, port: int, health: bytes = b"") -> _Style:
        takes_mtls = backend.takes_mtls(port)
        key = (backend.workload, backend.namespace, takes_mtls, port, health)
        known = self._styles.get(key)
        if known is None:
            metadata = _metadata(backend.namespace, backend.workload, takes_mtls)
            known = self._styles[key] = _Style(health, b"\x18" + varint(port), metadata)
        return known


DRAINING = b"\x10\x03"
"""``health_status: DRAINING`` (field 2): no new connection, the old ones end by themselves."""


def build(name: str, chunks: Iterable[Chunk], *, are_disjoint: bool = False) -> bytes:
    """Return the ClusterLoadAssignment of a cluster from the chunks of its slices, copying each chunk once.

    ``are_disjoint``: the caller knows that no address stands in two chunks.
    """
    found = list(chunks)
    if not are_disjoint and overlap(found):
        found = _distinct(found)
    any_ready = any(chunk.ready for chunk in found)
    zones: dict[str, list[bytes]] = {}
    for chunk in found:
        for part in (chunk.ready, chunk.draining) if any_ready else (chunk.last_resort,):
            for zone, endpoints in part.items():
                zones.setdefault(zone, []).append(endpoints)
    parts = [field(1, name.encode())]
    for zone in sorted(zones):
        locality = field(1, field(2, zone.encode())) if zone else b""
        endpoints = zones[zone]
        parts += (b"\x12", varint(len(locality) + sum(map(len, endpoints))), locality, *endpoints)
    return b"".join(parts)


def _metadata(namespace: str, workload: str, mtls: bool) -> bytes:  # noqa: FBT001 -- a cache key's part
    """Frame the endpoint's metadata (field 3): who it is, and whether it takes mutual TLS."""
    metadata = base_pb2.Metadata()
    if workload:
        metadata.filter_metadata["proa"].update({"workload": workload, "namespace": namespace})
    if mtls:
        metadata.filter_metadata[MTLS_MATCH].update({"tls": "mesh"})
    body = metadata.SerializeToString(deterministic=True)
    return field(3, body) if body else b""


def _chunk(port: int, addresses: set[str], pieces: Pieces) -> Chunk:
    ready: ZONES = {}
    draining: ZONES = {}
    last_resort: ZONES = {}
    for (zone, is_ready), lists in pieces.framed.items():
        if is_ready:
            ready[zone] = b"".join(lists[0])
        else:
            draining[zone], last_resort[zone] = map(b"".join, lists)
    is_kept = len(pieces.groups) >= PATCHED_FROM and len(addresses) == pieces.size
    return Chunk(port, addresses, ready, draining, last_resort, pieces if is_kept else None)


def overlap(chunks: Sequence[Chunk]) -> bool:
    """Tell whether an address on a port stands in two chunks."""
    by_port: dict[int, list[AbstractSet[str]]] = {}
    for chunk in chunks:
        by_port.setdefault(chunk.port, []).append(chunk.addresses)
    return any(
        len(set[str]().union(*found)) != sum(map(len, found)) for found in by_port.values() if len(found) > 1
    )


def _distinct(chunks: list[Chunk]) -> list[Chunk]:
    """Leave out slices whose addresses all stand in an earlier one: endpoints that are moving between slices.

    Kubernetes says that an endpoint may stand in two slices for a moment; Envoy takes the
    same host twice as two hosts of one address, which is harmless, so a partly overlapping
    slice is kept whole.
    """
    seen: dict[int, set[str]] = {}
    out: list[Chunk] = []
    for chunk in chunks:
        earlier = seen.setdefault(chunk.port, set())
        if not chunk.addresses <= earlier:
            out.append(chunk)
        earlier |= chunk.addresses
    return out
