"""The hand-framed load assignments against protobuf: the same message, whatever the slices hold."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from xds.api.core import (
    Endpoint,
    EndpointSlice,
    Key,
    Labels,
    Meta,
    Protocol,
    Service,
    ServicePort,
    SlicePort,
)
from xds.api.istio_security import MtlsMode
from xds.api.manifest import Object
from xds.backend import NOBODY, Backend
from xds.control import ControlPlane
from xds.pb.envoy.config.core.v3.health_check_pb2 import DRAINING
from xds.pb.envoy.config.endpoint.v3.endpoint_components_pb2 import LbEndpoint, LocalityLbEndpoints
from xds.pb.envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from xds.resources import endpoint
from xds.slices import edits, share
from xds.snapshot import ResourceType

PODS = {
    "plain": Backend("web", "shop", "web", (("app", "web"),), is_meshed=False, mode=MtlsMode.PERMISSIVE),
    "meshed": Backend("orders", "shop", "orders", (("app", "orders"),), is_meshed=True, mode=MtlsMode.STRICT),
    "port": Backend(
        "orders", "shop", "orders", (("app", "orders"),), is_meshed=True, mode=MtlsMode.STRICT,
        port_modes=((8080, MtlsMode.DISABLE),),
    ),
    "past": Backend(
        "orders", "shop", "orders", (("app", "orders"),), is_meshed=True, mode=MtlsMode.STRICT, bypassed=(8080,)
    ),
    "long": Backend("w" * 200, "shop", "w", (("app", "web"),), is_meshed=True, mode=MtlsMode.PERMISSIVE),
}  # fmt: skip
"""What Pods can mean to their callers: every branch of the metadata, below and above one byte of length."""

ADDRESSES = st.one_of(
    st.sampled_from(["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.44", "fd00::1"]),
    st.integers(1, 400).map(lambda size: "a" * size),
    st.text(min_size=1, max_size=8),
)
ENDPOINTS = st.builds(
    Endpoint,
    address=ADDRESSES,
    ready=st.booleans(),
    serving=st.booleans(),
    pod=st.sampled_from(["", "unknown", *PODS]),
    zone=st.sampled_from(["", "a", "zone-b", "z" * 130]),
)
PORTS = st.sampled_from([1, 80, 127, 128, 8080, 16384, 65535])


def slices(count: int) -> st.SearchStrategy[list[EndpointSlice]]:
    """Up to `count` slices of one service; some have no port of the name that is asked for."""
    ports = st.builds(SlicePort, st.sampled_from(["http", "http", "http", "admin"]), PORTS)
    parts = st.tuples(ports, st.lists(ENDPOINTS, max_size=8).map(tuple))
    return st.lists(parts, max_size=count).map(
        lambda found: [
            EndpointSlice(Meta("shop", f"s-{i}"), "orders", (port,), endpoints)
            for i, (port, endpoints) in enumerate(found)
        ]
    )


def backend_of(pod: tuple[str, str]) -> Backend:
    """The Pod's meaning; nobody for an unknown one."""
    return PODS.get(pod[1], NOBODY)


def expected(name: str, found: list[EndpointSlice], selector: Labels) -> ClusterLoadAssignment:
    """The load assignment as protobuf builds it, from the rules alone."""
    kept: list[tuple[int, list[Endpoint]]] = []
    seen: set[tuple[str, int]] = set()
    parts = [
        (ports[0].port, [e for e in one.endpoints if (e.ready or e.serving) and _is_selected(e, selector)])
        for one in found
        if (ports := [p for p in one.ports if p.name == "http"])
    ]
    sets = [{(e.address, port) for e in endpoints} for port, endpoints in parts]
    overlap = len(set[tuple[str, int]]().union(*sets)) != sum(map(len, sets))
    for (port, endpoints), addresses in zip(parts, sets, strict=True):
        if not (overlap and addresses <= seen):
            kept.append((port, endpoints))
        seen |= addresses
    any_ready = any(e.ready for _, endpoints in kept for e in endpoints)
    out = ClusterLoadAssignment(cluster_name=name)
    for zone in sorted({e.zone for _, endpoints in kept for e in endpoints}):
        locality = out.endpoints.add()
        if zone:
            locality.locality.zone = zone
        for port, endpoints in kept:
            mine = [e for e in endpoints if e.zone == zone]
            for one in sorted(mine, key=lambda e: not e.ready):  # ready ones first, each in its order
                _fill(locality.lb_endpoints.add(), one, port, is_draining=any_ready and not one.ready)
    return out


