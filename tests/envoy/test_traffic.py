"""Each traffic rule of VirtualService and DestinationRule, asserted by requests through two real Envoys."""

from __future__ import annotations

import re
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from rig import STRICT, App, MeshUnderTest, Reply, grpc

RULE = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: orders, namespace: shop}
spec:
  host: orders
  subsets:
    - {name: v1, labels: {version: v1}}
    - {name: v2, labels: {version: v2}}
"""
V1 = "{destination: {host: orders, subset: v1}}"
V2 = "{destination: {host: orders, subset: v2}}"
ELSE = f"- route: [{V1}]"


def mark(rules: str) -> str:
    """Return the path that only these rules answer."""
    return f"/rules/{zlib.crc32(rules.encode())}"


def routes(http: str, rule: str = RULE, host: str = "orders") -> str:
    """Return a mesh that is STRICT, with these rules for a host (a YAML list at no indent).

    The first rule answers at a path that only these rules have: a proxy acknowledges a table a moment before
    its worker uses it, and a test must not ask the old one.
    """
    marker = f"- match: [{{uri: {{exact: {mark(http + rule)}}}}}]\n  directResponse: {{status: 204}}\n"
    listed = "\n".join(f"    {line}" for line in (marker + http.strip()).splitlines())
    service = f"""
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: orders, namespace: shop}}
spec:
  hosts: [{host}]
  http:
{listed}
"""
    return "---".join((STRICT, rule, service))


class Shop:
    """The mesh of this file: a client, orders v1 and v2, and a way to change the rules."""

    def __init__(self, mesh: MeshUnderTest) -> None:
        self.mesh = mesh
        self._now = STRICT

    def use(self, manifests: str) -> None:
        """Put these manifests in force, and wait until every proxy has them."""
        if manifests != self._now:
            self.mesh.edit("manifests.yaml", manifests)
            if found := re.search(r"/rules/\d+", manifests):
                for client in ("client", "plainclient"):
                    url = f"http://orders{found.group(0)}"
                    self.mesh.wait(
                        "the rules are used", lambda at=client, url=url: self.mesh.get(at, url).status == 204
                    )
            self._now = manifests

    def get(self, path: str = "/echo", method: str = "GET", **headers: str) -> Reply:
        """Send a request to orders; underscores in header names stand for dashes."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.mesh.get("client", f"http://orders{path}", sent, method)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """One mesh for all tests of this file; each puts its own rules in force."""
    work: Path = tmp_path_factory.mktemp("traffic") / "mesh"
    apps = (
        App("client", labels={"tier": "gold"}),
        App("plainclient"),
        App("orders-v1", app="orders"),
        App("orders-v2", app="orders", version="v2"),
        grpc("stock-a", app="stock"),
        grpc("stock-b", app="stock"),
        grpc("stock-c", app="stock"),
    )
    mesh = MeshUnderTest(work, apps, STRICT, is_insecure=False)
    try:
        yield Shop(mesh.start())
    finally:
        mesh.stop()


@pytest.mark.parametrize(
    ("match", "hit", "miss"),
    [
        ("uri: {exact: /echo/a}", {"path": "/echo/a"}, {"path": "/echo/ab"}),
        ("uri: {prefix: /echo/x}", {"path": "/echo/xyz"}, {"path": "/echo"}),
        ('uri: {regex: "/echo/[0-9]+"}', {"path": "/echo/42"}, {"path": "/echo/42a"}),
        ("ignoreUriCase: true, uri: {exact: /ECHO/a}", {"path": "/echo/A"}, {"path": "/echo/b"}),
        ("headers: {x-user: {exact: qa}}", {"x_user": "qa"}, {"x_user": "qb"}),
        ('headers: {x-user: {regex: "q.*"}}', {"x_user": "q1"}, {"x_user": "aq"}),
        ("headers: {x-user: {}}", {"x_user": "anyone"}, {}),
        ("withoutHeaders: {x-user: {exact: qa}}", {}, {"x_user": "qa"}),
        ("method: {exact: POST}", {"method": "POST"}, {"method": "GET"}),
        ("queryParams: {v: {exact: '2'}}", {"path": "/echo?v=2"}, {"path": "/echo?v=3"}),
        ("port: 80", {}, None),
        ("sourceLabels: {tier: gold}", {}, None),
        ("uri: {prefix: /echo}, headers: {x-user: {exact: qa}}", {"x_user": "qa"}, {"path": "/echo"}),
    ],
)
def test_match(shop: Shop, match: str, hit: dict[str, str], miss: dict[str, str] | None) -> None:
    """A request goes to v2 when it matches, else to v1."""
    shop.use(routes(f"- match: [{{{match}}}]\n  route: [{V2}]\n{ELSE}"))

    assert shop.get(**hit).workload == "orders-v2"
    if miss is not None:
        assert shop.get(**miss).workload == "orders-v1"


