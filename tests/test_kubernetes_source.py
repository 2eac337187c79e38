"""A cluster as a source: what comes before what, what a definition brings and takes, and what an outage does not."""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.fakes import objects
from tests.fakes.cluster import (
    DEFINITIONS,
    FORBIDDEN,
    PODS,
    SERVICES,
    api,
    apply,
    define,
    following,
    keys,
    loaded,
    undefine,
)
from tests.fakes.manifests import objects as read_objects
from xds.api.core import Key, Service
from xds.api.kubernetes import SIDECAR_CONTAINER
from xds.control import ControlPlane
from xds.fields import Severity
from xds.snapshot import ResourceType
from xds.sources.transport import ApiError

SLICES = "/apis/discovery.k8s.io/v1/endpointslices"
ISTIO = "networking.istio.io"
SECURITY = "security.istio.io"
ORDERS = Key("Service", "shop", "orders")


def route(name: str = "orders", **spec: object) -> objects.Raw:
    """Return a VirtualService."""
    rules = [{"route": [{"destination": {"host": name}}]}]
    return objects.raw(
        "VirtualService", name, api=f"{ISTIO}/v1", spec={"hosts": [name], "http": rules, **spec}
    )


async def test_everything_comes_as_one_batch() -> None:
    """Sorted by key, whatever arrived first."""
    found = api()
    apply(found, SERVICES, objects.service())
    apply(found, SLICES, objects.endpoint_slice())
    apply(found, PODS, objects.pod())
    apply(found, "/api/v1/namespaces", objects.raw("Namespace", "shop", namespace=None))
    path = define(found, "VirtualService", "virtualservices", ISTIO, "v1")
    apply(found, path, route())

    async with loaded(found) as (followed, first):
        assert list(keys(first)) == [
            "EndpointSlice shop/orders-x",
            "Namespace shop",
            "Pod shop/orders-1",
            "Service shop/orders",
            "VirtualService shop/orders",
        ]
        assert followed.source.unsynced() == ()


@pytest.mark.parametrize("path", [SERVICES, PODS, SLICES, DEFINITIONS, "/api/v1"])
async def test_nothing_comes_before_every_kind_is_complete(path: str) -> None:
    """One kind that cannot be listed, or a group that cannot be asked for, holds up all."""
    found = api()
    apply(found, SERVICES, objects.service())
    found.refused[path] = FORBIDDEN
    async with following(found) as followed:
        loading = asyncio.create_task(followed.source.load())
        for _ in range(200):
            await asyncio.sleep(0)

        assert not loading.done()
        assert followed.source.unsynced() != ()
        loading.cancel()


async def test_a_kind_that_its_definition_promises_is_waited_for() -> None:
    """A policy that is there must be known before the first byte."""
    found = api()
    path = define(found, "PeerAuthentication", "peerauthentications", SECURITY, "v1")
    found.refused[path] = ApiError(503, "ServiceUnavailable", "not yet")
    async with following(found) as followed:
        loading = asyncio.create_task(followed.source.load())
        for _ in range(200):
            await asyncio.sleep(0)

        assert followed.source.unsynced() == ("PeerAuthentication",)
        loading.cancel()


async def test_a_kind_that_an_older_kubernetes_lacks_is_not_waited_for() -> None:
    """ServiceCIDR is served since 1.33: the group says so."""
    found = api()
    found.group("/apis/networking.k8s.io/v1", Ingress="ingresses")
    del found.collections["/apis/networking.k8s.io/v1/servicecidrs"]

    async with loaded(found) as (followed, _):
        assert "ServiceCIDR" not in {status.kind for status in followed.source.statuses()}


async def test_a_definition_that_is_not_established_is_not_waited_for() -> None:
    """Its names were not accepted: nobody can have written an object of it."""
    found = api()
    define(found, "VirtualService", "virtualservices", ISTIO, "v1", established=False)

    async with loaded(found) as (followed, _):
        path = define(found, "VirtualService", "virtualservices", ISTIO, "v1")
        apply(found, path, route())
        assert keys(await followed.next()) == {"VirtualService shop/orders": True}


async def test_only_our_settings_are_read_of_all_config_maps() -> None:
    """They are one object in one namespace."""
    found = api()
    async with loaded(found):
        assert not [call for call in found.calls if call.endswith("/api/v1/configmaps")]