def _is_selected(one: Endpoint, selector: Labels) -> bool:
    return set(selector) <= set(backend_of(("shop", one.pod)).labels)


def _fill(message: LbEndpoint, one: Endpoint, port: int, *, is_draining: bool) -> None:
    socket = message.endpoint.address.socket_address
    socket.address, socket.port_value = one.address, port
    if is_draining:
        message.health_status = DRAINING
    backend = backend_of(("shop", one.pod))
    if backend.workload:
        metadata = message.metadata.filter_metadata["proa"]
        metadata.update({"workload": backend.workload, "namespace": backend.namespace})
    if backend.takes_mtls(port):
        message.metadata.filter_metadata[endpoint.MTLS_MATCH].update({"tls": "mesh"})


def framed(name: str, found: list[EndpointSlice], selector: Labels, frames: endpoint.Frames) -> bytes:
    """The load assignment as the hot path writes it."""
    chunks = [frames.chunk(one, "http", selector, backend_of) for one in found]
    return endpoint.build(name, [chunk for chunk in chunks if chunk is not None])


SELECTORS = st.sampled_from([(), (("app", "orders"),), (("app", "web"),)])


@given(found=slices(4), selector=SELECTORS, name=st.sampled_from(["outbound|80||s.n", "c" * 150]))
def test_framed_bytes_are_what_protobuf_would_have_built(
    found: list[EndpointSlice], selector: Labels, name: str
) -> None:
    """Zones, draining, mutual TLS, long addresses and slices that overlap: the parsed message is the same."""
    body = framed(name, found, selector, endpoint.Frames())

    assert ClusterLoadAssignment.FromString(body) == expected(name, found, selector)


@given(found=slices(3), again=slices(3))
def test_what_frames_share_never_shows(found: list[EndpointSlice], again: list[EndpointSlice]) -> None:
    """Bytes do not depend on what the same frames built before."""
    shared = endpoint.Frames()
    framed("one", found, (), shared)

    assert framed("two", again, (), shared) == framed("two", again, (), endpoint.Frames())


def test_an_endpoint_is_in_its_zone() -> None:
    """Endpoints of two zones come in two localities, the nameless zone without a locality."""
    one = EndpointSlice(
        Meta("shop", "s"),
        "orders",
        (SlicePort("http", 80),),
        (Endpoint("10.0.0.1", zone="a"), Endpoint("10.0.0.2")),
    )
    found = ClusterLoadAssignment.FromString(framed("c", [one], (), endpoint.Frames()))

    assert [_zone(part) for part in found.endpoints] == ["", "a"]


def _zone(part: LocalityLbEndpoints) -> str:
    return part.locality.zone


ONE = st.builds(
    Endpoint,
    address=st.integers(1, 60).map(lambda n: f"10.0.0.{n}"),
    ready=st.sampled_from([True] * 9 + [False]),
    pod=st.sampled_from(["meshed", "meshed", "plain", "port", ""]),
    zone=st.sampled_from(["a"] * 9 + ["b"]),
)
LARGE = st.lists(
    ONE,
    min_size=endpoint.PATCHED_FROM,
    max_size=endpoint.PATCHED_FROM + 2,
    unique_by=lambda found: found.address,
).map(tuple)
"""Endpoints of a slice that is large enough to be patched."""


def large(number: int, endpoints: tuple[Endpoint, ...], port: int) -> EndpointSlice:
    """One of the slices of the service `orders`."""
    return EndpointSlice(Meta("shop", f"s-{number}"), "orders", (SlicePort("http", port),), endpoints)