def test_match_by_authority(shop: Shop) -> None:
    """The Host as sent decides."""
    shop.use(routes(f"- match: [{{authority: {{prefix: orders.shop}}}}]\n  route: [{V2}]\n{ELSE}"))

    assert shop.mesh.get("client", "http://orders.shop/echo").workload == "orders-v2"
    assert shop.get().workload == "orders-v1"


def test_source_labels_choose_by_client(shop: Shop) -> None:
    """Only clients that carry the label are routed by the rule."""
    shop.use(routes(f"- match: [{{sourceLabels: {{tier: gold}}}}]\n  route: [{V2}]\n{ELSE}"))

    assert shop.mesh.get("client", "http://orders/echo").workload == "orders-v2"
    assert shop.mesh.get("plainclient", "http://orders/echo").workload == "orders-v1"


def test_match_lists_are_alternatives(shop: Shop) -> None:
    """Entries of a match list are OR, fields within one are AND."""
    shop.use(
        routes(f"- match: [{{uri: {{exact: /echo/a}}}}, {{method: {{exact: PUT}}}}]\n  route: [{V2}]\n{ELSE}")
    )

    assert shop.get("/echo/a").workload == "orders-v2"
    assert shop.get(method="PUT").workload == "orders-v2"
    assert shop.get("/echo/b").workload == "orders-v1"


def test_weights(shop: Shop) -> None:
    """80/20 over 500 requests is within four standard deviations."""
    shop.use(routes("- route:\n  - {weight: 80, " + V1[1:] + "\n  - {weight: 20, " + V2[1:]))
    found = Counter(shop.get().workload for _ in range(500))

    assert set(found) == {"orders-v1", "orders-v2"}
    assert abs(found["orders-v2"] - 100) <= 4 * (500 * 0.8 * 0.2) ** 0.5


def test_rewrite_of_prefix_and_authority(shop: Shop) -> None:
    """The matched prefix and the Host are replaced on the way."""
    shop.use(
        routes(
            "- match: [{uri: {prefix: /old}}]\n  rewrite: {uri: /echo, authority: new.example}\n"
            f"  route: [{V1}]"
        )
    )
    found = shop.get("/old/a").json

    assert found["path"] == "/echo/a"
    assert found["host"] == "new.example"


def test_rewrite_by_regex(shop: Shop) -> None:
    """A regex with capture groups rewrites the path."""
    shop.use(
        routes(
            "- match: [{uri: {prefix: /v}}]\n"
            "  rewrite: {uriRegexRewrite: {match: '^/v[0-9]+/(.*)$', rewrite: '/echo/\\1'}}\n"
            f"  route: [{V1}]"
        )
    )

    assert shop.get("/v2/items").json["path"] == "/echo/items"


def test_redirect(shop: Shop) -> None:
    """The client is sent elsewhere with the code that was asked for."""
    shop.use(routes("- redirect: {uri: /new, authority: other.example, redirectCode: 302}"))
    found = shop.get("/old")

    assert found.status == 302
    assert found.headers["location"] == "http://other.example/new"


def test_redirect_to_the_port_that_was_called(shop: Shop) -> None:
    """Another scheme with FROM_REQUEST_PORT keeps the port, where the default is the scheme's own."""
    shop.use(routes("- redirect: {scheme: https, derivePort: FROM_REQUEST_PORT}"))

    assert shop.get("/old").headers["location"] == "https://orders:80/old"


def test_a_service_by_every_form_of_its_name(shop: Shop) -> None:
    """A VirtualService that lists them all, as controllers write it, holds for all of them."""
    forms = ("orders.shop", "orders.shop.svc", "orders.shop.svc.cluster.local")
    shop.use(routes("- directResponse: {status: 418}", host=", ".join(forms)))

    assert [shop.mesh.get("client", f"http://{host}/echo").status for host in ("orders", *forms)] == [418] * 4


def test_what_is_for_gateways_or_connections_costs_no_rule_for_requests(shop: Shop) -> None:
    """A rule of a gateway that Proa could not read, and rules for TCP and TLS, beside one that sidecars go by."""
    found = routes("- match: [{gateways: [edge]}]\n  delegate: {name: far}\n- directResponse: {status: 418}")
    found = found.replace("  http:\n", "  gateways: [mesh, edge]\n  http:\n")
    shop.use(
        f"{found}  tcp: [{{route: [{{destination: {{host: orders}}}}]}}]\n"
        "  tls: [{match: [{gateways: [edge], sniHosts: [a]}], route: [{destination: {host: far.example}}]}]\n"
    )

    assert shop.get().status == 418


def test_direct_response(shop: Shop) -> None:
    """The sidecar answers by itself."""
    shop.use(routes("- directResponse: {status: 503, body: {string: closed}}"))
    found = shop.get()

    assert found.status == 503
    assert found.body == b"closed"


