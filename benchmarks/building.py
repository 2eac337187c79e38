"""Building each resource type: cold, and again after one element has changed, against protobuf from scratch.

It owns the comparison; it must never compare what does not say the same: equal messages are asserted first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import cycle

from benchmarks import clock, worlds
from benchmarks.figures import Result
from xds import ir, settings
from xds.api.core import Endpoint, EndpointSlice, Meta, SlicePort
from xds.api.istio_security import MtlsMode
from xds.backend import Backend
from xds.ca import Leaf
from xds.compile.clusters import clusters, shapes
from xds.compile.hosts import Client
from xds.compile.lens import Lens
from xds.compile.sidecar import sidecar
from xds.control import ControlPlane
from xds.identity import Identity, Proof
from xds.pb.envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from xds.places import build
from xds.resources import endpoint, route, secret
from xds.resources.endpoint import MTLS_MATCH
from xds.snapshot import Snapshot
from xds.state import system_entropy
from xds.tables import BY_HOST, Tables

Work = Callable[[], object]

POD = Backend("web", "bench", "web", (), is_meshed=True, mode=MtlsMode.STRICT)
"""What stands behind every endpoint: it takes mutual TLS, so that the metadata is the longest."""


@dataclass(frozen=True, slots=True)
class Row:
    """One resource: from nothing, after a change of one element, and all of it through protobuf."""

    name: str
    cold: Work
    changed: Work
    upb: Work
    times: int


def run(result: Result) -> None:
    """Measure every type; ratios are of one run."""
    quick = result.is_quick
    rows = [*_nodes(), _secret(), *(_assignment(size) for size in ((1, 10) if quick else (10, 100, 1000)))]
    rows.append(_route_table(10 if quick else 1000))
    for row in rows:
        times = 2 if quick else row.times
        seen = clock.interleaved(
            {"cold": (row.cold, times), "one change": (row.changed, times), "upb": (row.upb, times)}
        )
        result.add(f"{row.name}, cold", seen["cold"], "µs")
        result.add(f"{row.name}, after one change", seen["one change"], "µs")
        result.add(f"{row.name}, through upb", seen["upb"], "µs")
        result.add(f"{row.name}: one change against upb", clock.ratio(seen["one change"], seen["upb"]), "×")


def _nodes() -> Iterator[Row]:
    """Yield Cluster and Listener: their builders are upb itself, so all three figures are of one kind.

    What is saved there is the call: a node that equals the last one is not built.
    """
    plane = ControlPlane()
    world = [worlds.namespace(), *worlds.bench_service(10), *worlds.split("bench", 50), *worlds.pods(1)]
    plane.apply(worlds.objects(world), at=0.0, now=0.0)
    lens = Lens(plane.plan.world)
    shape = shapes(lens, ("bench", "bench"), {})[""]
    found = sidecar(lens, ("bench", "p0"))
    assert found is not None
    inbound = next(node for node in found.listeners if isinstance(node, ir.Inbound))
    for name, node in (
        ("Cluster", next(iter(clusters(lens, ("bench", "bench"), shape)))),
        ("Listener", inbound),
    ):
        other = replace(node, name=f"{node.name}x")
        yield Row(name, lambda n=node: build(n), lambda n=other: build(n), lambda n=node: build(n), 300)


def _secret() -> Row:
    """Return the Secret of a proxy: built once for each certificate, which costs a signature as well."""
    from xds import ca

    entropy = system_entropy()
    root = ca.new_root(settings.TRUST_DOMAIN, now=time.time(), entropy=entropy)
    caller = Identity("p0", "bench", "default", "web", settings.TRUST_DOMAIN, Proof.TOKEN)

    def sign() -> Leaf:
        return ca.issue_leaf(root, caller, now=time.time(), entropy=entropy)

    leaf = sign()
    return Row(
        "Secret (cold: with its key and signature)",
        lambda: secret.build_own_certificate(sign()),
        lambda: secret.build_own_certificate(leaf),
        lambda: secret.build_own_certificate(leaf),
        100,
    )


def _assignment(size: int) -> Row:
    """Return a ClusterLoadAssignment of slices of at most 100 endpoints; the change is one address."""
    name, port = worlds.cluster("web"), (SlicePort("http", 8080),)
    listed = [Endpoint(ip, pod=f"p{ip}", zone="zone-a") for ip in worlds.addresses(0, size + 8)]
    parts = [listed[:size][start : start + 100] for start in range(0, size, 100)]
    slices = [
        EndpointSlice(Meta("bench", f"web-{n}"), "web", port, tuple(part)) for n, part in enumerate(parts)
    ]
    last = slices[-1]
    versions = cycle(
        EndpointSlice(last.meta, "web", port, (*last.endpoints[:-1], other)) for other in listed[size:]
    )

    def cold() -> bytes:
        frames = endpoint.Frames()
        chunks = [frames.chunk(one, "http", (), _pod) for one in slices]
        return endpoint.build(name, [chunk for chunk in chunks if chunk is not None])

    shared = endpoint.Frames()
    kept = [chunk for one in slices[:-1] if (chunk := shared.chunk(one, "http", (), _pod)) is not None]
    state = [(last, shared.chunk(last, "http", (), _pod))]

    def changed() -> bytes:
        (old, before), new = state[0], next(versions)
        chunk = shared.patch(before, old, new, "http", (), _pod)
        state[0] = (new, chunk)
        assert chunk is not None
        return endpoint.build(name, [*kept, chunk], are_disjoint=True)

    def upb() -> bytes:
        return load_assignment(name, [found.address for found in listed[:size]]).SerializeToString()

    assert ClusterLoadAssignment.FromString(cold()) == ClusterLoadAssignment.FromString(upb())
    return Row(f"ClusterLoadAssignment of {size}", cold, changed, upb, max(10, 3000 // size))


def load_assignment(name: str, addresses: list[str]) -> ClusterLoadAssignment:
    """Build a load assignment through protobuf as everybody would."""
    message = ClusterLoadAssignment(cluster_name=name)
    locality = message.endpoints.add()
    locality.locality.zone = "zone-a"
    for address in addresses:
        found = locality.lb_endpoints.add()
        socket = found.endpoint.address.socket_address
        socket.address, socket.port_value = address, 8080
        found.metadata.filter_metadata["proa"].update({"workload": POD.workload, "namespace": POD.namespace})
        found.metadata.filter_metadata[MTLS_MATCH].update({"tls": "mesh"})
    return message


def _pod(_name: tuple[str, str]) -> Backend:
    return POD


def _route_table(size: int) -> Row:
    """Return a RouteConfiguration of so many virtual hosts; the change is one weight."""
    hosts = [_virtual_host(number, 50) for number in range(size)]
    versions = cycle([_virtual_host(7, 60), _virtual_host(7, 50)])
    client, unit = Client("bench"), ("vhosts", "bench", "7")

    def fill() -> tuple[Tables[Client, ir.VirtualHost], Snapshot]:
        tables: Tables[Client, ir.VirtualHost] = Tables(BY_HOST)
        snapshot = Snapshot()
        tables.open(client)
        for number, host in enumerate(hosts):
            tables.put(client, ("vhosts", "bench", str(number)), (host,))
        tables.flush(snapshot, ())
        return tables, snapshot

    tables, snapshot = fill()

    def changed() -> object:
        tables.put(client, unit, (next(versions),))
        return tables.flush(snapshot, ())

    def upb() -> bytes:
        return route.build_table("outbound", [route.build_virtual_host(host) for host in hosts])

    return Row(f"RouteConfiguration of {size}", fill, changed, upb, max(5, 5000 // size))


def _virtual_host(number: int, weight: int) -> ir.VirtualHost:
    host = f"s{number}.bench.svc.cluster.local"
    shares = tuple(
        ir.Destination(f"outbound|80|{name}|{host}", share)
        for name, share in (("v1", weight), ("v2", 100 - weight))
    )
    found = ir.Route(f"VirtualService/bench/s{number}/0", None, ir.Forward(shares), ())
    return ir.VirtualHost(f"{host}:80", (host, f"{host}:80", f"s{number}", f"s{number}:80"), (found,))
