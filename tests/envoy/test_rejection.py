"""What Envoy rejects stays alone; what is created, deleted or emptied in any order costs no request."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from rig import STRICT, App, MeshUnderTest, address

RULE = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: orders, namespace: shop}
spec:
  host: orders
  subsets: [{name: v2, labels: {version: v2}}]
"""
ROUTE = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: orders, namespace: shop}
spec:
  hosts: [orders]
  http: [{route: [{destination: {host: orders, subset: v2}}]}]
"""
EMPTY = "# nothing\n"
PORT = 3306


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MeshUnderTest]:
    """One mesh for all tests of this file: a client, and orders v1 and v2."""
    work: Path = tmp_path_factory.mktemp("rejection") / "mesh"
    apps = (App("client"), App("orders-v1", app="orders"), App("orders-v2", app="orders", version="v2"))
    mesh = MeshUnderTest(work, apps, STRICT, is_insecure=False)
    try:
        yield mesh.start()
    finally:
        mesh.stop()


@pytest.fixture
def mesh(running: MeshUnderTest) -> Iterator[MeshUnderTest]:
    """The mesh, and afterwards the manifests as they were."""
    original = (running.mesh.manifests / "apps.yaml").read_text("utf-8")
    yield running
    for name, text in (
        ("route.yaml", EMPTY),
        ("rule.yaml", EMPTY),
        ("apps.yaml", original),
        ("more.yaml", EMPTY),
    ):
        running.write(name, text)
    running.wait("everything is as before", lambda: _is_restored(running))


def _is_restored(mesh: MeshUnderTest) -> bool:
    rows = _rows(mesh, "client")
    names = {row["name"] for row in rows}
    fresh = not any("|v2|" in name or name.startswith("tcp|") or "later" in name for name in names)
    return fresh and all(row["state"] == "ACKED" for row in rows) and not mesh.mesh.api.problems()


def _rows(mesh: MeshUnderTest, name: str) -> list[dict[str, Any]]:
    """Return what the ledger has of a pod's proxy, as `proa proxy config` asks for it."""
    found = _proa(mesh, "proxy", "config", mesh.pods[name].node_id, "-o", "json")
    # A type that the mesh does not serve (runtime) is absent by design.
    return [row for row in json.loads(found)["resources"] if row["type"] != "runtime"]


def _proa(mesh: MeshUnderTest, *words: str) -> str:
    argv = [sys.executable, "-m", "xds", *words, "--admin", f"127.0.0.1:{mesh.mesh.admin_port}"]
    return subprocess.run(argv, check=True, capture_output=True, timeout=30, text=True).stdout


def _row(mesh: MeshUnderTest, name: str) -> dict[str, Any]:
    return next((row for row in _rows(mesh, "client") if row["name"] == name), {"state": "none"})


def _with_upstreams(mesh: MeshUnderTest, *locals_: str) -> str:
    """Return apps.yaml with these addresses of the client standing for orders."""
    apps = dict(mesh.apps)
    listed = ",".join(f"{local}:{PORT}=orders:80" for local in locals_)
    apps["client"] = replace(apps["client"], annotations={"proa.dev/upstreams": listed})
    services = {app.service: app.service_document() for app in apps.values()}
    return yaml.safe_dump_all(
        [*services.values(), *(doc for app in apps.values() for doc in app.documents())]
    )


@contextlib.contextmanager
def _taken() -> Generator[str]:
    """Hold a port that Envoy will be told to listen on; no validation can know."""
    with socket.create_server((address(), PORT)) as server:
        yield server.getsockname()[0]


def _rejected(mesh: MeshUnderTest) -> int:
    return sum(mesh.stats("client", r"^listener_manager\.lds\.update_rejected$").values())


# --- NACK -----------------------------------------------------------------------------------------


def test_a_rejected_listener_stays_alone(mesh: MeshUnderTest) -> None:
    """One listener is refused; the ledger says so in Envoy's words, and everything else goes on and changes."""
    with _taken() as taken:
        name = f"tcp|{taken}:{PORT}"
        mesh.write("apps.yaml", _with_upstreams(mesh, taken))
        mesh.wait("the rejection", lambda: _row(mesh, name)["state"] == "NACKED")
        row, rejected = _row(mesh, name), _rejected(mesh)
        status, table = _proa(mesh, "status"), _proa(mesh, "proxy", "config", "client.shop")
        mesh.edit("rule.yaml", RULE, cause="DestinationRule shop/orders")
        mesh.edit("route.yaml", ROUTE, cause="VirtualService shop/orders")
        mesh.wait(
            "a further change is used",
            lambda: mesh.get("client", "http://orders/echo").workload == "orders-v2",
        )
        mesh.edit("more.yaml", _LATER, cause="Service shop/later")

        assert "Address already in use" in row["error"]
        assert any("Pod shop/client" in cause for cause in row["cause"])
        assert "1 NACK" in status
        assert f"{name} was rejected: " in table
        assert _row(mesh, name)["state"] == "NACKED"
        assert _rejected(mesh) == rejected  # the identical payload is not sent again
        mesh.wait(  # endpoints are asked for when their cluster has been taken
            "all others are accepted",
            lambda: {r["state"] for r in _rows(mesh, "client") if r["name"] != name} == {"ACKED"},
        )
        assert mesh.get("client", "http://later:8088/echo").status == 200