def test_header_operations(shop: Shop) -> None:
    """Headers are set, added and removed in both directions, at the route and at the destination."""
    shop.use(
        routes(
            "- headers: {request: {set: {x-a: '1'}, add: {x-b: '2'}, remove: [x-c]}, response: {set: {x-d: '3'}}}\n"
            "  route: [{destination: {host: orders, subset: v1}, headers: {request: {set: {x-e: '4'}}, "
            "response: {remove: [x-shop-version]}}}]"
        )
    )
    found = shop.get(x_a="0", x_c="9")
    sent = found.json["headers"]

    assert (sent["x-a"], sent["x-b"], sent["x-e"]) == (["1"], ["2"], ["4"])
    assert "x-c" not in sent
    assert found.headers["x-d"] == "3"
    assert "x-shop-version" not in found.headers


def test_timeout(shop: Shop) -> None:
    """A slow answer becomes 504 at the timeout; without one nobody cuts it."""
    shop.use(routes(f"- match: [{{uri: {{exact: /echo/cut}}}}]\n  timeout: 200ms\n  route: [{V1}]\n{ELSE}"))
    began = time.monotonic()
    cut = shop.get("/echo/cut", x_shop_delay="20s")
    took_s = time.monotonic() - began

    assert cut.status == 504
    assert took_s < 10  # half of what the server takes
    assert shop.get(x_shop_delay="400ms").status == 200


def test_retries_are_counted_at_the_server(shop: Shop) -> None:
    """Two failures and three attempts: the third succeeds, and the server saw it as such."""
    shop.use(routes(f"- retries: {{attempts: 3, perTryTimeout: 2s, retryOn: 5xx}}\n  route: [{V1}]"))
    found = shop.get(x_shop_fail_first="2", x_request_id=f"r-{time.monotonic_ns()}")

    assert found.status == 200
    assert found.json["attempt"] == 3


def test_attempts_zero_disables_retries(shop: Shop) -> None:
    """``attempts: 0`` leaves the first failure standing."""
    shop.use(routes(f"- retries: {{attempts: 0}}\n  route: [{V1}]"))

    assert shop.get(x_shop_fail_first="1", x_request_id=f"z-{time.monotonic_ns()}").status == 503


def test_post_is_never_repeated_by_default(shop: Shop) -> None:
    """Without a rule, an answer of 503 to a POST is final: the server may have worked on it."""
    shop.use(routes(ELSE))

    assert (
        shop.get(method="POST", x_shop_fail_first="1", x_request_id=f"p-{time.monotonic_ns()}").status == 503
    )


def test_per_try_timeout(shop: Shop) -> None:
    """A try that is too slow is given up, and the next one may answer."""
    shop.use(routes(f"- retries: {{attempts: 1, perTryTimeout: 200ms, retryOn: 5xx}}\n  route: [{V1}]"))
    began = time.monotonic()
    found = shop.get(x_shop_delay="20s")

    assert found.status in (503, 504)
    assert time.monotonic() - began < 10  # half of what one try takes


def test_fault_abort(shop: Shop) -> None:
    """All requests of a rule are aborted by the caller's sidecar; the server is not asked."""
    shop.use(
        routes(
            "- match: [{headers: {x-chaos: {exact: 'on'}}}]\n"
            f"  fault: {{abort: {{httpStatus: 418, percentage: {{value: 100}}}}}}\n  route: [{V1}]\n{ELSE}"
        )
    )

    assert [shop.get(x_chaos="on", method=m).status for m in ("GET", "POST")] == [418, 418]
    assert shop.get().status == 200


def test_fault_abort_by_percentage(shop: Shop) -> None:
    """A share of the requests is aborted, within four standard deviations."""
    shop.use(routes(f"- fault: {{abort: {{httpStatus: 503, percentage: {{value: 30}}}}}}\n  route: [{V1}]"))
    aborted = sum(shop.get().status == 503 for _ in range(300))

    assert abs(aborted - 90) <= 4 * (300 * 0.3 * 0.7) ** 0.5


def test_fault_delay(shop: Shop) -> None:
    """A fixed delay is added, and the request still answered."""
    shop.use(routes(f"- fault: {{delay: {{fixedDelay: 1s, percentage: {{value: 100}}}}}}\n  route: [{V1}]"))
    began = time.monotonic()
    found = shop.get()

    assert found.status == 200
    # Envoy counts from when its loop last looked at the clock, before it may have waited for a processor.
    assert time.monotonic() - began >= 0.8


