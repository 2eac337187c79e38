"""What a limit lets through: by workload, route, header value and caller, in numbers that clients count."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from gate import Gate, all_at_once
from rig import STRICT, App, Container, MeshUnderTest, Reply, StartMesh, grpc

GATE = Gate()
APPS = (
    App("client"),
    App("other"),
    App("third"),
    App("orders"),
    App("rules"),
    App("annotated"),
    grpc("stock"),
    App("gated", more=(Container("gate", 8081, listen=GATE.listen),)),
)

LIMITS = """
apiVersion: proa.dev/v1alpha1
kind: RateLimit
metadata: {name: orders, namespace: shop}
spec:
  selector: {matchLabels: {app: orders}}
  rules: [{requests: 10, burst: 20}]
---
apiVersion: proa.dev/v1alpha1
kind: RateLimit
metadata: {name: stock, namespace: shop}
spec:
  targetRef: {kind: Service, name: stock}
  rules: [{requests: 1, interval: 1h}]
---
apiVersion: proa.dev/v1alpha1
kind: RateLimit
metadata: {name: rules, namespace: shop}
spec:
  targetRef: {kind: Service, name: rules}
  rules:
  - {requests: 2, interval: 30m, match: {methods: [POST], path: {exact: /echo/new}}}
  - {requests: 3, interval: 1h, match: {path: {regex: "/echo/items/[0-9]+"}}}
  - {requests: 2, interval: 1h, match: {path: {prefix: /echo/tenant}}, by: {header: X-Tenant}}
  - {requests: 2, interval: 1h, match: {path: {prefix: /echo/caller}}, by: {caller: true}}
  - {requests: 1, interval: 1h, match: {headers: {x-debug: {exact: "1"}}}}
---
apiVersion: proa.dev/v1alpha1
kind: RateLimit
metadata: {name: gated, namespace: shop}
spec: {selector: {matchLabels: {app: gated}}, concurrency: 10}
---
apiVersion: v1
kind: Service
metadata: {name: gate, namespace: shop}
spec: {selector: {app: gated}, ports: [{name: http, port: 80, targetPort: gate}]}
---
apiVersion: v1
kind: Service
metadata: {name: also-annotated, namespace: shop, annotations: {proa.dev/rate-limit: 3/h; concurrency 5}}
spec: {selector: {app: annotated}, ports: [{name: http, port: 80, targetPort: 8080}]}
"""


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MeshUnderTest]:
    """One mesh for all tests of this file; each test has a Service of its own."""
    mesh = MeshUnderTest(
        tmp_path_factory.mktemp("limits") / "mesh", APPS, f"{STRICT}---{LIMITS}", is_insecure=False
    )
    try:
        yield mesh.start()
    finally:
        mesh.stop()


def statuses(mesh: MeshUnderTest, url: str, n: int, source: str = "client", **headers: str) -> list[int]:
    """Return how `n` requests in a row were answered."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return [mesh.get(source, url, named).status for _ in range(n)]


@pytest.mark.timeout(180)
def test_ten_a_second_and_a_burst_of_twenty(mesh: MeshUnderTest) -> None:
    """Of 100 requests a second for 30 s, 20 + 10·t are admitted, within 5 %; the others are told 429."""
    began = time.monotonic()
    report = mesh.load("client", "http://orders/echo", rps=100, args=("--duration", "30s"))
    report.child.process.wait(timeout=120)
    took_s = time.monotonic() - began
    final = report.finish()
    admitted, refused = final["by_status"]["200"], final["by_status"]["429"]

    assert admitted + refused == final["sent"]
    assert final["sent"] > 2500
    assert admitted == pytest.approx(20 + 10 * final["seconds"], rel=0.05)
    assert final["seconds"] <= took_s


def test_what_a_refused_client_is_told(mesh: MeshUnderTest) -> None:
    """429 with the time to wait, and on every answer what the bucket holds."""
    answers = [mesh.get("client", "http://rules/echo/items/7") for _ in range(4)]

    assert [answer.status for answer in answers] == [200, 200, 200, 429]
    assert [answer.headers["x-ratelimit-remaining"] for answer in answers] == ["2", "1", "0", "0"]
    assert {answer.headers["x-ratelimit-limit"] for answer in answers} == {"3"}
    assert 0 < int(answers[3].headers["x-ratelimit-reset"]) <= 1200
    assert answers[3].headers["retry-after"] == "3600"
    assert "retry-after" not in answers[0].headers


