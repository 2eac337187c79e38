"""Facts about the reading of OTLP exports: what an edge is, what counts as growth, and what is bounded."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xds.pb.opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2
from xds.pb.opentelemetry.proto.common.v1 import common_pb2
from xds.pb.opentelemetry.proto.metrics.v1 import metrics_pb2
from xds.traffic import telemetry
from xds.traffic.edges import Traffic, percentile
from xds.traffic.otlp import TelemetryError
from xds.traffic.telemetry import Telemetry

LABELS = {
    "reporter": "source",
    "source_workload": "web",
    "source_workload_namespace": "shop",
    "destination_workload": "orders-v1",
    "destination_workload_namespace": "shop",
    "destination_service": "orders.shop.svc.cluster.local",
    "request_protocol": "http",
    "connection_security_policy": "unknown",
    "response_code": "200",
    "response_flags": "-",
    "grpc_response_status": "",
}
BOUNDS = (1.0, 10.0, 100.0)


class Live(Telemetry):
    """Telemetry whose nodes belong to the workload that the labels name, unless a test says otherwise."""

    def receive(self, node_id: str, export: bytes, *, workload: str = "web.shop", now_s: float) -> None:
        """Take an export."""
        super().receive(node_id, export, workload=workload, now_s=now_s)


def attributes(labels: dict[str, str]) -> list[bytes]:
    """Labels as OTLP has them; our copy of the API leaves them unread."""
    pairs = [common_pb2.KeyValue(key=key, value={"string_value": text}) for key, text in labels.items()]
    return [pair.SerializeToString() for pair in pairs]


def counter(value: int, name: str = "istio.requests_total", **labels: str) -> metrics_pb2.Metric:
    """A cumulative counter with one point."""
    metric = metrics_pb2.Metric(name=name)
    metric.sum.data_points.add(as_int=value, attributes=attributes(LABELS | labels))
    return metric


def durations(*buckets: int) -> metrics_pb2.Metric:
    """A cumulative histogram with one point."""
    metric = metrics_pb2.Metric(name="istio.request_duration_milliseconds")
    metric.histogram.data_points.add(
        bucket_counts=buckets, explicit_bounds=BOUNDS, count=sum(buckets), attributes=attributes(LABELS)
    )
    return metric


def listener(name: str, value: int, metric: str) -> metrics_pb2.Metric:
    """One of Envoy's own counters of a listener."""
    out = metrics_pb2.Metric(name=metric)
    out.sum.data_points.add(as_int=value, attributes=attributes({"envoy.listener_address": name}))
    return out


def export(*metrics: metrics_pb2.Metric) -> bytes:
    """A serialised push."""
    request = metrics_service_pb2.ExportMetricsServiceRequest()
    request.resource_metrics.add().instrumentation_library_metrics.add(metrics=metrics)
    return request.SerializeToString()


def after(*pushes: Iterable[metrics_pb2.Metric], workload: str = "web.shop") -> list[Traffic]:
    """The traffic after these pushes of one node, 5 s apart."""
    live = Live()
    for second, metrics in enumerate(pushes):
        live.receive("web-0.shop", export(*metrics), workload=workload, now_s=5.0 * second)
    return live.traffic(now_s=5.0 * len(pushes))


def test_an_edge_names_both_workloads_with_their_namespaces() -> None:
    """Both sides of an edge are written the same way, whichever side reports."""
    (seen,) = after([counter(1)])
    (told,) = after(
        [counter(1, reporter="destination", source_workload="web.shop", source_workload_namespace="")],
        workload="orders-v1.shop",
    )

    assert (seen.edge.source, seen.edge.destination) == ("web.shop", "orders-v1.shop")
    assert (told.edge.source, told.edge.destination) == ("web.shop", "orders-v1.shop")


def test_a_rate_is_the_growth_between_two_pushes() -> None:
    """Counters are cumulative: 100, then 150 five seconds later, is 10 a second."""
    (edge,) = after([counter(100)], [counter(150)])

    assert edge.requests == 150
    assert edge.requests_per_s == pytest.approx(10)


def test_the_first_push_gives_no_rate() -> None:
    """It may count hours that began before the control plane started."""
    (edge,) = after([counter(100_000)])

    assert edge.requests == 100_000
    assert edge.requests_per_s == 0


