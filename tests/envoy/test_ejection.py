"""Whom a sidecar has ejected, as `proa status` tells it."""

from __future__ import annotations

import json
import subprocess
import sys

from rig import STRICT, App, MeshUnderTest, StartMesh

RULE = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: orders, namespace: shop}
spec:
  host: orders
  trafficPolicy:
    outlierDetection: {consecutive5xxErrors: 2, interval: 200ms, baseEjectionTime: 30s, maxEjectionPercent: 50}
"""


def status(mesh: MeshUnderTest, *options: str) -> str:
    """Return what `proa status` prints."""
    argv = [sys.executable, "-m", "xds", "status", "--admin", f"127.0.0.1:{mesh.mesh.admin_port}", *options]
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=30).stdout


def ejected(mesh: MeshUnderTest) -> list[tuple[str, str]]:
    """Return who has ejected which Pod, as the command says."""
    proxies = json.loads(status(mesh, "-o", "json"))["proxies"]
    return [(proxy["id"], one["pod"]) for proxy in proxies for one in proxy["ejected"]]


def test_the_ejected_endpoint_is_named_until_it_is_back(start_mesh: StartMesh) -> None:
    """One of two fails twice: the command names its Pod and the client, which sends nothing there meanwhile."""
    apps = (App("client"), App("orders-a", app="orders"), App("orders-b", app="orders"))
    mesh = start_mesh(*apps, manifests=f"{STRICT}---{RULE}")
    assert ejected(mesh) == []

    for _ in range(12):
        mesh.get("client", "http://orders/echo", {"x-shop-status": "500"})
    mesh.wait("the ejection is told", lambda: len(ejected(mesh)) == 1, timeout_s=25)
    ((client, pod),) = ejected(mesh)
    assert client == "client.shop"
    assert {mesh.get("client", "http://orders/echo").workload for _ in range(10)} == (
        {"orders-a", "orders-b"} - {pod.removeprefix("shop/")}
    )
    assert f"{pod} " in status(mesh)
    assert "orders.shop.svc.cluster.local:80" in status(mesh)
    mesh.wait("it is back", lambda: ejected(mesh) == [], timeout_s=90)