def test_a_route_is_its_method_and_its_path_without_the_query(mesh: MeshUnderTest) -> None:
    """A query does not evade the limit, and another method or path is not limited."""

    def post(path: str) -> int:
        return mesh.get("client", f"http://rules{path}", method="POST").status

    assert [post("/echo/new"), post("/echo/new?a=1"), post("/echo/new?a=2"), post("/echo/x/../new")] == [
        200,
        200,
        429,
        429,
    ]
    assert post("/echo/newer") == 200
    assert statuses(mesh, "http://rules/echo/new", 5) == [200] * 5


def test_each_value_of_a_header_has_its_own_bucket(mesh: MeshUnderTest) -> None:
    """Those without the header share one: leaving it out sets nobody free."""
    url = "http://rules/echo/tenant"

    assert statuses(mesh, url, 3, x_tenant="a") == [200, 200, 429]
    assert statuses(mesh, url, 3, x_tenant="b") == [200, 200, 429]
    assert statuses(mesh, url, 3) == [200, 200, 429]
    assert statuses(mesh, url, 1, "other") == [429]


def test_each_caller_has_its_own_bucket(mesh: MeshUnderTest) -> None:
    """The identity is that of the certificate, whatever the request says."""
    url = "http://rules/echo/caller"

    assert statuses(mesh, url, 3, "client") == [200, 200, 429]
    forged = "URI=spiffe://cluster.local/ns/shop/sa/somebody"
    assert statuses(mesh, url, 1, "client", x_forwarded_client_cert=forged) == [429]
    assert statuses(mesh, url, 3, "other") == [200, 200, 429]


def test_a_header_is_a_condition(mesh: MeshUnderTest) -> None:
    """Only requests with that value are limited."""
    assert statuses(mesh, "http://rules/echo", 2, x_debug="1") == [200, 429]
    assert statuses(mesh, "http://rules/echo", 2, x_debug="2") == [200, 200]


def test_the_annotation_of_a_service_says_the_same(mesh: MeshUnderTest) -> None:
    """`3/h`: three, then none for twenty minutes."""
    assert statuses(mesh, "http://also-annotated/echo", 4) == [200, 200, 200, 429]


def test_grpc_is_told_resource_exhausted(mesh: MeshUnderTest) -> None:
    """The word of gRPC for it, which no client takes for an outage."""
    assert mesh.call_grpc("client", "stock:9090", n=3)["by_code"] == {"OK": 1, "ResourceExhausted": 2}


@pytest.mark.timeout(180)
def test_the_handler_never_sees_more_than_ten_at_once(mesh: MeshUnderTest) -> None:
    """Three clients with fifty requests at once each, all of which wait: ten are served at a time, 503 for the rest."""
    calls = [
        lambda source=source: mesh.get(source, "http://gate/held")
        for source in ("client", "other", "third")
        for _ in range(50)
    ]
    found = all_at_once(calls, rounds=3)

    assert set(found) == {200, 503}
    assert GATE.most == 10
    assert found[200] >= 30
    refused = mesh.stats("gated", r".*requests_total\..*\.response_code\.503\..*")
    assert sum(refused.values()) == found[503]


def test_both_ways_into_a_port_share_a_bucket(start_mesh: StartMesh) -> None:
    """PERMISSIVE: plaintext and mutual TLS are counted together."""
    limit = LIMITS.split("---", maxsplit=1)[0].replace("requests: 10, burst: 20", "requests: 4, interval: 1h")
    mesh = start_mesh(App("client"), App("orders"), manifests=limit)
    orders = mesh.apps["orders"]

    def direct() -> Reply:
        return mesh.request(orders.pod_ip, orders.port, "http://orders/echo")

    assert statuses(mesh, "http://orders/echo", 2) == [200, 200]
    assert [direct().status for _ in range(4)] == [200, 200, 429, 429]
    assert statuses(mesh, "http://orders/echo", 1) == [429]