def test_a_restarted_envoy_counts_on() -> None:
    """A value below the last one is growth from zero: totals never fall."""
    (edge,) = after([counter(100)], [counter(7)])

    assert edge.requests == 107


def test_outcomes_of_an_edge_add_up() -> None:
    """Response codes are series of one edge."""
    (edge,) = after([counter(90)], [counter(95), counter(5, response_code="503", response_flags="UF")])

    assert (edge.requests, edge.errors) == (100, 5)
    assert edge.errors_per_s == pytest.approx(1)


@pytest.mark.parametrize(
    ("labels", "errors"),
    [
        ({"response_code": "404"}, 0),
        ({"response_code": "500"}, 1),
        ({"response_code": "0", "response_flags": "UC"}, 1),
        ({"response_code": "0", "response_flags": "DC"}, 0),
        ({"grpc_response_status": "14"}, 1),
        ({"grpc_response_status": "5"}, 0),
    ],
    ids=str,
)
def test_what_is_an_error(labels: dict[str, str], errors: int) -> None:
    """The server's faults are errors; the client's, and a client that hung up, are none."""
    (edge,) = after([counter(1, **labels)])

    assert edge.errors == errors


def test_percentiles_are_those_of_the_window() -> None:
    """A slow hour in the past does not colour the present."""
    (edge,) = after([durations(0, 0, 0, 1_000)], [durations(100, 0, 0, 1_000)])

    assert edge.p50_ms == pytest.approx(0.5)
    assert edge.p99_ms == pytest.approx(0.99)


def test_an_idle_edge_has_no_percentiles() -> None:
    """Nothing measured is not zero milliseconds."""
    (edge,) = after([durations(5, 0, 0, 0)], [durations(5, 0, 0, 0)])

    assert edge.p50_ms is None


def test_replicas_add_up() -> None:
    """Two pods of a workload are one edge."""
    live = Live()
    for node in ("web-0.shop", "web-1.shop"):
        live.receive(node, export(counter(0)), now_s=0)
        live.receive(node, export(counter(50)), now_s=5)
    (edge,) = live.traffic(now_s=6)

    assert edge.requests == 100
    assert edge.requests_per_s == pytest.approx(20)


def pushed(*values: int) -> Live:
    """Return what is known after a push of these values each 5 s."""
    live = Live()
    for second, value in enumerate(values):
        live.receive("web-0.shop", export(counter(value)), now_s=5.0 * second)
    return live


def test_requests_of_the_window_count() -> None:
    """One that came half a minute ago is seen for a minute, and in a shorter window it is not."""
    live = pushed(0, 60, *[60] * 7)

    (edge,) = live.traffic(now_s=41)
    assert edge.requests_per_s == pytest.approx(60 / 40)
    (lately,) = live.traffic(now_s=41, window_s=10)
    assert (lately.requests_per_s, lately.p50_ms) == (0, None)
    (later,) = pushed(0, 60, *[60] * 14).traffic(now_s=76)
    assert (later.requests, later.requests_per_s) == (60, 0)


@pytest.mark.parametrize("window_s", [10, 30, 60])
@pytest.mark.parametrize("pushes", [3, 9, 40])
def test_a_steady_rate_is_the_same_in_every_window(window_s: float, pushes: int) -> None:
    """Whether the window is full yet or not, and wherever its slots begin."""
    (edge,) = pushed(*range(0, 50 * pushes, 50)).traffic(now_s=5 * pushes - 2, window_s=window_s)

    assert edge.requests_per_s == pytest.approx(10)


def test_a_silent_node_loses_its_rate() -> None:
    """What it said in its last minute spreads over the time since, and then is no more."""
    live = pushed(0, 50)
    (edge,) = live.traffic(now_s=5 + telemetry.STALE_S + 5)
    (later,) = live.traffic(now_s=80)

    assert edge.requests_per_s == pytest.approx(50 / 40)
    assert (later.requests, later.requests_per_s) == (50, 0)


def test_old_edges_are_forgotten() -> None:
    """After an hour without a word an edge and its node are gone."""
    live = Live()
    live.receive("web-0.shop", export(counter(1)), now_s=0)
    live.prune(now_s=telemetry.KEPT_S + 1)

    assert live.traffic(now_s=telemetry.KEPT_S + 1) == []