def test_mirror(shop: Shop) -> None:
    """A copy of each request reaches the mirror; the answer comes from the route."""
    shop.use(
        routes(f"- route: [{V1}]\n  mirror: {{host: orders, subset: v2}}\n  mirrorPercentage: {{value: 100}}")
    )
    cluster = r"^cluster\.outbound.80.v2.orders.*\.upstream_rq_total$|inbound.*8080.*upstream_rq_total$"
    before = sum(shop.mesh.stats("orders-v2", cluster).values())
    answers = {shop.get().workload for _ in range(10)}

    assert answers == {"orders-v1"}
    shop.mesh.wait(
        "ten mirrored requests", lambda: sum(shop.mesh.stats("orders-v2", cluster).values()) >= before + 10
    )


def test_hash_by_header_sticks(shop: Shop) -> None:
    """Requests with one header value go to one endpoint; many values reach both."""
    rule = RULE.replace(
        "  subsets:",
        "  trafficPolicy: {loadBalancer: {consistentHash: {httpHeaderName: x-user}}}\n  subsets:",
    )
    shop.use("---".join((STRICT, rule)))
    by_user = {user: {shop.get(x_user=f"u{user}").workload for _ in range(5)} for user in range(20)}

    assert all(len(found) == 1 for found in by_user.values())
    assert {workload for found in by_user.values() for workload in found} == {"orders-v1", "orders-v2"}


def test_round_robin_alternates(shop: Shop) -> None:
    """ROUND_ROBIN over two endpoints is even."""
    rule = RULE.replace("  subsets:", "  trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}\n  subsets:")
    shop.use("---".join((STRICT, rule)))
    found = Counter(shop.get().workload for _ in range(100))

    assert abs(found["orders-v1"] - 50) <= 5


def test_connection_pool_refuses_the_surplus(shop: Shop) -> None:
    """With one pending and one active request allowed, of many at once some are turned away at the client."""
    policy = (
        "  trafficPolicy: {connectionPool: {tcp: {maxConnections: 1}, http: {http1MaxPendingRequests: 1}}}\n"
    )
    shop.use("---".join((STRICT, RULE.replace("  subsets:", policy + "  subsets:"))))
    report = shop.mesh.load("client", "http://orders/echo", rps=200, args=("--header", "x-shop-delay: 300ms"))
    shop.mesh.wait("an overflow", lambda: _overflows(shop) > 0)
    final = report.finish()

    assert final["by_status"].get("503", 0) > 0


def _overflows(shop: Shop) -> int:
    return sum(
        shop.mesh.stats("client", r"^cluster\.outbound.80..orders.*upstream_rq_pending_overflow$").values()
    )


def test_outlier_is_ejected(shop: Shop) -> None:
    """After three failures in a row the endpoint gets no request for the ejection time."""
    policy = (
        "  trafficPolicy: {outlierDetection: {consecutive5xxErrors: 3, interval: 100ms, baseEjectionTime: 30s, "
        "maxEjectionPercent: 100}}\n"
    )
    shop.use(
        routes(
            f"- retries: {{attempts: 0}}\n  route: [{V1}]", RULE.replace("  subsets:", policy + "  subsets:")
        )
    )
    failures = [shop.get(x_shop_status="503") for _ in range(3)]
    ejected = r"^cluster\.outbound.80.v1.orders.*outlier_detection.ejections_active$"
    shop.mesh.wait("the ejection", lambda: sum(shop.mesh.stats("client", ejected).values()) == 1)
    after = shop.get()

    assert {found.status for found in failures} == {503}
    assert after.status == 503
    assert after.workload == ""


def test_one_grpc_connection_is_spread_over_three_servers(shop: Shop) -> None:
    """One ClientConn, three servers: each gets a third, within three points."""
    shop.use(STRICT)
    found = shop.mesh.call_grpc("client", "stock:9090", n=3000)

    assert found["by_code"] == {"OK": 3000}
    assert set(found["by_workload"]) == {"stock-a", "stock-b", "stock-c"}
    assert all(abs(count / 3000 - 1 / 3) <= 0.03 for count in found["by_workload"].values())


def test_bad_edit_keeps_the_last_good_rules(shop: Shop) -> None:
    """A misspelt field is reported with its place, and traffic goes on by the last good version."""
    good = routes(f"- route: [{V2}]")
    shop.use(good)
    shop.mesh.write("manifests.yaml", good.replace("subset: v2}}]", "subst: v2}}]"))
    shop.mesh.wait("the problem", lambda: any("subst" in p.field for p in shop.mesh.mesh.api.problems()))
    found = [problem for problem in shop.mesh.mesh.api.problems() if "subst" in problem.field]
    served = {shop.get().workload for _ in range(10)}
    shop.mesh.write("manifests.yaml", good)
    shop.mesh.wait("it is mended", lambda: not shop.mesh.mesh.api.problems())

    assert served == {"orders-v2"}
    assert "did you mean subset" in found[0].reason
    assert "manifests.yaml:" in found[0].where