def test_a_change_is_live_without_a_lost_connection(start_mesh: StartMesh) -> None:
    """A new limit, a wider one, a broken one (the last good one stays), none: each holds for open connections."""
    limit = LIMITS.split("---", maxsplit=1)[0]
    narrow = limit.replace("requests: 10, burst: 20", "requests: 1, interval: 1h")
    mesh = start_mesh(App("client"), App("orders"), manifests=STRICT)
    assert statuses(mesh, "http://orders/echo", 3) == [200] * 3  # the sidecars keep their connection open
    mesh.edit("manifests.yaml", f"{STRICT}---{narrow}")
    assert statuses(mesh, "http://orders/echo", 2) == [200, 429]

    mesh.edit("manifests.yaml", f"{STRICT}---{narrow.replace('requests: 1', 'requests: 3')}")
    assert statuses(mesh, "http://orders/echo", 4) == [200, 200, 200, 429]

    mesh.write("manifests.yaml", f"{STRICT}---{narrow.replace('requests: 1', 'requests: -1')}")
    mesh.wait(
        "the problem is told",
        lambda: [problem.field for problem in mesh.mesh.api.problems()] == ["spec.rules[0].requests"],
    )
    assert statuses(mesh, "http://orders/echo", 1) == [429]

    traffic = mesh.load("client", "http://orders/echo?free", rps=100)
    mesh.edit("manifests.yaml", STRICT)
    mesh.wait("the limit is gone", lambda: mesh.get("client", "http://orders/echo").status == 200)
    gone = mesh.sent("client")
    mesh.wait("it is gone for the others", lambda: mesh.sent("client") > gone + 10)
    # How many were limited depends on how fast the change is.
    assert {"200"} <= set(traffic.finish()["by_status"]) <= {"200", "429"}


RETRIES = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: gate, namespace: shop}
spec:
  hosts: [gate]
  http: [{route: [{destination: {host: gate}}], retries: {attempts: 3, retryOn: 5xx, backoff: 1ms}}]
---
apiVersion: v1
kind: Service
metadata: {name: gate, namespace: shop}
spec: {selector: {app: gated}, ports: [{name: http, port: 80, targetPort: gate}]}
"""
BUDGET = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: gate, namespace: shop}
spec: {host: gate, trafficPolicy: {retryBudget: {percent: 5, minRetryConcurrency: 2}}}
"""


def test_a_retry_budget_bounds_what_a_failing_server_gets(start_mesh: StartMesh) -> None:
    """Of 40 requests at once, each tried four times, 160 arrive; with a budget of two at a time, a few more than 40."""
    gate = Gate(status=503)
    gated = App("gated", more=(Container("gate", 8081, listen=gate.listen),))
    mesh = start_mesh(App("client"), gated, manifests=f"{STRICT}---{RETRIES}")
    calls = [lambda: mesh.get("client", "http://gate/held")] * 40

    assert all_at_once(calls) == {503: 40}
    assert gate.served == 160

    mesh.edit("manifests.yaml", f"{STRICT}---{RETRIES}---{BUDGET}")
    gate.served = 0
    assert all_at_once(calls) == {503: 40}
    assert 40 < gate.served < 60


def test_a_pool_of_a_rule_limits_the_instance(start_mesh: StartMesh) -> None:
    """http2MaxRequests of a Service's DestinationRule holds at the server, for all clients together."""
    gate = Gate()
    rule = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: gate, namespace: shop}
spec: {host: gate, trafficPolicy: {connectionPool: {http: {http2MaxRequests: 5}}}}
---
apiVersion: v1
kind: Service
metadata: {name: gate, namespace: shop}
spec: {selector: {app: gated}, ports: [{name: http, port: 80, targetPort: gate}]}
"""
    gated = App("gated", more=(Container("gate", 8081, listen=gate.listen),))
    mesh = start_mesh(App("client"), App("other"), gated, manifests=f"{STRICT}---{rule}")
    calls = [
        lambda source=source: mesh.get(source, "http://gate/held")
        for source in ("client", "other")
        for _ in range(8)
    ]
    found = all_at_once(calls, rounds=2)

    assert set(found) == {200, 503}
    assert gate.most == 5
