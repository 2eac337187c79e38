"""EndpointSlices to ClusterLoadAssignment bytes: the hot path, framed by hand and joined from cached chunks.

A chunk is what one slice gives to one cluster; a changed slice costs its own chunk and one
join. Building the same message through protobuf costs two orders of magnitude more
(``benchmarks/``, building). It must never give anything but what protobuf would have given; a
property test holds it to that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from itertools import compress, count
from operator import is_not

import msgspec

from xds.api.core import EndpointSlice, Labels, selects
from xds.backend import NOBODY, Backend
from xds.pb.envoy.config.core.v3 import base_pb2
from xds.wire import field, varint

MTLS_MATCH = "envoy.transport_socket_match"
"""Filter metadata that selects a cluster's transport socket for one endpoint (Envoy's own key)."""

ZONES = dict[str, bytes]
"""Framed LbEndpoints, joined, by zone ("" where none is known)."""


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
    pieces: Sequence[bytes] = ()
    """What ``ready`` was joined from, three pieces an endpoint, where a change can be patched in: every
    endpoint of the slice is here, ready, and in one zone; and the slice is large."""


PATCHED_FROM = 8
"""Endpoints from which a slice keeps its pieces (67 bytes each): below, framing all costs no more than a patch."""


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

    __slots__ = ("_styles",)

    def __init__(self) -> None:
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
        namespace = found.meta.namespace
        ready: dict[str, list[bytes]] = {}
        draining: dict[str, list[bytes]] = {}
        last: dict[str, list[bytes]] = {}
        addresses: list[str] = []
        pod, backend = None, NOBODY
        style = self._style(backend, port)
        for endpoint in found.endpoints:
            is_ready = endpoint.ready
            if not (is_ready or endpoint.serving):
                continue
            if endpoint.pod != pod:
                pod = endpoint.pod
                found_backend = backend_of((namespace, pod))
                if found_backend is not backend:
                    backend = found_backend
                    style = self._style(backend, port)
            if selector and not selects(selector, backend.labels):
                continue
            address = endpoint.address
            addresses.append(address)
            parts = style.pieces(address)
            where = endpoint.zone or backend.zone
            if is_ready:
                zone = ready.get(where)
                if zone is None:
                    zone = ready[where] = []
                zone += parts
            else:
                last.setdefault(where, []).extend(parts)
                drained = self._style(backend, port, DRAINING)
                draining.setdefault(where, []).extend(drained.pieces(address))
        pieces: Sequence[bytes] = ()
        if PATCHED_FROM <= len(found.endpoints) == len(addresses) and len(ready) == 1 and not last:
            (pieces,) = ready.values()
        return Chunk(port, set(addresses), _joined(ready), _joined(draining), _joined(last), pieces)

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
        is_alike = old.ports == new.ports and len(old.endpoints) == len(new.endpoints)
        if before is None or not before.pieces or not is_alike:
            return self.chunk(new, port_name, selector, backend_of)
        (zone,) = before.ready
        pieces = list(before.pieces)
        came: list[str] = []
        gone: list[str] = []
        # By identity: the store shares equal endpoints between versions of a slice.
        for i in compress(count(), map(is_not, old.endpoints, new.endpoints)):
            endpoint = new.endpoints[i]
            backend = backend_of((new.meta.namespace, endpoint.pod))
            fits = endpoint.ready and (endpoint.zone or backend.zone) == zone
            if not (fits and selects(selector, backend.labels)):
                return self.chunk(new, port_name, selector, backend_of)
            pieces[3 * i : 3 * i + 3] = self._style(backend, before.port).pieces(endpoint.address)
            came.append(endpoint.address)
            gone.append(old.endpoints[i].address)
        addresses = set(before.addresses)
        addresses.difference_update(gone)
        addresses.update(came)
        if not len(before.addresses) == len(addresses) == len(new.endpoints):
            return self.chunk(new, port_name, selector, backend_of)  # an address stands twice in the slice
        return Chunk(before.port, addresses, {zone: b"".join(pieces)}, {}, {}, pieces)

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


def _joined(zones: dict[str, list[bytes]]) -> ZONES:
    return {zone: b"".join(endpoints) for zone, endpoints in zones.items()}


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