async def test_changes_come_as_they_are_written() -> None:
    """Created, changed and deleted."""
    found = api()
    async with loaded(found) as (followed, _):
        apply(found, SERVICES, objects.service())
        assert keys(await followed.next()) == {"Service shop/orders": True}
        apply(found, SERVICES, objects.service(ports=[{"name": "http", "port": 81}]))
        (change,) = (await followed.next()).changes
        assert isinstance(change[1], Service)
        assert change[1].ports[0].port == 81
        found.collections[SERVICES].delete(("shop", "orders"))
        assert keys(await followed.next()) == {"Service shop/orders": False}


async def test_what_arrives_together_is_one_batch() -> None:
    """There is no fixed wait: what the loop has at hand is taken at once."""
    found = api()
    async with loaded(found) as (followed, _):
        for index in range(50):
            apply(found, SERVICES, objects.service(f"s{index}"))
        assert len((await followed.next()).changes) == 50


async def test_what_nobody_reads_is_no_change() -> None:
    """A field outside of what is read, as a heartbeat of a Node, makes no batch."""
    found = api()
    apply(found, SERVICES, objects.service())
    async with loaded(found) as (followed, _):
        apply(found, SERVICES, objects.service(metadata={"managedFields": []}))
        await followed.quiet()


async def test_the_time_of_a_batch_is_when_its_bytes_came() -> None:
    """Of the first of them."""
    found = api()
    async with loaded(found) as (followed, first):
        apply(found, SERVICES, objects.service())
        assert 0 <= (await followed.next()).detected_at - first.detected_at < 10


async def test_a_broken_object_keeps_its_last_good_version() -> None:
    """It is reported with its field, and mending it clears the report."""
    found = api()
    path = define(found, "VirtualService", "virtualservices", ISTIO, "v1")
    apply(found, path, route())
    async with loaded(found) as (followed, _):
        apply(found, path, route(http=[{"retries": {"attempts": -1}}]))
        broken = await followed.next()
        assert (broken.changes, broken.broken) == ((), frozenset())
        (problem,) = [p for p in broken.problems if p.severity is Severity.ERROR]
        assert (problem.subject, problem.where) == ("VirtualService shop/orders", "")
        assert problem.path.startswith("spec.http[0].")
        apply(found, path, route())
        assert (await followed.next()).problems == ()


async def test_an_object_that_was_never_good_is_named() -> None:
    """A policy that cannot be read must be able to fail closed; deleting it is enough."""
    found = api()
    path = define(found, "PeerAuthentication", "peerauthentications", SECURITY, "v1")
    apply(found, path, objects.peer_authentication(mtls={"mode": "STRCT"}))
    async with loaded(found) as (followed, first):
        assert first.broken == {Key("PeerAuthentication", "shop", "default")}
        found.collections[path].delete(("shop", "default"))
        gone = await followed.next()
        assert (gone.broken, gone.problems) == (frozenset(), ())


async def test_a_kind_that_is_defined_later_is_followed() -> None:
    """And its objects go with its definition."""
    found = api()
    async with loaded(found) as (followed, _):
        path = define(found, "VirtualService", "virtualservices", ISTIO, "v1")
        apply(found, path, route())
        assert keys(await followed.next()) == {"VirtualService shop/orders": True}
        undefine(found, path)
        assert keys(await followed.next()) == {"VirtualService shop/orders": False}
        assert "VirtualService" not in {status.kind for status in followed.source.statuses()}


async def test_a_kind_that_is_not_found_keeps_its_objects() -> None:
    """An API that has not read its definitions yet says 404: only the definition's deletion counts."""
    found = api()
    path = define(found, "VirtualService", "virtualservices", ISTIO, "v1")
    apply(found, path, route())
    async with loaded(found) as (followed, _):
        found.refused[path] = ApiError(404, "NotFound", "the server could not find the requested resource")
        await followed.quiet()
        (status,) = [s for s in followed.source.statuses() if s.kind == "VirtualService"]
        assert status.failure.startswith("404")


