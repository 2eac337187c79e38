"""Limits that instances share, counted by the real rate limit service; and what happens while nobody answers."""

from __future__ import annotations

from pathlib import Path

import limiter
from limiter import rate_limit_service
from rig import STRICT, App, MeshUnderTest, StartMesh

NEEDS = limiter.NEEDS

# Its days begin at midnight: an hour ends 24 times as often while a test counts.
CONFIG = """
domain: shop
descriptors:
- key: service
  value: orders
  descriptors:
  - key: tenant
    rate_limit: {unit: day, requests_per_unit: 3}
- key: caller
  value: spiffe://cluster.local/ns/shop/sa/other
  rate_limit: {unit: day, requests_per_unit: 1}
"""

MANIFESTS = """
apiVersion: v1
kind: ConfigMap
metadata: {name: proa, namespace: proa-system}
data:
  mesh: |
    extensionProviders:
    - name: counters
      ratelimit: {service: counters.example.com, port: 8081, domain: shop, timeout: 5s}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: counters, namespace: shop}
spec:
  hosts: [counters.example.com]
  resolution: STATIC
  ports: [{number: 8081, name: grpc, protocol: GRPC, targetPort: PORT}]
  endpoints: [{address: 127.0.0.1}]
---
apiVersion: proa.dev/v1alpha1
kind: RateLimit
metadata: {name: orders, namespace: shop}
spec:
  targetRef: {kind: Service, name: orders}
  global:
    provider: counters
    descriptors:
    - entries: [{key: service, value: orders}, {key: tenant, header: x-tenant}]
    - entries: [{key: caller, caller: true}]
---
apiVersion: proa.dev/v1alpha1
kind: RateLimit
metadata: {name: closed, namespace: shop}
spec:
  selector: {matchLabels: {app: closed}}
  global: {provider: counters, failOpen: false, descriptors: [{entries: [{key: service, value: closed}]}]}
"""


def manifests(port: int) -> str:
    """Return the mesh settings and the limits that ask the service."""
    return f"{STRICT}---{MANIFESTS.replace('PORT', str(port))}"


def statuses(
    mesh: MeshUnderTest, n: int, source: str = "client", to: str = "orders", **headers: str
) -> list[int]:
    """Return how `n` requests in a row were answered."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return [mesh.get(source, f"http://{to}/echo", named).status for _ in range(n)]


def silent_to(mesh: MeshUnderTest) -> set[str]:
    """Return whose rate limit service has not answered, as the control plane says."""
    return {
        proxy.id for proxy in mesh.mesh.api.proxies() for one in proxy.silent if "rate limit" in one.service
    }


def _is_told(mesh: MeshUnderTest) -> bool:
    """Ask once more, and tell whether it is said that nobody answered."""
    return statuses(mesh, 1, to="closed") == [500] and "closed.shop" in silent_to(mesh)


def test_instances_share_what_the_service_counts(start_mesh: StartMesh, tmp_path: Path) -> None:
    """Three a day for each tenant over both instances, one for a caller; unreachable: open or closed, as said."""
    apps = (
        App("client"),
        App("other"),
        App("orders-a", app="orders"),
        App("orders-b", app="orders"),
        App("closed"),
    )
    with rate_limit_service(tmp_path / "counters", CONFIG) as service:
        mesh = start_mesh(*apps, manifests=manifests(service.port))
        assert statuses(mesh, 5, x_tenant="a") == [200, 200, 200, 429, 429]
        assert statuses(mesh, 4, x_tenant="b") == [200, 200, 200, 429]
        assert statuses(mesh, 4) == [200, 200, 200, 429]
        assert statuses(mesh, 2, "other", x_tenant="c") == [200, 429]
        assert statuses(mesh, 2, to="closed") == [200, 200]
        refused = mesh.get("client", "http://orders/echo", {"x-tenant": "a"})
        assert refused.headers["x-ratelimit-limit"].startswith("3")
        assert refused.headers["x-ratelimit-remaining"] == "0"
        assert 0 < int(refused.headers["x-ratelimit-reset"]) <= 86_400

        service.stop()
        assert statuses(mesh, 5, x_tenant="a") == [200] * 5
        assert statuses(mesh, 5, to="closed") == [500] * 5
        mesh.wait("the silence is told", lambda: _is_told(mesh), timeout_s=30)

        service.start()
        mesh.wait("it is asked again", lambda: statuses(mesh, 1, to="closed") == [200], timeout_s=30)


def test_a_provider_that_nobody_named(start_mesh: StartMesh) -> None:
    """Requests are decided by the fail mode, and the object is told."""
    apps = (App("client"), App("orders"), App("closed"))
    mesh = start_mesh(*apps, manifests=manifests(1).replace("provider: counters", "provider: nobody"))

    assert statuses(mesh, 2) == [200, 200]
    assert statuses(mesh, 2, to="closed") == [500, 500]
    told = {(problem.object, problem.field) for problem in mesh.mesh.api.problems()}
    assert told == {(f"RateLimit shop/{name}", "spec.global.provider") for name in ("orders", "closed")}
