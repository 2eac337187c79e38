"""The state-of-the-world variant with real Envoys, and both variants with a client that shares no class with us."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import pytest
from rig import STRICT, App, MeshUnderTest

from tests.fakes.plane import ADS_DELTA, ADS_SOTW, CSDS, DEADLINE_S, Call, Plane, ask, open_stream, start
from xds.demo.processes import Family

with warnings.catch_warnings():
    # Its validators use a form that pydantic deprecates; that is not ours to change.
    warnings.filterwarnings("ignore", "Using `@model_validator`", DeprecationWarning)
    from envoy_data_plane.envoy.config.core import v3 as core
    from envoy_data_plane.envoy.service.discovery import v3 as discovery
    from envoy_data_plane.envoy.service.status import v3 as status
    from envoy_data_plane.google import rpc

CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
ENDPOINTS = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
CDS_DELTA = "/envoy.service.cluster.v3.ClusterDiscoveryService/DeltaClusters"
CDS_SOTW = "/envoy.service.cluster.v3.ClusterDiscoveryService/StreamClusters"
NODE = "web.shop"

SPLIT = (
    STRICT
    + """
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: orders, namespace: shop}
spec:
  host: orders
  subsets:
    - {name: v1, labels: {version: v1}}
    - {name: v2, labels: {version: v2}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: orders, namespace: shop}
spec:
  hosts: [orders]
  http:
    - route:
        - {destination: {host: orders, subset: v1}, weight: 100}
        - {destination: {host: orders, subset: v2}, weight: 0}
"""
)
MOVED = SPLIT.replace("v1}, weight: 100", "v1}, weight: 0").replace("v2}, weight: 0", "v2}, weight: 100")


# --- Real Envoys, state of the world --------------------------------------------------------------


@pytest.fixture
def sotw_mesh(tmp_path: Path) -> Iterator[MeshUnderTest]:
    """A mesh whose Envoys ask for the state of the world."""
    apps = (App("client"), App("orders-v1", app="orders"), App("orders-v2", app="orders", version="v2"))
    mesh = MeshUnderTest(tmp_path / "mesh", apps, SPLIT, is_insecure=False)
    mesh.mesh.ads_variant = "GRPC"
    try:
        yield mesh.start()
    finally:
        mesh.stop()


def test_envoys_of_the_sotw_variant(sotw_mesh: MeshUnderTest) -> None:
    """A live weight edit and a killed control plane cost no request, as in the incremental variant."""
    mesh = sotw_mesh
    traffic = mesh.load("client", "http://orders/echo", rps=100)
    before = {mesh.get("client", "http://orders/echo").workload for _ in range(20)}
    mesh.edit("manifests.yaml", MOVED)
    mesh.wait("the worker has it", lambda: mesh.get("client", "http://orders/echo").workload == "orders-v2")
    after = {mesh.get("client", "http://orders/echo").workload for _ in range(20)}
    mesh.restart_control_plane()
    mesh.wait_synced()
    mesh.edit("manifests.yaml", SPLIT)
    mesh.wait("the worker has it", lambda: mesh.get("client", "http://orders/echo").workload == "orders-v1")
    report = traffic.finish()

    assert (before, after) == ({"orders-v1"}, {"orders-v2"})
    assert report["failed"] == 0, report
    assert report["ok"] > 50
    assert (
        mesh.config_dump("client")["configs"][0]["bootstrap"]["dynamic_resources"]["ads_config"]["api_type"]
        == "GRPC"
    )


# --- An independent client ------------------------------------------------------------------------


def _service(name: str) -> str:
    return f"""---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec: {{selector: {{app: web}}, ports: [{{name: http, port: 80, targetPort: 8080}}]}}
