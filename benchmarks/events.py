"""The hot path: one watch event of an EndpointSlice becomes the bytes of a delta response for one stream.

It owns the measurement alone and drives the code that serves; it must never take a shortcut past it.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

import msgspec

from benchmarks import clock, worlds
from benchmarks.building import load_assignment
from benchmarks.figures import ROUNDS, Result
from xds.api.core import Key
from xds.api.manifest import Object, Parsed, read
from xds.app import GC_THRESHOLDS
from xds.control import ControlPlane
from xds.pb.envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse
from xds.snapshot import ResourceType
from xds.stream import Session, Watch
from xds.subscription import Variant

Batch = list[tuple[Key, Object | None]]


@dataclass(slots=True)
class Peer:
    """A proxy of one subscription that acknowledges everything."""

    session: Session
    plane: ControlPlane

    @classmethod
    def join(cls, plane: ControlPlane, name: str) -> Peer:
        """Open a stream to one service's endpoints."""
        session = Session(
            "1", plane.snapshot, variant=Variant.DELTA, rule_of=lambda _kind: lambda _name: True
        )
        request = DeltaDiscoveryRequest(type_url=ResourceType.ENDPOINTS.url, resource_names_subscribe=[name])
        request.node.id = "p0.bench"
        session.receive(request.SerializeToString(), 0.0)
        view = plane.connect(None, session)
        plane.registry.connect(session)
        for event in session.attach(view, 0.0):
            if isinstance(event, Watch):
                plane.registry.watch(session, event)
        peer = cls(session, plane)
        peer.acknowledge(session.poll(0.0))
        return peer

    def acknowledge(self, responses: Sequence[bytes]) -> DeltaDiscoveryResponse:
        """Answer one response; there must be exactly one."""
        (body,) = responses
        found = DeltaDiscoveryResponse.FromString(body)
        ack = DeltaDiscoveryRequest(type_url=found.type_url, response_nonce=found.nonce)
        self.session.receive(ack.SerializeToString(), 0.0)
        return found

    def follow(self, batches: Sequence[Batch]) -> float:
        """Return the CPU of one change in microseconds: applied, compiled, framed; its ACK is not counted."""
        spent_ns = 0
        for batch in batches:
            before = time.process_time_ns()
            self.plane.apply(batch, at=0.0, now=0.0)
            responses = self.session.poll(0.0)
            spent_ns += time.process_time_ns() - before
            self.acknowledge(responses)
        return spent_ns / len(batches) / 1000


def run(result: Result) -> None:
    """Measure worlds of 100 and 10,000 services, and one slice of a service of 1,000 endpoints."""
    quick = result.is_quick
    sizes = (10, 100) if quick else (100, 10_000)
    times = 20 if quick else 1000
    peers = {size: Peer.join(_world(size), worlds.cluster("s5")) for size in sizes}
    big = Peer.join(_big_world(), worlds.cluster("big"))
    gc.collect()
    before = gc.get_threshold()
    gc.set_threshold(*GC_THRESHOLDS)  # as the server does after its first load
    gc.freeze()
    works = _works(peers, big, times)
    seen: dict[str, list[float]] = {name: [] for name in works}
    for round_number in range(ROUNDS + 1):
        for name, work in works.items():
            value = work()
            if round_number:  # the first one warms caches
                seen[name].append(value)
    gc.unfreeze()
    gc.set_threshold(*before)
    _report(result, sizes, seen)