def test_tcp_edges_carry_connections_and_bytes() -> None:
    """TCP has no requests to count."""
    (edge,) = after(
        [
            counter(2, "istio.tcp_connections_opened_total"),
            counter(14, "istio.tcp_sent_bytes_total"),
            counter(3, "istio.tcp_received_bytes_total"),
        ]
    )

    assert (edge.connections, edge.sent_bytes, edge.received_bytes) == (2, 14, 3)


def test_ports_tell_how_many_connections_became_tls() -> None:
    """Whether a hop was encrypted is what the receiving proxy's counters say."""
    live = Live()
    taken = listener("inbound|8080", 5, "listener.downstream_cx_total")
    encrypted = listener("inbound|8080", 4, "listener.ssl.handshake")
    open_now = metrics_pb2.Metric(name="listener.downstream_cx_active")
    tag = attributes({"envoy.listener_address": "inbound|8080"})
    open_now.gauge.data_points.add(as_int=2, attributes=tag)
    live.receive("orders-0.shop", export(taken, encrypted, open_now), now_s=0)
    (port,) = live.ports(now_s=1)

    assert (port.node, port.listener) == ("orders-0.shop", "inbound|8080")
    assert (port.connections, port.tls, port.active) == (5, 4, 2)


def test_a_node_that_reports_without_end_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded whatever a sidecar pushes, and what is cut is counted."""
    monkeypatch.setattr(telemetry, "MAX_SERIES", 10)
    live = Live()
    live.receive("web-0.shop", export(*(counter(1, destination_service=f"s{n}") for n in range(25))), now_s=0)

    assert len(live.traffic(now_s=1)) == 10
    assert live.dropped == 15


def test_edges_of_all_nodes_together_are_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many nodes that each stay below their own bound cannot grow the totals without end; the cut is counted."""
    monkeypatch.setattr(telemetry, "MAX_EDGES", 12)
    live = Live()
    for node in range(4):
        metrics = [counter(1, destination_service=f"s{node}-{n}") for n in range(5)]
        live.receive(f"web-{node}.shop", export(*metrics), now_s=0)

    assert len(live.traffic(now_s=1)) == live.sizes["edges"] == 12
    assert live.dropped == 8


@pytest.mark.parametrize(("bound", "kept"), [("MAX_LABEL_SETS", "label_sets"), ("MAX_ALL_SERIES", "series")])
def test_what_is_kept_for_all_nodes_is_capped(monkeypatch: pytest.MonkeyPatch, bound: str, kept: str) -> None:
    """Labels are shared by nodes and series are not; both have a bound over all."""
    monkeypatch.setattr(telemetry, bound, 12)
    live = Live()
    for node in range(4):
        metrics = [counter(1, destination_service=f"s{node}-{n}") for n in range(5)]
        live.receive(f"web-{node}.shop", export(*metrics), now_s=0)

    assert live.sizes[kept] == 12
    assert live.dropped == 8