@given(
    old=LARGE,
    new=LARGE,
    shared=st.sets(st.integers(0, endpoint.PATCHED_FROM + 1)),
    ports=st.tuples(*[st.sampled_from([80, 80, 81])] * 2),
)
def test_a_patched_chunk_is_the_chunk(
    old: tuple[Endpoint, ...], new: tuple[Endpoint, ...], shared: set[int], ports: tuple[int, int]
) -> None:
    """What a patch gives for the next version of a slice is what framing all of it gives."""
    mixed = tuple(old[i] if i in shared and i < len(old) else found for i, found in enumerate(new))
    before, after = large(0, old, ports[0]), large(0, mixed, ports[1])
    frames = endpoint.Frames()
    chunk = frames.chunk(before, "http", (), backend_of)

    assert frames.patch(chunk, before, after, "http", (), backend_of) == frames.chunk(
        after, "http", (), backend_of
    )


@given(
    old=LARGE,
    gone=st.sets(st.integers(0, 30), max_size=4),
    came=st.lists(st.tuples(st.integers(0, 30), ONE), max_size=4),
)
def test_a_slice_that_grows_or_shrinks_is_patched_to_its_chunk(
    old: tuple[Endpoint, ...], gone: set[int], came: list[tuple[int, Endpoint]]
) -> None:
    """Endpoints go and come anywhere in the slice, ready or draining, in either zone: the patch is the chunk."""
    new = [found for i, found in enumerate(old) if i not in gone]
    for place, found in came:
        new.insert(place, found)
    before, after = large(0, old, 80), share(large(0, old, 80), large(0, tuple(new), 80))
    frames = endpoint.Frames()
    chunk = frames.chunk(before, "http", (), backend_of)

    assert after.endpoints == tuple(new)
    assert frames.patch(chunk, before, after, "http", (), backend_of) == frames.chunk(
        after, "http", (), backend_of
    )


@given(old=LARGE, new=LARGE, kept=st.lists(st.integers(0, 30), max_size=20))
def test_edits_lead_from_one_version_to_the_next(
    old: tuple[Endpoint, ...], new: tuple[Endpoint, ...], kept: list[int]
) -> None:
    """What stands between the edits is the same in both versions, whatever came, went or changed its place."""
    mixed = (*(old[i] for i in kept if i < len(old)), *new)
    replayed: list[Endpoint] = []
    done = 0
    for gone, came in edits(old, mixed):
        replayed += [*old[done : gone.start], *mixed[came]]
        done = gone.stop
    replayed += old[done:]

    assert list(map(id, replayed)) == list(map(id, mixed))


VERSIONS = st.lists(
    st.tuples(st.integers(0, 2), st.none() | LARGE, st.sampled_from([80, 80, 80, 81])), max_size=8
)
"""Versions of three slices of one service, one after the other; None: the slice is gone."""


@given(versions=VERSIONS)
def test_history_of_slices_does_not_matter(
    versions: list[tuple[int, tuple[Endpoint, ...] | None, int]],
) -> None:
    """After any versions of the slices, patched or not, the load assignment is that of a fresh control plane."""
    key = Key("Service", "shop", "orders")
    service = Service(Meta("shop", "orders"), (ServicePort(80, "http", Protocol.HTTP, 80),))
    walked, final = ControlPlane(), dict[Key, Object | None]({key: service})
    walked.apply(final.items(), at=0, now=0)
    for number, endpoints, port in versions:
        found = None if endpoints is None else large(number, endpoints, port)
        final[Key("EndpointSlice", "shop", f"s-{number}")] = found
        walked.apply([(Key("EndpointSlice", "shop", f"s-{number}"), found)], at=0, now=0)
    fresh = ControlPlane()
    fresh.apply(final.items(), at=0, now=0)

    assert _assignment(walked) == _assignment(fresh)


def _assignment(plane: ControlPlane) -> bytes:
    name = "outbound|80||orders.shop.svc.cluster.local"
    found = plane.snapshot.get("mesh", ResourceType.ENDPOINTS, name)
    assert found is not None
    return found.body
