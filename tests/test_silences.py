"""Facts about silences: which counters say that a service did not answer a sidecar, and for how long that is told."""

from __future__ import annotations

import pytest

from xds.pb.opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2
from xds.pb.opentelemetry.proto.common.v1 import common_pb2
from xds.traffic import otlp
from xds.traffic.silences import KINDS, MAX_CLUSTERS, RECENT_S, Silence
from xds.traffic.telemetry import Telemetry

NODE = "web-0.shop"


def heard(telemetry: Telemetry, at: float, *values: int, metric: str = otlp.LIMITER_ERRORS) -> None:
    """Let a node push this counter, of one cluster each."""
    request = metrics_service_pb2.ExportMetricsServiceRequest()
    found = request.resource_metrics.add().instrumentation_library_metrics.add().metrics.add(name=metric)
    for number, value in enumerate(values):
        pair = common_pb2.KeyValue(key="envoy.cluster_name", value={"string_value": f"inbound|{number}||"})
        found.sum.data_points.add(as_int=value, attributes=[pair.SerializeToString()])
    telemetry.receive(NODE, request.SerializeToString(), workload="web.shop", now_s=at)


@pytest.mark.parametrize("metric", sorted(KINDS))
def test_a_counter_that_grows_is_told(metric: str) -> None:
    """With the sum over all ports, until it has been quiet for a while."""
    telemetry = Telemetry()
    heard(telemetry, 100, 0, 0, metric=metric)
    assert telemetry.silences(NODE, now_s=100) == {}

    heard(telemetry, 105, 2, 3, metric=metric)
    assert telemetry.silences(NODE, now_s=110) == {(metric, ""): Silence(5, 105)}
    heard(telemetry, 160, 2, 3, metric=metric)
    assert telemetry.silences(NODE, now_s=105 + RECENT_S) == {(metric, ""): Silence(5, 105)}
    assert telemetry.silences(NODE, now_s=106 + RECENT_S) == {}


def test_the_first_push_may_be_about_yesterday() -> None:
    """Counters count from the sidecar's start, and the control plane may have started since."""
    telemetry = Telemetry()
    heard(telemetry, 100, 7)

    assert telemetry.silences(NODE, now_s=100) == {}


def test_a_sidecar_that_starts_again_counts_from_nothing() -> None:
    """A smaller number is news, unless it is none."""
    telemetry = Telemetry()
    heard(telemetry, 100, 7)
    heard(telemetry, 105, 0)
    assert telemetry.silences(NODE, now_s=105) == {}
    heard(telemetry, 110, 1)
    assert telemetry.silences(NODE, now_s=110) == {(otlp.LIMITER_ERRORS, ""): Silence(1, 110)}


def test_silences_are_no_series() -> None:
    """They take no room from the edges, and a node that has left says nothing."""
    telemetry = Telemetry()
    heard(telemetry, 100, 0)
    heard(telemetry, 105, 1)
    assert telemetry.sizes["series"] == telemetry.dropped == 0

    telemetry.forget(NODE)
    assert telemetry.silences(NODE, now_s=105) == {}


def test_clusters_are_told_apart_up_to_a_bound() -> None:
    """Who takes no connection is named, and no sidecar fills the memory with names."""
    telemetry = Telemetry()
    heard(telemetry, 100, 0, 0, metric=otlp.PROVIDER_ERRORS)
    heard(telemetry, 105, 0, 2, metric=otlp.PROVIDER_ERRORS)
    assert telemetry.silences(NODE, now_s=105) == {(otlp.PROVIDER_ERRORS, "inbound|1||"): Silence(2, 105)}

    heard(telemetry, 110, *range(1, MAX_CLUSTERS + 9), metric=otlp.PROVIDER_ERRORS)
    assert len(telemetry.silences(NODE, now_s=110)) == MAX_CLUSTERS
