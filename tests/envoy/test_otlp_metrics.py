"""The counters that Prometheus reads are pushed to a user's collector as well, where one is named."""

from __future__ import annotations

from pathlib import Path

from rig import STRICT, App, MeshUnderTest

from tests.fakes import otlp


def test_a_collector_gets_the_counters_that_prometheus_reads(tmp_path: Path) -> None:
    """Both sides' requests, with their labels, under the names that Envoy pushes; and nothing of its own."""
    with otlp.sink(tmp_path) as sink:
        mesh = MeshUnderTest(tmp_path / "mesh", (App("client"), App("orders")), STRICT, is_insecure=False)
        mesh.mesh.collector = ("127.0.0.1", sink.port)
        try:
            mesh.start()
            for _ in range(20):
                assert mesh.get("client", "http://orders/echo").status == 200
            wanted = {("source", 20), ("destination", 20)}
            mesh.wait("both sides are pushed", lambda: requests(sink) == wanted, timeout_s=30)
        finally:
            mesh.stop()
        names = {name for name, _, _ in sink.counters}
        who = {labels["service.name"] for _, labels, _ in sink.counters}

    assert names == {"istio.requests_total"}
    assert who == {"client", "orders"}


def requests(sink: otlp.Sink) -> set[tuple[str, int]]:
    """Return who has reported how many requests."""
    return {
        (labels["reporter"], value)
        for name, labels, value in sink.counters
        if name == "istio.requests_total" and labels["response_code"] == "200"
    }
