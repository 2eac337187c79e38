"""Readers of ServiceEntry and Sidecar raise nothing but ConfigError, and what they accept can always be served."""

from __future__ import annotations

from typing import cast

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fakes.manifests import objects, pod, service
from tests.props.strategies import JSON, broken
from xds.api.core import Key, Meta
from xds.api.istio_entry import ServiceEntry, read_service_entry
from xds.api.istio_sidecar import Sidecar, read_sidecar
from xds.api.manifest import Object
from xds.fields import ConfigError, Note, Reader
from xds.pb.envoy.config.cluster.v3 import cluster_pb2
from xds.pb.envoy.config.route.v3 import route_pb2
from xds.plan import Plan
from xds.snapshot import ResourceType, Snapshot
from xds.sources.store import Store

META = Meta("shop", "api")
SLOW_INPUTS = settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
PROXY = ("shop", "web-0")
WORLD = objects(service("web"), pod("web-0", "web", "10.0.0.1"))

ENTRY: dict[str, object] = {
    "hosts": ["api.example.com", "*.wild.example.com"],
    "addresses": ["203.0.113.1", "198.51.100.0/24", "2001:db8::/64"],
    "ports": [
        {"number": 80, "name": "http", "protocol": "HTTP", "targetPort": 8080},
        {"number": 443, "name": "tls", "protocol": "TLS"},
        {"number": 9000, "name": "grpc", "protocol": "GRPC"},
    ],
    "location": "MESH_INTERNAL",
    "resolution": "STATIC",
    "endpoints": [
        {
            "address": "192.0.2.1",
            "ports": {"http": 8081},
            "labels": {"security.istio.io/tlsMode": "istio", "version": "v1"},
            "locality": "eu/eu-1",
            "weight": 3,
            "serviceAccount": "vm",
        },
        {"address": "2001:db8::2"},
    ],
    "exportTo": [".", "other"],
    "subjectAltNames": ["spiffe://cluster.local/ns/shop/sa/other"],
}
"""A ServiceEntry that uses every field that is read."""

SIDECAR: dict[str, object] = {
    "workloadSelector": {"labels": {"app": "web"}},
    "egress": [{"hosts": ["./*", "*/api.example.com", "other/*.example.com", "~/*"]}],
    "outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"},
}
"""A Sidecar that uses every field that is read."""


def entry(spec: object) -> ServiceEntry | None:
    """Return what is accepted, None for what is refused."""
    try:
        return read_service_entry(Reader(spec, "spec", []), META)
    except ConfigError:
        return None


def sidecar(spec: object) -> Sidecar | None:
    """Return what is accepted, None for what is refused."""
    try:
        return read_sidecar(Reader(spec, "spec", []), META)
    except ConfigError:
        return None


def served(kind: str, found: Object) -> None:
    """Compile and build everything that a proxy is told in either form, and read it back."""
    plan = Plan(Snapshot())
    plan.apply(Store().apply_all([*WORLD, (Key(kind, "shop", "api"), found)]))
    plan.problems()
    for form in (False, True):
        view = plan.view(PROXY, transparent=form)[0]
        for name in plan.snapshot.names(view, ResourceType.ROUTES):
            table = plan.snapshot.resolve(view, ResourceType.ROUTES, name)
            assert table is not None
            route_pb2.RouteConfiguration.FromString(table.body)
    for name in plan.snapshot.names(("mesh", "ns/shop", "ns/other"), ResourceType.CLUSTER):
        body = plan.snapshot.resolve(("ns/shop", "ns/other", "mesh"), ResourceType.CLUSTER, name)
        assert body is not None
        cluster = cluster_pb2.Cluster.FromString(body.body)
        count = sum(len(locality.lb_endpoints) for locality in cluster.load_assignment.endpoints)
        assert cluster.type != cluster_pb2.Cluster.LOGICAL_DNS or count == 1, "Envoy takes exactly one"
        assert cluster.type != cluster_pb2.Cluster.STRICT_DNS or count > 0


def test_the_valid_specs_are_valid() -> None:
    """The objects that the other properties break are accepted as they stand, without a warning."""
    notes: list[Note] = []
    read_service_entry(Reader(ENTRY, "spec", notes), META)
    read_sidecar(Reader(SIDECAR, "spec", notes), META)

    assert notes == []


@given(JSON)
def test_any_json(spec: object) -> None:
    """Any JSON is an object of its kind or a ConfigError."""
    entry(spec)
    sidecar(spec)


@SLOW_INPUTS
@given(broken(ENTRY), st.sampled_from(["NONE", "STATIC", "DNS", "DNS_ROUND_ROBIN", None]))
def test_an_accepted_entry_can_be_served(spec: object, resolution: str | None) -> None:
    """Whatever of a ServiceEntry is changed, what is accepted makes clusters and tables that can be read."""
    if resolution is not None:
        fields = cast(
            "dict[str, object]", spec
        )  # `broken` changes what is in an object, never the object itself
        fields["resolution"] = resolution
        if resolution == "NONE":
            fields.pop("endpoints", None)
        if resolution.startswith("DNS"):
            fields["addresses"] = []
    found = entry(spec)
    if found is not None:
        served("ServiceEntry", found)


@SLOW_INPUTS
@given(broken(SIDECAR))
def test_an_accepted_sidecar_can_be_served(spec: object) -> None:
    """The same for a Sidecar."""
    found = sidecar(spec)
    if found is not None:
        served("Sidecar", found)