def _works(peers: dict[int, Peer], big: Peer, times: int) -> dict[str, Callable[[], float]]:
    events = _events(10)
    batches = [[_read(event)] for event in events]
    one, every = _big_batches(change_all=False), _big_batches(change_all=True)
    resized, rolled = _resized(), _rolled()

    def follow(peer: Peer, found: list[Batch], count: int) -> float:
        return peer.follow(list(islice(cycle(found), count)))

    few = max(4, times // 10)
    return {
        **{f"world {size}": lambda p=peer: follow(p, batches, times) for size, peer in peers.items()},
        "decode": lambda: clock.cpu_us(lambda: _read(events[0]), times),
        "one of 100 of 1000": lambda: follow(big, one, few),
        "resized": lambda: follow(big, resized, few),
        "rolled": lambda: follow(big, rolled, few),
        "100 of 1000": lambda: follow(big, every, few),
        "upb 1000": lambda: clock.cpu_us(_upb, max(2, few // 10)),
    }


def _report(result: Result, sizes: tuple[int, int], seen: dict[str, list[float]]) -> None:
    small, large = (seen[f"world {size}"] for size in sizes)
    for size, found in zip(sizes, (small, large), strict=True):
        name = f"event → delta bytes, 10 endpoints, {size} services"
        result.add(name, found, "µs", target=60)
    ratio = statistics.median(large) / statistics.median(small)
    result.add(f"the same, {sizes[1]} against {sizes[0]} services", ratio, "×", target=1.5)
    result.add("decode the event of 10 endpoints (apart)", seen["decode"], "µs")
    upb = statistics.median(seen["upb 1000"])
    result.add("build ClusterLoadAssignment of 1,000 through upb", seen["upb 1000"], "µs")
    result.add("slice of 100 in 1,000 changes by one endpoint", seen["one of 100 of 1000"], "µs")
    result.add(
        "the same, share of upb", statistics.median(seen["one of 100 of 1000"]) / upb, "×", target=1 / 50
    )
    for name, key in (("grows or shrinks by one endpoint", "resized"), ("loses one, gains one", "rolled")):
        result.add(f"slice of 100 in 1,000 {name}", seen[key], "µs")
        share = statistics.median(seen[key]) / upb
        result.add(f"{name}: share of upb", share, "×", target=1 / 50)
    result.add("slice of 100 in 1,000 changes by all of its 100", seen["100 of 1000"], "µs")
    result.add("the same, share of upb", statistics.median(seen["100 of 1000"]) / upb, "×")


def _read(event: bytes) -> tuple[Key, Object | None]:
    """Decode a watch event as a source does."""
    found = read(msgspec.json.decode(event)["object"])
    assert isinstance(found, Parsed), found
    return found.key, found.object


def _events(endpoints: int) -> list[bytes]:
    """Return events of the service s5 that differ in one endpoint each."""
    listed = worlds.addresses(5, endpoints + VARIANTS)
    return [
        worlds.event(worlds.endpoint_slice("s5", [*listed[: endpoints - 1], other]))
        for other in listed[endpoints:]
    ]


VARIANTS = 16
"""Different versions of a slice that follow each other: no cache may hold the answer."""


def _world(size: int) -> ControlPlane:
    plane = ControlPlane()
    plane.apply(worlds.objects([worlds.namespace(), *worlds.services(size, 10)]), at=0.0, now=0.0)
    behind = worlds.pods_of("s5", worlds.addresses(5, 10 + VARIANTS))
    plane.apply(worlds.objects(behind), at=0.0, now=0.0)
    return plane


SLICES, SLICE = 10, 100
"""A service of 1,000 endpoints as Kubernetes slices it (100 is its controller's default maximum)."""


def _big_world() -> ControlPlane:
    plane = ControlPlane()
    listed = worlds.addresses(0, SLICES * SLICE)
    behind = worlds.pods_of("big", [*listed, *worlds.addresses(1, 2 * SLICE + VARIANTS)])
    parts = (
        worlds.endpoint_slice("big", listed[n * SLICE : (n + 1) * SLICE], part=f"{n}") for n in range(SLICES)
    )
    plane.apply(worlds.objects([worlds.namespace(), worlds.service("big"), *parts, *behind]), at=0.0, now=0.0)
    return plane


def _big_batches(*, change_all: bool) -> list[Batch]:
    """Return versions of the fourth slice: with one endpoint replaced, or with all of them."""
    mine, others = worlds.addresses(0, SLICE, first=3 * SLICE), worlds.addresses(1, 2 * SLICE + VARIANTS)
    if change_all:
        versions = [others[:SLICE], others[SLICE : 2 * SLICE]]
    else:
        versions = [[*mine[:50], other, *mine[51:]] for other in others[2 * SLICE :]]
    return [_fourth(one) for one in versions]


def _resized() -> list[Batch]:
    """Return versions of the fourth slice: full, and without one endpoint or another in its middle."""
    mine = worlds.addresses(0, SLICE, first=3 * SLICE)
    return [
        _fourth(listed) for k in range(30, 30 + VARIANTS) for listed in ([*mine[:k], *mine[k + 1 :]], mine)
    ]


def _rolled() -> list[Batch]:
    """Return versions of the fourth slice as Kubernetes' controller writes them: who comes stands last."""
    listed = worlds.addresses(0, SLICE, first=3 * SLICE)
    batches: list[Batch] = []
    for _ in range(SLICE // 2):  # then all stand as they did at first
        listed = [*listed[:50], *listed[51:], listed[50]]
        batches.append(_fourth(listed))
    return batches


def _fourth(listed: Sequence[str]) -> Batch:
    return [_read(worlds.event(worlds.endpoint_slice("big", listed, part="3")))]


def _upb() -> bytes:
    """Build the load assignment of 1,000 endpoints through protobuf."""
    return load_assignment(worlds.cluster("big"), worlds.addresses(0, SLICES * SLICE)).SerializeToString()
