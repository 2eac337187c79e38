"""Limits of a Pod whose traffic is redirected: they hold however it is called, and never for its probes."""

from __future__ import annotations

import netns
from rig import App
from transparent import OUTSIDE, StartPods

NEEDS = netns.NEEDS

LIMITS = """
apiVersion: proa.dev/v1alpha1
kind: RateLimit
metadata: {name: orders, namespace: shop}
spec: {selector: {matchLabels: {app: orders}}, rules: [{requests: 3, interval: 1h}], concurrency: 5}
"""


def test_a_limit_holds_for_all_ways_in_but_not_for_probes(start_pods: StartPods) -> None:
    """PERMISSIVE: a client with a sidecar and one without share the bucket; the kubelet's path is free."""
    probes = {"readinessProbe": {"httpGet": {"path": "/healthz", "port": "main"}}}
    mesh = start_pods(
        App("client"), App("plain", labels=OUTSIDE), App("orders", probes=probes), manifests=LIMITS
    )
    at = mesh.at("orders").ip

    assert [mesh.ask("client", mesh.vip("orders"), 80, "http://orders/echo").status for _ in range(2)] == [
        200,
        200,
    ]
    assert [mesh.ask("plain", at, 8080, "http://orders/echo").status for _ in range(3)] == [200, 429, 429]
    assert [mesh.ask("plain", at, 8080, "http://orders/healthz").status for _ in range(5)] == [200] * 5
    assert mesh.ask("client", at, 8080, "http://orders/echo").status == 429