def test_room_comes_back_when_edges_are_old(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cap that stays reached would blind us to what happens now."""
    monkeypatch.setattr(telemetry, "MAX_EDGES", 1)
    live = Live()
    live.receive("web-0.shop", export(counter(1, destination_service="old")), now_s=0)
    live.receive("web-1.shop", export(counter(1, destination_service="new")), now_s=1)
    live.prune(now_s=telemetry.KEPT_S + 2)
    live.receive("web-1.shop", export(counter(1, destination_service="new")), now_s=telemetry.KEPT_S + 3)

    assert [found.edge.service for found in live.traffic(now_s=telemetry.KEPT_S + 3)] == ["new"]
    assert live.sizes == {"nodes": 1, "edges": 1, "label_sets": 1, "series": 1}


def test_a_node_speaks_for_its_own_workload_alone() -> None:
    """A sidecar that was taken over cannot draw traffic of others, or make theirs look broken."""
    live = Live()
    live.receive(
        "evil-0.shop", export(counter(5), counter(5, reporter="destination")), workload="evil.shop", now_s=0
    )

    assert live.traffic(now_s=1) == []
    assert live.forged == 2


def test_a_forger_cannot_rename_a_peer() -> None:
    """Identities are part of no edge: what another node says of them must not count either."""
    live = Live()
    honest = counter(1, destination_principal="spiffe://td/ns/shop/sa/orders")
    forged = counter(1, destination_principal="spiffe://td/ns/evil/sa/evil")
    live.receive("web-0.shop", export(honest), now_s=0)
    live.receive("evil-0.evil", export(forged), workload="evil.evil", now_s=1)

    assert live.traffic(now_s=1)[0].destination_identity == "spiffe://td/ns/shop/sa/orders"


@pytest.mark.parametrize("gone", ["source_workload", "source_workload_namespace", "reporter"])
def test_a_label_that_the_mesh_does_without_is_no_forgery(gone: str) -> None:
    """Who reports is known without it."""
    gone_too = {"source_workload_namespace": ""} if gone == "source_workload" else {}
    (edge,) = after([counter(1, **{gone: "", **gone_too})], workload="web.shop")

    assert (edge.edge.source, edge.edge.destination) == ("web.shop", "orders-v1.shop")
    assert edge.edge.reporter == "source"


def test_identities_are_learnt_from_calls_that_arrived() -> None:
    """A refused connection has no peer; it does not make the edge another one, nor forget who the peer was."""
    known = {
        "source_principal": "spiffe://td/ns/shop/sa/web",
        "destination_principal": "spiffe://td/ns/shop/sa/o",
    }
    (edge,) = after(
        [counter(1, **known)],
        [counter(1, **known), counter(1, response_code="503", destination_principal="-")],
    )

    assert edge.requests == 2
    assert edge.destination_identity == "spiffe://td/ns/shop/sa/o"


def test_what_envoy_does_not_know_is_unknown() -> None:
    """Envoy writes a dash where an operator has no value: no workload is called so."""
    (edge,) = after([counter(1, destination_workload="-", destination_workload_namespace="-")])

    assert edge.edge.destination == "unknown"


def test_too_many_nodes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither can names be made up without end."""
    monkeypatch.setattr(telemetry, "MAX_NODES", 1)
    live = Live()
    live.receive("web-0.shop", export(counter(1)), now_s=0)
    live.receive("web-1.shop", export(counter(1)), now_s=0)

    assert live.traffic(now_s=1)[0].requests == 1
    assert live.dropped == 1


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    """Garbage raises the module's own error and nothing else."""
    live = Live()
    with contextlib.suppress(TelemetryError):
        live.receive("web-0.shop", body, now_s=0)

    assert live.traffic(now_s=0) == []


@pytest.mark.parametrize("bounds", [(), (1.0, 10.0), (10.0, 1.0, 100.0), (1.0, float("nan"), 100.0)], ids=str)
def test_a_histogram_without_sane_bounds_is_skipped(bounds: tuple[float, ...]) -> None:
    """A malformed point does not stop the others."""
    broken = durations(1, 2, 3, 4)
    del broken.histogram.data_points[0].explicit_bounds[:]
    broken.histogram.data_points[0].explicit_bounds.extend(bounds)
    (edge,) = after([counter(0)], [broken, counter(1)])

    assert edge.requests == 1
    assert edge.p50_ms is None


@given(st.lists(st.integers(0, 1_000), min_size=4, max_size=4), st.floats(0.01, 1))
def test_percentiles_lie_inside_the_buckets(counts: list[int], share: float) -> None:
    """Whatever the counts, the answer is between zero and the last bound, or nothing was measured."""
    answer = percentile(BOUNDS, tuple(map(float, counts)), share)

    assert (answer is None) == (sum(counts) == 0)
    assert answer is None or 0 <= answer <= BOUNDS[-1]


@given(st.lists(st.integers(0, 1_000), min_size=1, max_size=8))
def test_totals_never_fall(values: list[int]) -> None:
    """Restarts or not: what was carried stays carried."""
    live = Live()
    total = 0
    for second, value in enumerate(values):
        live.receive("web-0.shop", export(counter(value)), now_s=float(second))
        (edge,) = live.traffic(now_s=float(second))
        assert edge.requests >= total
        total = edge.requests

    assert total >= max(values)


def test_sidecars_that_push_at_different_times_add_up() -> None:
    """What the latest of them has not told yet is the only error: half an interval of a minute."""
    live, nodes = Live(), ((0.0, "web-0.shop"), (1.7, "web-1.shop"), (3.4, "web-2.shop"))
    for second in range(30):
        for phase, node in nodes:
            live.receive(node, export(counter(50 * second)), now_s=5.0 * second + phase)
    (edge,) = live.traffic(now_s=150)

    assert edge.requests_per_s == pytest.approx(30, rel=0.05)
