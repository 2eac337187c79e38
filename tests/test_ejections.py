"""Facts about ejections: which gauges name an endpoint that a sidecar sends nothing to, and since when."""

from __future__ import annotations

import pytest

from xds.pb.opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2
from xds.pb.opentelemetry.proto.common.v1 import common_pb2
from xds.pb.opentelemetry.proto.metrics.v1 import metrics_pb2
from xds.resources import names
from xds.traffic.ejections import Ejected
from xds.traffic.telemetry import STALE_S, Telemetry

ORDERS = "outbound|80||orders_shop_svc_cluster_local"


def gauge(name: str, value: int, **labels: str) -> metrics_pb2.Metric:
    """A gauge with one point; underscores in the names of labels stand for the dot behind `envoy`."""
    metric = metrics_pb2.Metric(name=name)
    pairs = [
        common_pb2.KeyValue(key=f"envoy.{key}", value={"string_value": text}) for key, text in labels.items()
    ]
    metric.gauge.data_points.add(as_int=value, attributes=[pair.SerializeToString() for pair in pairs])
    return metric


def healthy(address: str, value: int, cluster: str = ORDERS) -> metrics_pb2.Metric:
    """What Envoy says of an endpoint."""
    return gauge("cluster.endpoint.healthy", value, cluster_name=cluster, endpoint_address=address)


def active(value: int, cluster: str = ORDERS) -> metrics_pb2.Metric:
    """What Envoy says of a cluster."""
    return gauge("cluster.outlier_detection.ejections_active", value, cluster_name=cluster)


def heard(
    telemetry: Telemetry, *metrics: metrics_pb2.Metric, at: float = 100, node: str = "web-0.shop"
) -> None:
    """Let a node push these gauges."""
    request = metrics_service_pb2.ExportMetricsServiceRequest()
    request.resource_metrics.add().instrumentation_library_metrics.add().metrics.extend(metrics)
    telemetry.receive(node, request.SerializeToString(), workload="web.shop", now_s=at)


def test_an_endpoint_without_health_of_a_cluster_that_ejects() -> None:
    """Named with its cluster, since it was first said; gone when it is healthy again."""
    telemetry = Telemetry()
    heard(telemetry, healthy("10.0.0.1:8080", 0), healthy("10.0.0.2:8080", 1), active(1))
    heard(telemetry, healthy("10.0.0.1:8080", 0), healthy("10.0.0.3:8080", 0), active(2), at=105)

    assert telemetry.ejected("web-0.shop", now_s=110) == [
        Ejected(ORDERS, "10.0.0.1:8080", 100),
        Ejected(ORDERS, "10.0.0.3:8080", 105),
    ]
    heard(telemetry, healthy("10.0.0.1:8080", 1), active(0), at=110)
    assert telemetry.ejected("web-0.shop", now_s=110) == []


@pytest.mark.parametrize(
    "metrics",
    [
        (healthy("10.0.0.1:8080", 0),),
        (healthy("10.0.0.1:8080", 0), active(0)),
        (healthy("10.0.0.1:8080", 0), active(1, "outbound|80||stock_shop_svc_cluster_local")),
        (healthy("", 0), active(1)),
        (healthy("10.0.0.1:8080", 0, ""), active(1, "")),
        (active(1),),
    ],
)
def test_nothing_else_is_an_ejection(metrics: tuple[metrics_pb2.Metric, ...]) -> None:
    """A draining endpoint has no health either, so the cluster must say that it ejects."""
    telemetry = Telemetry()
    heard(telemetry, *metrics)

    assert telemetry.ejected("web-0.shop", now_s=100) == []


def test_a_silent_sidecar_says_nothing() -> None:
    """After six pushes that did not come, and when it has left."""
    telemetry = Telemetry()
    heard(telemetry, healthy("10.0.0.1:8080", 0), active(1))

    assert telemetry.ejected("web-0.shop", now_s=100 + STALE_S + 1) == []
    telemetry.forget("web-0.shop")
    assert telemetry.ejected("web-0.shop", now_s=100) == []
    assert telemetry.ejected("other.shop", now_s=100) == []


def test_gauges_of_endpoints_are_no_series() -> None:
    """They take no room from the edges."""
    telemetry = Telemetry()
    heard(telemetry, healthy("10.0.0.1:8080", 0), active(1))

    assert telemetry.sizes["series"] == telemetry.sizes["edges"] == telemetry.dropped == 0


@pytest.mark.parametrize(
    ("counted", "said"),
    [
        (ORDERS, "orders.shop.svc.cluster.local:80"),
        ("outbound|80|v1|orders_shop_svc_cluster_local", "orders.shop.svc.cluster.local:80 (v1)"),
        ("o|10_0_0_1:80", "o|10_0_0_1:80"),
    ],
)
def test_a_cluster_is_named_as_its_destination(counted: str, said: str) -> None:
    """As people write it, where it is one of the mesh's."""
    assert names.counted_as(counted) == said
