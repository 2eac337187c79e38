"""Real load through real Envoys into a real Prometheus: counts are exact, and every panel and alert says something."""

from __future__ import annotations

import bisect
import itertools
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from prometheus import NEEDS as INSTALLED
from prometheus import SHIPPED, Prometheus, check
from rig import STRICT, App, MeshUnderTest, address, grpc

from deploy.observability.queries import ALERTS, DASHBOARDS, RATE, SERVICE
from xds.bootstrap.stats import MILLISECOND_BUCKETS
from xds.demo.manifests import OUTBOUND_PORT

NEEDS = INSTALLED

MYSQL = address()
ORDERS: Final = "orders.shop.svc.cluster.local"

MANIFESTS = (
    STRICT
    + """
---
apiVersion: v1
kind: ConfigMap
metadata: {name: proa, namespace: proa-system}
data: {mesh: "metrics: {sizes: true}"}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: orders, namespace: shop}
spec:
  host: orders
  trafficPolicy: {outlierDetection: {consecutive5xxErrors: 1000}}
"""
)

WINDOW: Final = "15s"
"""What Grafana's rate interval is at a scrape each second, with room for the flush of 5 s."""

ISTIO: Final = (
    (
        "istio_requests_total",
        ("response_code", "response_flags", "connection_security_policy", "request_protocol"),
    ),
    ("istio_request_duration_milliseconds_bucket", ("le", "connection_security_policy")),
    ("istio_request_bytes_bucket", ("le", "connection_security_policy")),
    ("istio_response_bytes_bucket", ("le", "connection_security_policy")),
    ("istio_tcp_sent_bytes_total", ("connection_security_policy",)),
    ("istio_tcp_received_bytes_total", ("connection_security_policy",)),
    ("istio_tcp_connections_opened_total", ()),
    ("istio_tcp_connections_closed_total", ()),
)
"""What the queries of Istio's public dashboards (mesh, service, workload) name, and the labels they select or group by
in each; all of them also name those of `EVERYWHERE`. Listed in docs/metrics.md."""

EVERYWHERE: Final = (
    "source_workload",
    "source_workload_namespace",
    "source_cluster",
    "destination_workload",
    "destination_workload_namespace",
    "destination_service",
    "destination_service_name",
    "destination_service_namespace",
    "destination_cluster",
    "source_canonical_service",
    "source_canonical_revision",
    "destination_canonical_service",
    "destination_canonical_revision",
)


EDITS = itertools.count(100)
"""A value that the rule has not had yet: an edit that changes nothing is never live."""


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MeshUnderTest]:
    """A client, two versions of a service behind it, gRPC and a database."""
    work: Path = tmp_path_factory.mktemp("dashboards") / "mesh"
    apps = (
        App("client", annotations={"proa.dev/upstreams": f"{MYSQL}:3306=mysql.shop:3306"}),
        App("orders-v1", app="orders"),
        App("orders-v2", app="orders", version="v2"),
        grpc("stock"),
        App("mysql", serves="tcp", protocol="tcp", service_port=3306, port=3306),
    )
    mesh = MeshUnderTest(work, apps, MANIFESTS, is_insecure=False)
    try:
        yield mesh.start()
    finally:
        mesh.stop()


@pytest.fixture(scope="module")
def prometheus(mesh: MeshUnderTest) -> Prometheus:
    """Prometheus with the shipped configuration, after load of every kind."""
    found = Prometheus(mesh)
    drive(mesh)
    found.wait_scraped()
    return found


def drive(mesh: MeshUnderTest) -> None:
    """Send every kind of traffic for some seconds, and change a rule meanwhile."""
    orders = mesh.load("client", "http://orders/echo", rps=50)
    failing = mesh.load("client", "http://orders/echo", rps=5, args=("--header", "x-shop-status:500"))
    until = time.monotonic() + 8
    edited = False
    while time.monotonic() < until:
        mesh.call_grpc("client", "stock:9090", n=5)
        with socket.create_connection((MYSQL, 3306), 10) as raw:
            raw.sendall(b"hello\n")
            raw.recv(100)
        if not edited:
            edited = True
            mesh.edit("manifests.yaml", MANIFESTS.replace("1000}", f"{next(EDITS)}}}"))
    orders.finish()
    failing.finish()


def bucket(ms: float) -> int:
    """Return which bucket a duration falls into."""
    return bisect.bisect_left(MILLISECOND_BUCKETS, ms)


