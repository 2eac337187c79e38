"""The way of a user with a running shop: label, restart, be meshed; canary, fault, STRICT, and back."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tests.cluster import mesh as proa
from tests.cluster import shop
from tests.cluster.cluster import Cluster
from xds.demo.processes import wait_until

LIVE_S = 60.0
"""Deadline for a change that should take 0.5 s: a busy machine is no failure, a lost push is."""

CALLS = 1000

SUBSETS = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: orders}
spec:
  host: orders
  subsets:
    - {name: v1, labels: {version: v1}}
    - {name: v2, labels: {version: v2}}
"""

EXCLUDED = shop.Workload(name="legacy", labels={"proa.dev/inject": "false"})


def canary(v2: int, fault: str = "") -> str:
    """Return the rule that gives v2 of orders so many percent, and perhaps a fault to all."""
    return f"""
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: orders}}
spec:
  hosts: [orders]
  http:
    - {fault}route:
        - {{destination: {{host: orders, subset: v1}}, weight: {100 - v2}}}
        - {{destination: {{host: orders, subset: v2}}, weight: {v2}}}
"""


ABORT = "fault: {abort: {percentage: {value: 100}, httpStatus: 418}}\n      "


def live(what: str, is_true: Callable[[], bool]) -> None:
    """Wait until a change that was applied has its effect."""
    wait_until(what, is_true, timeout_s=LIVE_S)


def orders(client: shop.Client, n: int = 20) -> dict[str, int]:
    """Return who answered calls of orders."""
    answer: Any = client.call("http://orders/echo", n=n)
    return answer["by_workload"]


def status(client: shop.Client, url: str) -> int:
    """Return the status of one call."""
    answer: Any = client.call(url, timeout="5s")
    return int(answer["status"])


def restart(cluster: Cluster, namespace: str) -> None:
    """Restart every Deployment and wait for the new Pods."""
    cluster.kubectl("rollout", "restart", "deployment", "-n", namespace)
    shop.wait(cluster, namespace)


def test_the_article_from_label_to_rollback(mesh: Cluster) -> None:
    """Nothing of the services changes, and what was applied works within seconds; then all is as before."""
    with mesh.namespace("article") as namespace:
        mesh.apply(
            "\n---\n".join((shop.everything(), EXCLUDED.manifest(), shop.service("legacy"))), namespace
        )
        shop.wait(mesh, namespace)
        mesh.kubectl("label", "namespace", namespace, "proa.dev/inject=enabled")
        restart(mesh, namespace)
        meshed = {
            pod["metadata"]["labels"]["app"]: proa.containers(pod) for pod in proa.pods(mesh, namespace)
        }
        assert meshed["web"][:2] == ["proa-init", proa.SIDECAR]
        assert meshed["legacy"] == ["shop"]
        with shop.Client(mesh, namespace, "web") as web:
            canary_and_fault(mesh, namespace, web)
            strict(mesh, namespace, web)
        mesh.kubectl("delete", "virtualservice,destinationrule,peerauthentication", "--all", "-n", namespace)
        mesh.kubectl("label", "namespace", namespace, "proa.dev/inject-")
        restart(mesh, namespace)
        assert {tuple(proa.containers(pod)) for pod in proa.pods(mesh, namespace)} == {("shop",)}
        with shop.Client(mesh, namespace, "web") as web:
            assert set(orders(web)) <= {"orders-v1", "orders-v2"}


def canary_and_fault(mesh: Cluster, namespace: str, web: shop.Client) -> None:
    """A weight is kept within 5 sigma, a fault aborts every request, and both go with their rule.

    Three sigma are left by chance once in 370 runs.
    """
    mesh.apply(SUBSETS, namespace)
    mesh.apply(canary(0), namespace)
    live("all to v1", lambda: set(orders(web)) == {"orders-v1"})
    mesh.apply(canary(10), namespace)
    live("some to v2", lambda: "orders-v2" in orders(web, 100))
    share = orders(web, CALLS)["orders-v2"] / CALLS
    assert abs(share - 0.1) < 5 * math.sqrt(0.1 * 0.9 / CALLS)

    mesh.apply(canary(10, ABORT), namespace)
    live("the fault", lambda: status(web, "http://orders/echo") == 418)
    answer: Any = web.call("http://orders/echo", n=50)
    assert answer["by_status"] == {"418": 50}

    mesh.apply(canary(0), namespace)
    live("the roll back to v1", lambda: set(orders(web)) == {"orders-v1"})


def strict(mesh: Cluster, namespace: str, web: shop.Client) -> None:
    """Meshed workloads reach each other; a stranger does not reach them; they reach what is excluded."""
    with shop.Client(mesh, namespace, "legacy") as legacy:
        assert status(legacy, "http://web/echo") == 200
        mesh.apply(shop.STRICT, namespace)
        live("plaintext refused", lambda: status(legacy, "http://web/echo") != 200)
        assert status(web, "http://orders/echo") == 200
        assert status(web, "http://legacy/echo") == 200
