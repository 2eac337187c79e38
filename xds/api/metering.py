"""What sidecars count: which metrics and labels, and how many series one listener may keep.

It owns the mesh setting ``metrics`` and what of an override Envoy's own formatters can express; it must never let a
label through whose words are not known here, because each of its values is a series.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import msgspec

from xds.fields import ConfigError, show

if TYPE_CHECKING:
    from xds.fields import Reader

SERIES: Final = 5_000
"""Counters that one listener keeps by default, and as many histograms: some hundred destinations with ten outcomes
each. The control plane keeps as many of each node (`xds.traffic.telemetry.MAX_SERIES`)."""

_SERIES_MIN, _SERIES_MAX = 100, 1_000_000

METRICS: Final = {
    "REQUEST_COUNT": "requests_total",
    "REQUEST_DURATION": "request_duration_milliseconds",
    "REQUEST_SIZE": "request_bytes",
    "RESPONSE_SIZE": "response_bytes",
    "TCP_OPENED_CONNECTIONS": "tcp_connections_opened_total",
    "TCP_CLOSED_CONNECTIONS": "tcp_connections_closed_total",
    "TCP_SENT_BYTES": "tcp_sent_bytes_total",
    "TCP_RECEIVED_BYTES": "tcp_received_bytes_total",
}
"""Istio's words for its metrics (Telemetry, MetricSelector), and what we call them after ``istio_``. Two of Istio's are
not here: gRPC messages, which no access logger of Envoy counts."""

LABELS: Final = (
    "reporter",
    "source_workload",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "destination_workload",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_service",
    "request_protocol",
    "connection_security_policy",
    "response_code",
    "response_flags",
    "grpc_response_status",
)
"""The labels that a proxy writes; others of Istio's are made of these by the scrape (docs/metrics.md)."""

_NEEDED: Final = frozenset({"reporter", "source_workload", "destination_workload", "destination_service"})
"""Without these an edge is no edge: graph and ``proa stat`` would add up what does not belong together."""

_ATTRIBUTES: Final = {
    "request.method": "%REQ(:METHOD)%",
    "request.protocol": "%PROTOCOL%",
    "request.host": "%REQ(:AUTHORITY)%",
    "response.code": "%RESPONSE_CODE%",
    "response.flags": "%RESPONSE_FLAGS%",
    "response.grpc_status": "%GRPC_STATUS_NUMBER%",
    "xds.route_name": "%ROUTE_NAME%",
    "route_name": "%ROUTE_NAME%",
    "xds.cluster_name": "%UPSTREAM_CLUSTER%",
    "upstream_cluster": "%UPSTREAM_CLUSTER%",
    "connection.requested_server_name": "%REQUESTED_SERVER_NAME%",
    "connection.tls_version": "%DOWNSTREAM_TLS_VERSION%",
    "connection.uri_san_peer_certificate": "%DOWNSTREAM_PEER_URI_SAN%",
    "connection.subject_peer_certificate": "%DOWNSTREAM_PEER_SUBJECT%",
    "source.address": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
    "destination.port": "%DOWNSTREAM_LOCAL_PORT%",
    "upstream.address": "%UPSTREAM_HOST%",
}
"""Attributes of an override's expression, and the command operator that says the same."""

_HEADER: Final = re.compile(r"request\.headers\[(['\"])([A-Za-z0-9-]{1,64})\1\]")
_TEXT_OF: Final = re.compile(r"string\(([a-z_.]+)\)")
_LITERAL: Final = re.compile(r"(['\"])([A-Za-z0-9 ._:/@-]{0,128})\1")
_LABEL: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]{0,63}")
"""Prometheus' label names."""


class Change(msgspec.Struct, frozen=True, gc=False):
    """One label of one metric, by our name of it: removed where ``value`` is empty, else this format of Envoy's."""

    metric: str
    label: str
    value: str = ""


class Metering(msgspec.Struct, frozen=True, gc=False):
    """What a proxy counts; the default is Istio's, without the sizes.

    ``off`` names metrics that it does not count at all. Of changes to one label the last one holds.
    """

    sizes: bool = False
    series: int = SERIES
    off: tuple[str, ...] = ()
    changes: tuple[Change, ...] = ()


DEFAULT: Final = Metering()


def read_metering(reader: Reader) -> Metering:
    """Return the mesh setting ``metrics``; raises ConfigError for a value that cannot be."""
    settings = reader.object("metrics")
    if settings is None:
        return DEFAULT
    off = tuple(sorted({_metric(settings, i, name) for i, name in enumerate(settings.texts("disabled"))}))
    labels = [_removable(settings, i, name) for i, name in enumerate(settings.texts("removedLabels"))]
    removed = tuple(Change(metric, label) for label in sorted(set(labels)) for metric in METRICS.values())
    series = settings.integer("maxSeries", SERIES, low=_SERIES_MIN, high=_SERIES_MAX)
    sizes = settings.boolean("sizes")
    settings.done()
    return Metering(sizes, series, off, removed)


def read_label_value(text: str, path: str) -> str:
    """Return Envoy's format for the expression of an override; raises ConfigError for one that it has no word for.

    Every label is a text, so that CEL's ``string(…)`` around an attribute says nothing more.
    """
    literal = _LITERAL.fullmatch(text)
    if literal:
        return literal[2] or "-"
    header = _HEADER.fullmatch(text)
    if header:
        return f"%REQ({header[2]})%"
    wrapped = _TEXT_OF.fullmatch(text)
    found = _ATTRIBUTES.get(wrapped[1] if wrapped else text)
    if found is None:
        known = ", ".join(sorted(_ATTRIBUTES))
        raise ConfigError(
            path, f"must be 'a text', request.headers['name'] or one of {known}, got {show(text)}"
        )
    return found


def read_label_name(text: str, path: str) -> str:
    """Return the name of a label; raises ConfigError for one that Prometheus would refuse."""
    if not _LABEL.fullmatch(text) or text.startswith("__"):
        raise ConfigError(path, f"must be letters, digits and '_', not starting with '__', got {show(text)}")
    return text


def _metric(settings: Reader, index: int, text: str) -> str:
    if text not in METRICS:
        path = f"{settings.at('disabled')}[{index}]"
        raise ConfigError(path, f"must be one of {', '.join(METRICS)}, got {show(text)}")
    return METRICS[text]


def _removable(settings: Reader, index: int, label: str) -> str:
    if label not in LABELS or label in _NEEDED:
        choice = ", ".join(name for name in LABELS if name not in _NEEDED)
        path = f"{settings.at('removedLabels')}[{index}]"
        raise ConfigError(path, f"must be one of {choice}, got {show(label)}")
    return label