async def test_the_version_that_is_served_is_followed() -> None:
    """Ours first; when it goes, the next, and nothing is lost on the way."""
    found = api()
    old = define(found, "VirtualService", "virtualservices", ISTIO, "v1beta1")
    apply(found, old, route() | {"apiVersion": f"{ISTIO}/v1beta1"})
    async with loaded(found) as (followed, _):
        new = define(found, "VirtualService", "virtualservices", ISTIO, "v1", "v1beta1")
        apply(found, new, route())
        apply(found, new, route("web"))
        assert keys(await followed.next()) == {"VirtualService shop/web": True}


async def test_a_definition_without_a_version_of_ours_is_a_problem() -> None:
    """It says which are served and which are read."""
    found = api()
    define(found, "VirtualService", "virtualservices", ISTIO, "v2")
    async with loaded(found) as (_, first):
        (problem,) = first.problems
        assert str(problem) == (
            "error: CustomResourceDefinition virtualservices.networking.istio.io: spec.versions: serves"
            " networking.istio.io/v2; Proa reads networking.istio.io/v1, networking.istio.io/v1beta1,"
            " networking.istio.io/v1alpha3"
        )


async def test_definitions_of_others_are_left_alone() -> None:
    """They are not even asked for, unless they are of a group that we read."""
    found = api()
    define(found, "Widget", "widgets", "example.com", "v1")
    define(found, "EnvoyFilter", "envoyfilters", ISTIO, "v1alpha3")
    async with loaded(found) as (followed, first):
        assert (first.changes, first.problems) == ((), ())
        assert {"Widget", "EnvoyFilter"} & {status.kind for status in followed.source.statuses()} == set()
        assert f"GET {DEFINITIONS}/widgets.example.com" not in found.calls


WORLD = """
apiVersion: v1
kind: Service
metadata: {name: orders, namespace: shop}
spec: {selector: {app: orders}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, clusterIPs: [10.96.0.9], ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: orders-a, namespace: shop, labels: {kubernetes.io/service-name: orders}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints:
- {addresses: [10.0.0.1], targetRef: {kind: Pod, name: o1}}
- {addresses: [10.0.0.2], targetRef: {kind: Pod, name: o2}}
---
apiVersion: v1
kind: Pod
metadata: {name: o1, namespace: shop, labels: {app: orders, version: v1}}
spec:
  serviceAccountName: orders
  nodeName: n1
  containers: [{name: SIDECAR}, {name: app, ports: [{containerPort: 8080}]}]
status: {podIP: 10.0.0.1}
---
apiVersion: v1
kind: Pod
metadata: {name: o2, namespace: shop, labels: {app: orders, version: v2}}
spec:
  serviceAccountName: other
  nodeName: n1
  containers: [{name: SIDECAR}, {name: app, ports: [{containerPort: 8080}]}]
status: {podIP: 10.0.0.2}
---
apiVersion: v1
kind: Node
metadata: {name: n1, labels: {topology.kubernetes.io/zone: z1}}
spec: {podCIDR: 10.0.0.0/24}
---
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: orders, namespace: shop}
spec: {host: orders, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: orders, namespace: shop}
spec:
  hosts: [orders]
  http:
  - route:
    - {destination: {host: orders, subset: v1}, weight: 90}
    - {destination: {host: orders, subset: v2}, weight: 10}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: shop}
spec: {mtls: {mode: STRICT}}
""".replace("SIDECAR", SIDECAR_CONTAINER)


def snapshot_of(order: list[int]) -> dict[tuple[object, ...], bytes]:
    """Return every byte of the mesh after the world's objects came one by one in this order."""
    world = read_objects(WORLD)
    plane = ControlPlane(sees_sidecars=True)
    for index in order:
        plane.apply([world[index]], at=0.0, now=0.0)
    out: dict[tuple[object, ...], bytes] = {}
    for pod in (("shop", "o1"), ("shop", "o2"), None):
        view = plane.plan.view(pod)[0]
        for kind in ResourceType:
            for name in plane.snapshot.names(view, kind):
                found = plane.snapshot.resolve(view, kind, name)
                if found is not None:
                    out[pod, kind, name] = found.body
    return out


def test_any_order_of_the_same_events_gives_the_same_bytes() -> None:
    """200 random orders of a world of ten kinds; a resource more or less would show."""
    count = len(read_objects(WORLD))
    expected = snapshot_of(list(range(count)))
    rng = random.Random(1)

    assert len(expected) > 10
    for _ in range(200):
        order = rng.sample(range(count), count)
        assert snapshot_of(order) == expected, order
