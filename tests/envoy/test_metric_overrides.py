"""Telemetry changes what is counted, and no value in a label can pass for another series."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus import NEEDS as INSTALLED
from prometheus import Prometheus, check_text
from prometheus_client.parser import text_string_to_metric_families
from rig import STRICT, App, MeshUnderTest
from static_envoy import bootstrap, running

from xds.api.metering import DEFAULT, Change, Metering
from xds.demo.admin import get
from xds.demo.mesh import free_port
from xds.ir import Workload
from xds.pb.envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from xds.resources import telemetry
from xds.resources.filters import hcm_filter, http
from xds.resources.parts import serialise, socket_address

NEEDS = INSTALLED

TELEMETRY = (
    STRICT
    + """
---
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: metrics, namespace: shop}
spec:
  metrics:
    - overrides:
        - match: {metric: REQUEST_DURATION, mode: SERVER}
          disabled: true
        - match: {metric: REQUEST_COUNT}
          tagOverrides:
            team: {value: "request.headers['x-team']"}
            method: {value: request.method}
            port: {value: string(destination.port)}
            path: {value: request.url_path}
            grpc_response_status: {operation: REMOVE}
"""
)

FORGED = 'x"} 7\nenvoy_istio_requests_total{reporter="forged"} 9\n# EOF \\'
"""What would be two lines more, if it were written as it is."""

WEB = Workload("web", "shop", "web", "web", FORGED, "cluster.local")

HEADERS = ('a"b', "a\\", 'a\\"} 9 envoy_forged{b="', "a,b={}", "a\\nenvoy_forged 1", "# HELP x")
"""Values of a header: HTTP itself has no newline in one."""


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MeshUnderTest]:
    """A client and a server."""
    work: Path = tmp_path_factory.mktemp("overrides") / "mesh"
    open_door = {"prometheus.io/scrape": "true", "prometheus.io/port": "8080"}
    shut = {**open_door, "proa.dev/plaintext-metrics": "false"}
    apps = (App("client", annotations=shut), App("orders", annotations=open_door))
    mesh = MeshUnderTest(work, apps, TELEMETRY, is_insecure=False)
    try:
        yield mesh.start()
    finally:
        mesh.stop()


@pytest.fixture(scope="module")
def prometheus(mesh: MeshUnderTest) -> Prometheus:
    """Prometheus after a request with each header."""
    found = Prometheus(mesh)
    for header in HEADERS:
        assert mesh.get("client", "http://orders/echo", {"x-team": header}).status == 200
    assert mesh.get("client", "http://orders/echo", method="PUT").status == 200
    found.wait_scraped()
    return found


def test_labels_hold_what_was_sent_and_nothing_is_forged(prometheus: Prometheus) -> None:
    """Quotes, backslashes, braces and newlines arrive as they are, each in one series of one count."""
    found = prometheus.ask('istio_requests_total{reporter="source", method="GET"}')
    names = {labels["__name__"] for labels, _ in prometheus.ask('{__name__=~".*forged.*"}')}

    assert {value for _, value in found} == {1}
    assert {labels["team"] for labels, _ in found} == set(HEADERS)
    assert names == set()
    assert {labels["reporter"] for labels, _ in prometheus.ask("istio_requests_total")} == {
        "source",
        "destination",
    }


def test_an_application_is_read_in_plaintext_where_its_pod_says(mesh: MeshUnderTest) -> None:
    """/metrics alone, and not where the Pod opts out; a sidecar with declared addresses does as others do."""
    orders, client = mesh.pods["orders"].pod_ip, mesh.pods["client"].pod_ip

    assert mesh.request(orders, 8080, "http://x/metrics").workload == "orders"
    assert mesh.request(orders, 8080, "http://x/echo").status == 403
    with pytest.raises(OSError, match=r"reset|closed|without response"):
        mesh.request(client, 8080, "http://x/metrics")


def test_every_target_is_still_read(prometheus: Prometheus) -> None:
    """One value that broke the format would take the whole sidecar's metrics away."""
    assert prometheus.value("count(up == 0) or vector(0)") == 0


def test_overrides_are_in_force(mesh: MeshUnderTest, prometheus: Prometheus) -> None:
    """Labels more on both sides, one less, one that no Envoy can write, and a metric off where the server counts."""
    durations = {
        labels["reporter"] for labels, _ in prometheus.ask("istio_request_duration_milliseconds_count")
    }
    counted = prometheus.ask('istio_requests_total{method="PUT"}')

    assert durations == {"source"}
    assert {labels["reporter"]: labels["port"] for labels, _ in counted} == {
        "source": "15001",
        "destination": "8080",
    }
    assert [labels for labels, _ in counted if "path" in labels] == []
    assert "grpc_response_status" not in mesh.admin("orders", "/stats/prometheus?filter=^istio.requests")


def test_a_newline_in_a_label_stays_in_it(tmp_path: Path) -> None:
    """No Pod may have such a label (`api` refuses it), and no header holds one; Envoy escapes it all the same."""
    port = free_port()
    with running(bootstrap([answering(port, DEFAULT)], [], files={}), tmp_path) as envoy:
        get("127.0.0.1", port, "/")
        text = envoy.get("/stats/prometheus?filter=^istio")
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    assert {sample.labels["source_version"] for sample in samples} == {FORGED}
    assert {sample.labels["reporter"] for sample in samples} == {"source"}
    check_text(text)


def test_no_listener_keeps_more_series_than_the_cap(tmp_path: Path) -> None:
    """A caller that makes up a value for each request gets no further; what is known goes on counting."""
    port = free_port()
    metering = Metering(series=100, changes=(Change("requests_total", "path", "%REQ(:PATH)%"),))
    with running(bootstrap([answering(port, metering)], [], files={}), tmp_path) as envoy:
        for number in (*range(130), 0):
            get("127.0.0.1", port, f"/{number}")
        text = envoy.get("/stats/prometheus?filter=^istio.requests_total")
    counted = {
        sample.labels["path"]: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }

    assert len(counted) == 100
    assert counted["/0"] == 2
    assert "/129" not in counted


def answering(port: int, metering: Metering) -> bytes:
    """Return a listener that answers everything itself, and counts."""
    hcm = http("outbound", telemetry.http_logs(telemetry.at_source(WEB), metering))
    host = hcm.route_config.virtual_hosts.add(name="all", domains=["*"])
    host.routes.add(match={"prefix": "/"}, direct_response={"status": 200})
    chain = listener_components_pb2.FilterChain(filters=[hcm_filter(hcm)])
    at = socket_address("127.0.0.1", port)
    return serialise(listener_pb2.Listener(name="a", address=at, filter_chains=[chain]))
