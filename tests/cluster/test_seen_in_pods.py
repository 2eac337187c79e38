"""What injected Pods tell of their traffic: lines, spans and counters, of both ends of a call."""

from __future__ import annotations

import itertools
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.cluster import mesh as proa
from tests.cluster import namespaces, shop
from tests.cluster.cluster import Cluster
from tests.fakes import otlp, spans
from xds.bootstrap import METRICS_PORT
from xds.demo.processes import wait_until

ROOT: Final = Path(__file__).parents[2]
COLLECTOR: Final = 4317
SEEN_S: Final = 30.0
"""Sidecars send spans at once and learn of new settings in milliseconds; a busy machine is no failure."""

TELEMETRY: Final = f"""
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {{name: seen}}
spec:
  accessLogging: [{{providers: [{{name: envoy}}]}}]
  tracing: [{{providers: [{{name: collector}}], randomSamplingPercentage: 0}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: collector}}
spec:
  hosts: [collector.example.com]
  ports: [{{number: {COLLECTOR}, name: grpc, protocol: GRPC}}]
  resolution: STATIC
  endpoints: [{{address: {namespaces.ADDRESS}}}]
"""


@pytest.fixture(scope="module")
def told(mesh: Cluster, street: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[otlp.Sink]:
    """Let the street log every request and send every span that is asked for to a collector on the node."""
    sink = otlp.Sink(COLLECTOR, tmp_path_factory.mktemp("otlp") / "spans.jsonl")
    program = (sys.executable, "-m", "tests.fakes.otlp", f"{namespaces.ADDRESS}:{COLLECTOR}", str(sink.file))
    provider = {
        "name": "collector",
        "opentelemetry": {"service": "collector.example.com", "port": COLLECTOR},
    }
    with (
        mesh.serving("collector", "env", f"PYTHONPATH={ROOT}", *program),
        proa.settings(mesh, extensionProviders=[provider]),
    ):
        mesh.apply(TELEMETRY, street)
        yield sink
        mesh.kubectl("delete", "telemetry/seen", "serviceentry/collector", "-n", street)


def lines(mesh: Cluster, namespace: str, workload: str) -> dict[str, dict[str, Any]]:
    """Return what a sidecar has logged, by path."""
    said = mesh.kubectl("logs", "-n", namespace, f"deployment/{workload}", "-c", proa.SIDECAR, "--tail=100")
    found: list[dict[str, Any]] = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    return {line.get("path", ""): line for line in found}


def test_both_sidecars_log_a_call(mesh: Cluster, street: str, told: otlp.Sink) -> None:
    """`kubectl logs` of the sidecar has a JSON line for the request: at the caller and at the server, who is who."""
    del told
    calls = itertools.count()
    logs: list[dict[str, dict[str, Any]]] = []

    def paths() -> set[str]:
        return {path for path in logs[0].keys() & logs[1].keys() if path.startswith("/echo?call=")}

    with shop.Client(mesh, street, "web") as web:

        def is_told() -> bool:
            web.call(f"http://visitor/echo?call={next(calls)}", timeout="5s")
            logs[:] = [lines(mesh, street, name) for name in ("web", "visitor")]
            return paths() != set()

        wait_until("lines of one call", is_told, timeout_s=SEEN_S)
    sent, taken = (found[min(paths())] for found in logs)

    assert (sent["reporter"], taken["reporter"]) == ("source", "destination")
    assert sent["request_id"] == taken["request_id"]
    for line in (sent, taken):
        assert line["response_code"] == 200
        assert line["source_workload"] == f"web.{street}"
        assert line["source_principal"] == f"spiffe://cluster.local/ns/{street}/sa/web"
        assert line["destination_principal"] == f"spiffe://cluster.local/ns/{street}/sa/visitor"
        assert line["destination_service"] == f"visitor.{street}.svc.cluster.local"


def test_two_hops_are_one_trace(mesh: Cluster, street: str, told: otlp.Sink) -> None:
    """Orders only copies the headers that it got; the spans of three sidecars hang together."""
    roots: dict[str, str] = {}

    def whole() -> list[str]:
        of = [span.trace for span in told.spans]
        return [trace for trace in roots if of.count(trace) == 4]

    with shop.Client(mesh, street, "web") as web:

        def is_one_whole() -> bool:
            trace, roots[trace], headers = spans.started()
            answer = web.call("http://orders/call?url=http://visitor/echo", headers=headers, timeout="5s")
            assert answer["status"] == 200
            return whole() != []

        wait_until("the spans of a trace", is_one_whole, timeout_s=SEEN_S)
    trace = whole()[0]
    mine = sorted((span for span in told.spans if span.trace == trace), key=lambda span: span.kind)
    found = spans.chain(mine, roots[trace])
    orders = found[1][1]

    assert orders in {f"orders-v1.{street}", f"orders-v2.{street}"}
    assert found == [
        ("CLIENT", f"web.{street}"),
        ("SERVER", orders),
        ("CLIENT", orders),
        ("SERVER", f"visitor.{street}"),
    ]
    assert [(span.kind, span.name) for span in mine if "visitor" in span.name] == [
        (kind, f"visitor.{street}.svc.cluster.local/*") for kind in ("CLIENT", "SERVER")
    ]


def requests(mesh: Cluster, namespace: str, workload: str, **labels: str) -> int:
    """Return how many requests the sidecar of a workload counts under these labels, on its port for scrapes."""
    (pod,) = proa.pods(mesh, namespace, f"app={workload}")
    page = mesh.run(
        "curl", "--silent", "--fail", f"http://{pod['status']['podIP']}:{METRICS_PORT}/stats/prometheus"
    )
    series = re.findall(r"^envoy_istio_requests_total\{(.*)\} (\d+)$", page, re.MULTILINE)
    words = [f'{name}="{value}"' for name, value in labels.items()]
    return sum(int(value) for names, value in series if all(word in names for word in words))


def test_a_scrape_counts_what_was_sent(mesh: Cluster, street: str) -> None:
    """Port 15090 of an injected Pod answers whoever scrapes, under STRICT; both ends count each request once."""
    edge = {
        "source_workload": f"web.{street}",
        "destination_workload": "visitor",
        "response_code": "200",
        "connection_security_policy": "mutual_tls",
    }

    def counts() -> tuple[int, int]:
        sender = {**edge, "source_workload": "web", "connection_security_policy": "unknown"}
        return requests(mesh, street, "web", reporter="source", **sender), requests(
            mesh, street, "visitor", reporter="destination", **edge
        )

    with shop.Client(mesh, street, "web") as web:
        web.call("http://visitor/echo")
        before = counts()
        web.call("http://visitor/echo", n=37)
        after = counts()

    assert [now - then for then, now in zip(before, after, strict=True)] == [37, 37]
