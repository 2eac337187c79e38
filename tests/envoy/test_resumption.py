"""A caller proves who it is on each connection: no session of TLS stands for a certificate that was seen before."""

from __future__ import annotations

from collections import Counter
from typing import Final

import pytest
from rig import STRICT, App, StartMesh

pytestmark = pytest.mark.envoy

RULES: Final = """
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: orders, namespace: shop}
spec:
  selector: {matchLabels: {app: orders}}
  rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/client]}}]}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: orders, namespace: shop}
spec:
  host: orders
  trafficPolicy: {connectionPool: {http: {maxRequestsPerConnection: 1}}}
"""

CALLS: Final = 50


def test_a_caller_that_comes_back_is_known_on_every_connection(start_mesh: StartMesh) -> None:
    """A resumed session shows no validated certificate, so that its caller was denied what it may."""
    mesh = start_mesh(App("client"), App("orders"), manifests=STRICT + RULES)

    statuses = Counter(mesh.get("client", "http://orders/echo").status for _ in range(CALLS))

    resumed = mesh.stats("orders", r"^listener\.inbound.*ssl\.session_reused$")
    assert (statuses, sum(resumed.values())) == ({200: CALLS}, 0)