"""


WORLD = (
    """
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {proa.dev/inject: enabled}}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {serviceAccountName: web, containers: [{name: app, ports: [{containerPort: 8080}]}]}
status: {podIP: 127.0.0.9}
"""
    + _service("a")
    + _service("b")
)
A, B, LATER = (f"outbound|80||{name}.shop.svc.cluster.local" for name in ("a", "b", "later"))


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    """A control plane of two services, over TLS with tokens."""
    family = Family(tmp_path / "logs")
    try:
        yield start(family, tmp_path, {"world.yaml": WORLD})
    finally:
        family.stop()


async def _read(call: Call) -> bytes:
    async with asyncio.timeout(DEADLINE_S):
        return cast("bytes", await call.read())


class Delta:
    """An incremental stream of one type."""

    def __init__(self, call: Call, url: str) -> None:
        self._call, self._url = call, url
        self.held: dict[str, str] = {}

    async def say(self, *names: str, versions: Mapping[str, str] | None = None, **fields: Any) -> None:
        """Write a request."""
        request = discovery.DeltaDiscoveryRequest(
            node=core.Node(id=NODE),
            type_url=self._url,
            resource_names_subscribe=list(names),
            initial_resource_versions=dict(versions or {}),
            **fields,
        )
        await self._call.write(bytes(request))

    async def hear(self) -> discovery.DeltaDiscoveryResponse:
        """Read a response and leave it unanswered."""
        return discovery.DeltaDiscoveryResponse.parse(await _read(self._call))

    async def take(self) -> set[str]:
        """Read a response and accept it; return the names in it."""
        response = await self.hear()
        self.held |= {resource.name: resource.version for resource in response.resources}
        await self.say(response_nonce=response.nonce)
        return {resource.name for resource in response.resources} | set(response.removed_resources)


@pytest.mark.parametrize("method", [ADS_DELTA, CDS_DELTA])
async def test_delta(plane: Plane, method: str) -> None:
    """Subscribe, accept, see an edit, reject one resource and see the next, come back and get nothing again."""
    authorization = f"Bearer {plane.token('web')}"
    async with plane.channel() as channel:
        stream = Delta(open_stream(channel, method, authorization), CLUSTER)
        await stream.say("*")
        first = await stream.take()
        plane.write("bad.yaml", _service("bad"))
        rejected = await stream.hear()
        await stream.say(response_nonce=rejected.nonce, error_detail=rpc.Status(message="no thanks"))
        plane.write("later.yaml", _service("later"))
        later = await stream.take()
        asked = bytes(status.ClientStatusRequest(node=core.Node(id=NODE)))
        answer = status.ClientStatusResponse.parse(await ask(channel, CSDS, asked, authorization))
    async with plane.channel() as channel:
        again = Delta(open_stream(channel, method, authorization), CLUSTER)
        await again.say("*", versions=stream.held | {"outbound|80||bad.shop.svc.cluster.local": "none"})
        told = await again.take()

    assert {A, B} <= first
    assert [resource.name for resource in rejected.resources] == ["outbound|80||bad.shop.svc.cluster.local"]
    assert later == {LATER}
    assert told == {"outbound|80||bad.shop.svc.cluster.local"}  # what it holds is not sent again
    entries = {entry.name: entry for entry in answer.config[0].generic_xds_configs}
    error = entries["outbound|80||bad.shop.svc.cluster.local"].error_state
    assert error is not None and error.details == "no thanks"
    assert entries[A].error_state is None


@pytest.mark.parametrize("method", [ADS_SOTW, CDS_SOTW])
async def test_sotw(plane: Plane, method: str) -> None:
    """The whole state at first and after an edit; a rejection of one state does not stop the next."""
    authorization = f"Bearer {plane.token('web')}"
    async with plane.channel() as channel:
        call = open_stream(channel, method, authorization)
        request = discovery.DiscoveryRequest(node=core.Node(id=NODE), type_url=CLUSTER)
        await call.write(bytes(request))
        first = discovery.DiscoveryResponse.parse(await _read(call))
        await call.write(_answer(first))
        plane.write("bad.yaml", _service("bad"))
        second = discovery.DiscoveryResponse.parse(await _read(call))
        await call.write(_answer(second, accepted=first.version_info, error="no thanks"))
        plane.write("later.yaml", _service("later"))
        third = discovery.DiscoveryResponse.parse(await _read(call))
        await call.write(_answer(third))
    async with plane.channel() as channel:
        call = open_stream(channel, method, authorization)
        await call.write(
            bytes(discovery.DiscoveryRequest(node=core.Node(id=NODE), type_url=CLUSTER, version_info="old"))
        )
        again = discovery.DiscoveryResponse.parse(await _read(call))

    assert len(second.resources) == len(first.resources) + 1
    assert LATER.encode() in b"".join(resource.value for resource in third.resources)
    assert len(again.resources) == len(first.resources) + 2
    assert first.version_info != again.version_info


def _answer(response: discovery.DiscoveryResponse, *, accepted: str = "", error: str = "") -> bytes:
    request = discovery.DiscoveryRequest(
        type_url=response.type_url,
        version_info=accepted or response.version_info,
        response_nonce=response.nonce,
        error_detail=rpc.Status(message=error) if error else None,
    )
    return bytes(request)


async def test_sotw_reconnect_is_silent(plane: Plane) -> None:
    """A client that comes back with the current version is told of the next change, and of nothing before."""
    authorization = f"Bearer {plane.token('web')}"
    async with plane.channel() as channel:
        call = open_stream(channel, ADS_SOTW, authorization)
        await call.write(bytes(discovery.DiscoveryRequest(node=core.Node(id=NODE), type_url=CLUSTER)))
        first = discovery.DiscoveryResponse.parse(await _read(call))
    async with plane.channel() as channel:
        call = open_stream(channel, ADS_SOTW, authorization)
        held = discovery.DiscoveryRequest(
            node=core.Node(id=NODE), type_url=CLUSTER, version_info=first.version_info
        )
        await call.write(bytes(held))
        async with asyncio.timeout(DEADLINE_S):
            while not _holds(plane, len(first.resources)):  # noqa: ASYNC110 another process's fact
                await asyncio.sleep(0.05)
        plane.write("later.yaml", _service("later"))
        told = discovery.DiscoveryResponse.parse(await _read(call))

    assert LATER.encode() in b"".join(resource.value for resource in told.resources)
    assert len(told.resources) == len(first.resources) + 1


def _holds(plane: Plane, count: int) -> bool:
    """Tell whether the ledger says that the client holds so many clusters, none of which was sent."""
    rows = plane.api(f"/api/v1/proxies/{NODE}/config?type=clusters").get("resources", ())
    return [row["state"] for row in rows] == ["HELD"] * count
