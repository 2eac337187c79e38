"""The bytes of an OTLP export of metrics, as points.

It owns which metrics are read and what a sane point is; it must never look into labels that it can hand on as bytes,
because they are the same every five seconds and cost ten times what the numbers cost.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

from google.protobuf.message import DecodeError

from xds.pb.opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2
from xds.pb.opentelemetry.proto.common.v1 import common_pb2
from xds.traffic.edges import Numbers

if TYPE_CHECKING:
    from xds.pb.opentelemetry.proto.metrics.v1 import metrics_pb2

MAX_LABEL_CHARS: Final = 512
"""Longest label looked at. A SPIFFE ID of Kubernetes names has at most 253 + 63 + 253 and some."""

REQUESTS: Final = "istio.requests_total"
OPENED: Final = "istio.tcp_connections_opened_total"
SENT: Final = "istio.tcp_sent_bytes_total"
RECEIVED: Final = "istio.tcp_received_bytes_total"
DURATION: Final = "istio.request_duration_milliseconds"
"""What the stats access logger counts of an edge, under the names with which Envoy pushes it (resources.telemetry)."""

TAKEN: Final = "listener.downstream_cx_total"
ENCRYPTED: Final = "listener.ssl.handshake"
ACTIVE: Final = "listener.downstream_cx_active"
"""What Envoy counts of a listener."""

UNHEALTHY: Final = "cluster.endpoint.healthy"
EJECTIONS: Final = "cluster.outlier_detection.ejections_active"
"""What Envoy says of an endpoint where its failures are counted, and of how many of a cluster are ejected."""

LIMITER_ERRORS: Final = "cluster.ratelimit.error"
AUTHORIZER_ERRORS: Final = "cluster.ext_authz.error"
KEY_ERRORS: Final = "filter_chain.jwt_authn.jwks_fetch_failed"
OLDER_KEY_ERRORS: Final = "http.jwt_authn.jwks_fetch_failed"
PROVIDER_ERRORS: Final = "cluster.upstream_cx_connect_fail"
"""What Envoy counts of services that it asks about requests, or tells of them, and that do not answer."""

ASKED: Final = frozenset({LIMITER_ERRORS, AUTHORIZER_ERRORS, KEY_ERRORS, OLDER_KEY_ERRORS, PROVIDER_ERRORS})

COUNTERS: Final = frozenset({REQUESTS, OPENED, SENT, RECEIVED, TAKEN, ENCRYPTED, *ASKED})


class TelemetryError(ValueError):
    """An export that is no OTLP message."""


class Point(NamedTuple):
    """One value of one metric: a counter has one number, a histogram one for each bucket."""

    metric: str
    labels: bytes
    """The framed-off key-value pairs in their order: equal bytes are equal labels."""
    values: Numbers
    bounds: Numbers = ()


def points(export: bytes) -> Iterator[tuple[Point, list[bytes]]]:
    """Yield the points that are read, each with its labels still apart; raises TelemetryError.

    Others are skipped, so that a newer Envoy may push more.
    """
    try:
        request = metrics_service_pb2.ExportMetricsServiceRequest.FromString(export)
    except DecodeError as error:
        raise TelemetryError("not an ExportMetricsServiceRequest") from error
    for resource in request.resource_metrics:
        # Field 2 is "scope_metrics" today; the pinned API still has its first name.
        for scope in resource.instrumentation_library_metrics:
            for metric in scope.metrics:
                name = metric.name
                if name == DURATION:
                    yield from _histogram(name, metric)
                elif name in COUNTERS:
                    yield from _numbers(name, metric.sum.data_points)
                elif name == ACTIVE:
                    yield from _numbers(name, metric.gauge.data_points)
                elif name == UNHEALTHY:  # nearly all are healthy, and say no more than that
                    yield from _numbers(name, (one for one in metric.gauge.data_points if not one.as_int))
                elif name == EJECTIONS:
                    yield from _numbers(name, (one for one in metric.gauge.data_points if one.as_int))


def read_labels(pairs: list[bytes]) -> dict[str, str]:
    """Return what the pairs say; one that is no pair says nothing."""
    found: dict[str, str] = {}
    for pair in pairs:
        try:
            read = common_pb2.KeyValue.FromString(pair)
        except DecodeError:
            continue
        found[read.key[:MAX_LABEL_CHARS]] = read.value.string_value[:MAX_LABEL_CHARS]
    return found


def _numbers(name: str, found: Iterable[metrics_pb2.NumberDataPoint]) -> Iterator[tuple[Point, list[bytes]]]:
    for point in found:
        value = point.as_int
        if value >= 0:  # Envoy counts in integers, and a float could be NaN
            pairs = list(point.attributes)
            yield Point(name, b"".join(pairs), (value,)), pairs


def _histogram(name: str, metric: metrics_pb2.Metric) -> Iterator[tuple[Point, list[bytes]]]:
    for point in metric.histogram.data_points:
        bounds, buckets = tuple(point.explicit_bounds), tuple(point.bucket_counts)
        if len(buckets) == len(bounds) + 1 and _is_rising(bounds):
            pairs = list(point.attributes)
            yield Point(name, b"".join(pairs), buckets, bounds), pairs


@lru_cache(maxsize=64)
def _is_rising(bounds: Numbers) -> bool:
    """Tell whether bounds rise from above zero: what is no number compares as false."""
    return all(low < high for low, high in itertools.pairwise((0.0, *bounds)))