def test_counts_and_durations_are_the_load_generators(mesh: MeshUnderTest, prometheus: Prometheus) -> None:
    """Requests exactly, on both sides; p50 and p99 within one bucket."""
    labels = f'destination_service="{ORDERS}", response_code="201"'
    # In the middle of a wide bucket: between the two ends a busy machine may take as long as that again.
    args = ("--header", "x-shop-status:201", "--header", "x-shop-delay:1500ms")
    report = mesh.load(
        "client", "http://orders/echo", rps=40, args=(*args, "--duration", "5s")
    ).finish_alone()
    prometheus.wait_scraped()

    def counted(metric: str) -> dict[str, float]:
        return {
            side: prometheus.value(f'sum({metric}{{{labels}, reporter="{side}"}})')
            for side in ("source", "destination")
        }

    mesh.wait(  # Envoy merges at intervals of its own
        "the durations are merged",
        lambda: counted("istio_request_duration_milliseconds_count")["source"] >= report["sent"],
    )
    counts = counted("istio_requests_total")

    assert report["sent"] > 100
    assert report["by_status"] == {"201": report["sent"]}
    assert counts == {"source": report["sent"], "destination": report["sent"]}
    for share in ("0.5", "0.99"):
        of = f"sum by (le) (istio_request_duration_milliseconds_bucket{{{labels}, reporter='source'}})"
        seen = prometheus.value(f"histogram_quantile({share}, {of})")
        said = report["latency_ms"]["p50" if share == "0.5" else "p99"]
        assert abs(bucket(seen) - bucket(said)) <= 1, (share, seen, said)


def test_every_panel_returns_data(mesh: MeshUnderTest, prometheus: Prometheus) -> None:
    """Each query of each panel of each dashboard, as Grafana would ask it."""
    drive(mesh)
    prometheus.wait_scraped()
    empty: list[str] = []
    panels = 0
    for dashboard in DASHBOARDS:
        for panel in dashboard.panels:
            panels += 1
            asked = [query.expr.replace(RATE, WINDOW).replace("$service", ORDERS) for query in panel.queries]
            if not all(prometheus.ask(expr) for expr in asked):
                empty.append(f"{dashboard.title}: {panel.title}: {asked}")
    answered = panels - len(empty)
    sys.stdout.write(f"{answered} of {panels} panels, {100 * answered // panels} %\n")

    assert empty == []


def test_the_variable_of_the_service_dashboard_has_values(prometheus: Prometheus) -> None:
    """What Grafana lists is what the queries select."""
    (variable,) = SERVICE.variables
    found = {
        labels[variable.label]
        for labels, _ in prometheus.ask(f"count by ({variable.label}) ({variable.metric})")
    }

    assert {ORDERS, "stock.shop.svc.cluster.local"} <= found


def test_every_alert_can_fire(prometheus: Prometheus) -> None:
    """Its value says something while all is well, and Prometheus has loaded its rule without an error."""
    prometheus.wait_scraped()
    silent = [alert.name for alert in ALERTS if not prometheus.ask(alert.value)]
    rules = {rule["name"]: rule["health"] for rule in prometheus.rules()}

    assert silent == []
    assert rules == {alert.name: "ok" for alert in ALERTS}


def test_istios_dashboards_find_their_metrics(prometheus: Prometheus) -> None:
    """Each metric has each label that Istio's queries name, with a value, from both sides."""
    missing: list[str] = []
    for metric, own in ISTIO:
        for reporter in ("source", "destination"):
            found = prometheus.ask(
                f'count by (__name__, {", ".join((*EVERYWHERE, *own))}) ({metric}{{reporter="{reporter}"}})'
            )
            lacking = {name for labels, _ in found for name in (*EVERYWHERE, *own) if not labels.get(name)}
            if lacking or not found:
                missing.append(f"{metric} {reporter}: {sorted(lacking)}")

    assert missing == []


def test_the_callers_workload_and_namespace_are_two_labels(prometheus: Prometheus) -> None:
    """On the server's side they come from its certificate, in one name; the scrape cuts it."""
    (found,) = {
        (labels["source_workload"], labels["source_workload_namespace"], labels["source_canonical_service"])
        for labels, _ in prometheus.ask(
            f'istio_requests_total{{reporter="destination", destination_service="{ORDERS}"}}'
        )
    }

    assert found == ("client", "shop", "client")


def test_versions_share_a_service(prometheus: Prometheus) -> None:
    """The server's side tells a canary's share."""
    found = {
        labels["destination_canonical_revision"]
        for labels, _ in prometheus.ask(
            f'istio_requests_total{{reporter="destination", destination_service="{ORDERS}"}}'
        )
    }

    assert found == {"v1", "v2"}


def test_promtool_takes_the_rules() -> None:
    """The files as they are shipped."""
    check("rules", SHIPPED / "rules.yaml")


def test_strangers_get_one_page_of_the_metrics_port(mesh: MeshUnderTest) -> None:
    """What is used, and nothing that a query could ask for besides."""
    pod = mesh.pods["client"].pod_ip
    assert mesh.request(pod, OUTBOUND_PORT, "http://orders/echo").status == 200
    page = mesh.request(pod, 15090, "http://x/stats/prometheus")
    others = [
        mesh.request(pod, 15090, f"http://x{path}").status
        for path in ("/stats", "/stats/prometheus?text_readouts", "/stats/prometheus/x", "/clusters", "/")
    ]
    posted = mesh.request(pod, 15090, "http://x/stats/prometheus", method="POST").status

    assert page.status == 200
    assert b"envoy_istio_requests_total" in page.body
    assert len(page.body) < len(mesh.admin("client", "/stats/prometheus")) * 0.9
    assert (others, posted) == ([404] * 5, 404)