def test_a_culprit_among_several_is_found(mesh: MeshUnderTest) -> None:
    """Two listeners in one edit, one of which cannot be: the other is live all the same."""
    good = address()
    with _taken() as taken:
        mesh.write("apps.yaml", _with_upstreams(mesh, taken, good))
        mesh.wait("the rejection", lambda: _row(mesh, f"tcp|{taken}:{PORT}")["state"] == "NACKED")
        mesh.wait("the other one", lambda: _row(mesh, f"tcp|{good}:{PORT}")["state"] == "ACKED")

        assert mesh.request(good, PORT, "http://orders/echo").status == 200


def test_an_edit_mends_a_rejection(mesh: MeshUnderTest) -> None:
    """When the cause goes away by an edit, the proxy accepts, and nothing of the rejection is left."""
    good = address()
    with _taken() as taken:
        mesh.write("apps.yaml", _with_upstreams(mesh, taken))
        mesh.wait("the rejection", lambda: _row(mesh, f"tcp|{taken}:{PORT}")["state"] == "NACKED")
        mesh.write("apps.yaml", _with_upstreams(mesh, good))
        mesh.wait("it is accepted", lambda: _row(mesh, f"tcp|{good}:{PORT}")["state"] == "ACKED")

        assert "NACK" not in _proa(mesh, "status")
        assert mesh.request(good, PORT, "http://orders/echo").status == 200


# --- Order ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("created", [("rule.yaml", "route.yaml"), ("route.yaml", "rule.yaml")])
@pytest.mark.parametrize("deleted", [("rule.yaml", "route.yaml"), ("route.yaml", "rule.yaml")])
def test_rule_and_route_in_any_order(
    mesh: MeshUnderTest, created: tuple[str, str], deleted: tuple[str, str]
) -> None:
    """A route to a subset and the rule that defines it come and go in either order; no request fails."""
    texts = {"rule.yaml": RULE, "route.yaml": ROUTE}
    began = mesh.sent("client")
    traffic = mesh.load("client", "http://orders/echo", rps=100)
    mesh.write(created[0], texts[created[0]])
    mesh.wait("the first is read", lambda: _is_read(mesh, created[0]))
    mesh.write(created[1], texts[created[1]])
    mesh.wait("the route is used", lambda: _workloads(mesh) == {"orders-v2"})
    mesh.wait("it is used for a while", lambda: mesh.sent("client") >= began + 200)
    mesh.write(deleted[0], EMPTY)
    mesh.wait("the deletion is read", lambda: _is_deleted(mesh, deleted[0]))
    mesh.write(deleted[1], EMPTY)
    mesh.wait("the default is used", lambda: _workloads(mesh) == {"orders-v1", "orders-v2"})
    report = traffic.finish()

    assert report["failed"] == 0, report
    assert report["ok"] > 50


def _workloads(mesh: MeshUnderTest) -> set[str]:
    return {mesh.get("client", "http://orders/echo").workload for _ in range(20)}


def _is_read(mesh: MeshUnderTest, name: str) -> bool:
    """The rule's cluster is there; a route without its rule is a problem."""
    if name == "rule.yaml":
        return any("|v2|" in row["name"] for row in _rows(mesh, "client"))
    return bool(mesh.mesh.api.problems())


def _is_deleted(mesh: MeshUnderTest, name: str) -> bool:
    return (
        bool(mesh.mesh.api.problems())
        if name == "rule.yaml"
        else _workloads(mesh) == {"orders-v1", "orders-v2"}
    )


# --- Nothing and back -------------------------------------------------------------------------------

_LATER = """
apiVersion: v1
kind: Service
metadata: {name: later, namespace: shop}
spec:
  selector: {app: orders}
  ports: [{name: http, port: 8088, targetPort: 8080}]
"""


def test_a_service_is_deleted_and_comes_back(mesh: MeshUnderTest) -> None:
    """Its Host is 404 in between; requests to others never fail."""
    traffic = mesh.load("client", "http://orders/echo", rps=50)
    for status, text in ((200, _LATER), (404, EMPTY), (200, _LATER)):
        mesh.write("more.yaml", text)
        mesh.wait(
            f"later is {status}",
            lambda status=status: mesh.get("client", "http://later/echo").status == status,
        )
    report = traffic.finish()

    assert report["failed"] == 0, report


def test_endpoints_go_to_zero_and_come_back(mesh: MeshUnderTest) -> None:
    """Without an endpoint it is 503; the next one is used at once, and others never noticed."""
    traffic = mesh.load("client", "http://orders/echo", rps=50)
    nobody = _LATER.replace("app: orders", "app: nobody")
    for status, text in ((200, _LATER), (503, nobody), (200, _LATER)):
        mesh.write("more.yaml", text)
        mesh.wait(
            f"later is {status}",
            lambda status=status: mesh.get("client", "http://later/echo").status == status,
        )
    report = traffic.finish()

    assert report["failed"] == 0, report
