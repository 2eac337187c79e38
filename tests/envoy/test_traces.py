"""Spans of real sidecars, in the real Zipkin and over OTLP: one trace, every span at its parent, whatever is down."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from rig import STRICT, App, MeshUnderTest, Reply, StartMesh

from tests.fakes import otlp, zipkin
from tests.fakes.spans import Span, chain, started

NEEDS = (zipkin.jar,)

CHAIN = tuple(App(name) for name in ("client", "a", "b", "c"))
HOPS = 3

SETTINGS = """
---
apiVersion: v1
kind: ConfigMap
metadata: {name: proa, namespace: proa-system}
data:
  mesh: |
    defaultProviders: {tracing: [collector]}
    defaultConfig: {tracing: {sampling: 100}}
    extensionProviders:
    - {name: collector, KIND: {service: collector.example.com, port: PORT, MORE}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: collector, namespace: shop}
spec:
  hosts: [collector.example.com]
  ports: [{number: PORT, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: 127.0.0.1}]
"""


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipkin.Zipkin]:
    """One Zipkin for the tests of this file: starting it takes longest."""
    with zipkin.zipkin(tmp_path_factory.mktemp("zipkin")) as found:
        yield found


def settings(kind: str, port: int, more: str = "") -> str:
    """Return a mesh whose every request is traced."""
    text = SETTINGS.replace("KIND", kind).replace("PORT", str(port)).replace(", MORE", more and f", {more}")
    return STRICT + text


def telemetry(spec: str) -> str:
    """Return a Telemetry of the namespace."""
    kind = "apiVersion: telemetry.istio.io/v1\nkind: Telemetry"
    return f"---\n{kind}\nmetadata: {{name: default, namespace: shop}}\nspec: {{{spec}}}\n"


def through(*apps: str) -> str:
    """Return the URL by which the first application calls the second, and so on to the last one's answer."""
    url = f"http://{apps[-1]}/echo"
    for app in reversed(apps[:-1]):
        url = f"http://{app}/call?url={url}"
    return url


def send(mesh: MeshUnderTest, headers: Mapping[str, str] | None = None) -> Reply:
    """Let the client call a, which calls b, which calls c."""
    answer = mesh.get("client", through("a", "b", "c"), headers)
    assert answer.status == 200
    return answer


def last(answer: Reply) -> dict[str, list[str]]:
    """Return the headers that c got, by lower-case name."""
    return {name.lower(): lines for name, lines in answer.json["body"]["body"]["headers"].items()}


def check_chain(spans: Sequence[Span], root: str) -> None:
    """Assert that the spans are one tree: a client's and a server's for each hop, each under the one before."""
    assert len({span.trace for span in spans}) == 1
    assert len(spans) == 2 * HOPS
    assert chain(spans, root) == [
        ("CLIENT", "client.shop"),
        ("SERVER", "a.shop"),
        ("CLIENT", "a.shop"),
        ("SERVER", "b.shop"),
        ("CLIENT", "b.shop"),
        ("SERVER", "c.shop"),
    ]


def test_three_hops_are_one_trace_in_zipkin(start_mesh: StartMesh, backend: zipkin.Zipkin) -> None:
    """A client's and a server's span for each hop, reported by workload; the services only copy headers.

    The context is taken in W3C's form and in B3's, each alone, and sent on in both.
    """
    mesh = start_mesh(*CHAIN, manifests=settings("zipkin", backend.port))
    trace, root, headers = started()
    b3, b3_root, _ = started()

    def came(of: str) -> list[zipkin.Span]:
        return [span for found in backend.traces() for span in found if span.trace == of]

    got = last(send(mesh, headers))
    send(mesh, {"x-b3-traceid": b3, "x-b3-spanid": b3_root, "x-b3-sampled": "1"})
    mesh.wait("all spans have come", lambda: len(came(trace) + came(b3)) >= 4 * HOPS, timeout_s=30)

    check_chain(came(trace), root)
    check_chain(came(b3), b3_root)
    assert (got["traceparent"][0].split("-")[1], got["x-b3-traceid"]) == (trace, [trace])
    # The server's span has the name that its client gave the operation.
    assert {span.name for span in came(trace)} == {f"{app}.shop.svc.cluster.local:80/*" for app in "abc"}


def test_three_hops_are_one_trace_over_otlp(start_mesh: StartMesh, tmp_path: Path) -> None:
    """As in Zipkin, with W3C's headers alone; B3's pass as they came. Tags are those of the settings."""
    tag = "tracing: [{customTags: {tenant: {header: {name: x-tenant, defaultValue: none}}}}]"
    with otlp.sink(tmp_path) as sink:
        mesh = start_mesh(*CHAIN, manifests=settings("opentelemetry", sink.port) + telemetry(tag))
        trace, root, headers = started()
        got = last(send(mesh, {**headers, "x-tenant": "t", "b3": "0"}))
        mesh.wait("all spans have come", lambda: len(sink.spans) >= 2 * HOPS, timeout_s=30)

        check_chain(sink.spans, root)
        assert {span.trace for span in sink.spans} == {trace}
        assert sorted(span.tags["tenant"] for span in sink.spans) == ["none"] * 4 + ["t"] * 2
    assert got["b3"] == ["0"] and got["traceparent"][0].split("-")[1] == trace


def test_a_dead_collector_stops_nobody(start_mesh: StartMesh, tmp_path: Path) -> None:
    """Neither one that goes, which is told, nor one that is not there."""
    with otlp.sink(tmp_path) as sink:
        port = sink.port
        mesh = start_mesh(*CHAIN, manifests=settings("opentelemetry", port))
        send(mesh)
        mesh.wait("the collector gets spans", lambda: bool(sink.spans), timeout_s=30)
    for _ in range(20):
        send(mesh)

    def is_told() -> bool:
        send(mesh)
        return {one.service for proxy in mesh.mesh.api.proxies() for one in proxy.silent} == {
            "extension provider"
        }

    mesh.wait("the collector that has gone is told", is_told, timeout_s=40)
    unknown = settings("opentelemetry", port).replace("hosts: [collector", "hosts: [somebody")
    mesh.edit("manifests.yaml", unknown)
    send(mesh)


def test_headers_pass_where_nothing_is_reported(start_mesh: StartMesh) -> None:
    """As they came, so that sidecars before and behind stay in one trace."""
    off = telemetry("tracing: [{disableSpanReporting: true}]")
    mesh = start_mesh(*CHAIN[:2], manifests=settings("opentelemetry", 1) + off)
    _, _, headers = started()
    got = mesh.get("client", "http://a/echo", headers).json["headers"]

    assert {name.lower(): lines for name, lines in got.items()}["traceparent"] == [headers["traceparent"]]


def test_one_per_cent_begins_a_trace(start_mesh: StartMesh, tmp_path: Path) -> None:
    """By default; whoever calls with a sampled context gets a span each time."""
    with otlp.sink(tmp_path) as sink:
        text = settings("opentelemetry", sink.port).replace("{sampling: 100}", "{}")
        mesh = start_mesh(*CHAIN[:2], manifests=text)
        assert mesh.call("client", "http://a/echo", n=1000)["by_status"] == {"200": 1000}
        trace, _, headers = started()
        mesh.get("client", "http://a/echo", headers)
        mesh.wait("the sampled one came", lambda: trace in {s.trace for s in sink.spans}, timeout_s=30)
        begun = {span.trace for span in sink.spans} - {trace}

    assert len(begun) <= 30, "of 1,000 requests: 10 on average, standard deviation 3.1"
