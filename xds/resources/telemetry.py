"""Access loggers that count: Istio's metric names and labels, written by Envoy itself.

It owns which labels a request is counted under; it must never put anything into a label that a client chooses
freely (path, Host, header), because each new value is a series that stays. A Telemetry override may, by a user's
word; the series cap bounds that too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from google.protobuf import wrappers_pb2

from xds.api.core import Protocol as Spoken
from xds.api.metering import METRICS, Change, Metering
from xds.pb.envoy.config.accesslog.v3 import accesslog_pb2
from xds.pb.envoy.data.accesslog.v3 import accesslog_pb2 as log_types_pb2
from xds.pb.envoy.extensions.access_loggers.stats.v3 import stats_pb2
from xds.resources.parts import pack
from xds.wire import field, varint

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xds.ir import Inbound, Workload
    from xds.observed import Observed

PREFIX: Final = "istio"
"""The first word of Istio's names. Envoy joins it with a dot (``istio.requests_total`` in OTLP) and puts
``envoy_`` before it in Prometheus' format; a scrape rule that strips that makes Istio's dashboards work."""

LOGGER: Final = "envoy.access_loggers.stats"

UNKNOWN: Final = "unknown"
"""Istio's word for a label whose value nobody knows."""

MUTUAL_TLS: Final = "mutual_tls"
NO_TLS: Final = "none"
"""Istio's values of ``connection_security_policy``."""

_EDGE: Final = frozenset(
    {
        "reporter",
        "source_workload",
        "source_workload_namespace",
        "destination_workload",
        "destination_workload_namespace",
        "destination_service",
        "connection_security_policy",
    }
)
"""The labels by which Istio's dashboards show sizes: without the others a size costs half, and has a tenth of the
series."""

_Config = stats_pb2.Config
_LogType = log_types_pb2.AccessLogType
Labels = tuple[tuple[str, str], ...]
"""Label names with literals or Envoy's command operators as values."""


def spoken(protocol: Spoken) -> str:
    """Return Istio's ``request_protocol``: ``http``, ``grpc`` or ``tcp``."""
    match protocol:
        case Spoken.HTTP | Spoken.HTTP2:
            return "http"
        case Spoken.GRPC:
            return "grpc"
        case Spoken.TCP:
            return "tcp"


def spiffe_id(workload: Workload) -> str:
    """Return the SPIFFE ID that the workload's certificate holds."""
    return f"spiffe://{workload.trust_domain}/ns/{workload.namespace}/sa/{workload.service_account}"


def at_source(workload: Workload) -> Labels:
    """Return the labels of calls that this workload makes; the destination is what the chosen endpoint says.

    Whether the hop was encrypted is the destination's to say (as in Istio); that a peer was authenticated
    shows in ``destination_principal``.
    """
    return (
        ("reporter", "source"),
        ("source_workload", _literal(workload.name)),
        ("source_workload_namespace", _literal(workload.namespace)),
        ("source_principal", _literal(spiffe_id(workload))),
        ("source_app", _literal(workload.app) or "%ENVIRONMENT(APP)%"),
        ("source_version", _literal(workload.version) or "%ENVIRONMENT(VERSION)%"),
        ("destination_workload", "%UPSTREAM_METADATA(proa:workload)%"),
        ("destination_workload_namespace", "%UPSTREAM_METADATA(proa:namespace)%"),
        ("destination_principal", "%UPSTREAM_PEER_URI_SAN%"),
        ("destination_service", "%CLUSTER_METADATA(proa:service)%"),
        ("request_protocol", "%CLUSTER_METADATA(proa:protocol)%"),
        ("connection_security_policy", UNKNOWN),
    )


def at_destination(node: Inbound, security: str) -> Labels:
    """Return the labels of calls that this port takes; ``security`` is ``MUTUAL_TLS`` or ``NO_TLS``.

    The source is read from its verified certificate, whose DNS name is ``workload.namespace``. No formatter of Envoy
    cuts a text in two, so the scrape does (docs/metrics.md).
    """
    known = security == MUTUAL_TLS
    workload = node.workload
    return (
        ("reporter", "destination"),
        ("source_workload", "%DOWNSTREAM_PEER_DNS_SAN%" if known else UNKNOWN),
        ("source_principal", "%DOWNSTREAM_PEER_URI_SAN%" if known else UNKNOWN),
        ("destination_workload", _literal(workload.name)),
        ("destination_workload_namespace", _literal(workload.namespace)),
        ("destination_principal", _literal(spiffe_id(workload))),
        ("destination_app", _literal(workload.app) or "%ENVIRONMENT(APP)%"),
        ("destination_version", _literal(workload.version) or "%ENVIRONMENT(VERSION)%"),
        ("destination_service", _literal(node.service) or UNKNOWN),
        ("request_protocol", spoken(node.protocol)),
        ("connection_security_policy", security),
    )


class Counted(Protocol):
    """A listener, as far as it says what is counted."""

    @property
    def workload(self) -> Workload:
        """Whose traffic it is, and what the mesh counts."""
        ...

    @property
    def observed(self) -> Observed:
        """What Telemetry objects change of it."""
        ...


def metering_of(node: Counted) -> Metering:
    """Return what is counted at a listener: what the mesh says, and Telemetry objects over it."""
    found = node.workload.metering
    off, changes = [*found.off], [*found.changes]
    for override in node.observed.metrics:
        name = METRICS.get(override.metric.value)  # of gRPC messages nobody counts any
        if name is not None:
            off += (name,) if override.disabled else ()
            changes += (Change(name, label, value or "") for label, value in override.tags)
    if len(off) == len(found.off) and len(changes) == len(found.changes):
        return found
    return Metering(found.sizes, found.series, tuple(off), tuple(changes))


def http_logs(labels: Labels, metering: Metering) -> list[accesslog_pb2.AccessLog]:
    """Return the logger of an HTTP connection manager: requests, their duration and, where asked for, their sizes.

    Every statistic costs each request its labels once more, and each histogram costs each edge its buckets.
    """
    edge = tuple(pair for pair in labels if pair[0] in _EDGE)
    labels += (
        ("response_code", "%RESPONSE_CODE%"),
        ("response_flags", "%RESPONSE_FLAGS%"),
        ("grpc_response_status", "%GRPC_STATUS_NUMBER%"),
    )
    unit = _Config.Histogram
    histograms = [("request_duration_milliseconds", labels, unit.Milliseconds, "%DURATION%")]
    if metering.sizes:
        histograms += [
            ("request_bytes", edge, unit.Bytes, "%BYTES_RECEIVED%"),
            ("response_bytes", edge, unit.Bytes, "%BYTES_SENT%"),
        ]
    return _logs(metering, [("requests_total", labels, "")], histograms)


def tcp_logs(labels: Labels, metering: Metering) -> list[accesslog_pb2.AccessLog]:
    """Return the loggers of a TCP proxy: connections when they open, their bytes when they end."""
    labels += (("response_flags", "%RESPONSE_FLAGS%"),)
    opened = [("tcp_connections_opened_total", labels, "")]
    ended = [
        ("tcp_connections_closed_total", labels, ""),
        ("tcp_sent_bytes_total", labels, "%BYTES_SENT%"),
        ("tcp_received_bytes_total", labels, "%BYTES_RECEIVED%"),
    ]
    return [
        *_logs(metering, opened, at=_LogType.TcpUpstreamConnected),
        *_logs(metering, ended, at=_LogType.TcpConnectionEnd),
    ]


def _logs(
    metering: Metering,
    counters: Iterable[tuple[str, Labels, str]],
    histograms: Iterable[tuple[str, Labels, _Config.Histogram.Unit, str]] = (),
    *,
    at: _LogType | None = None,
) -> list[accesslog_pb2.AccessLog]:
    """Return a logger of those metrics that are on, none if all are off."""
    off = metering.off
    config = _Config.FromString(scope(metering.series))
    for name, labels, value in counters:
        if name not in off:
            config.counters.append(_counter(_stat(name, labels, metering), value))
    for name, labels, unit, value in histograms:
        if name not in off:
            stat = _stat(name, labels, metering)
            config.histograms.append(_Config.Histogram(stat=stat, unit=unit, value_format=value))
    if not config.counters and not config.histograms:
        return []
    log = accesslog_pb2.AccessLog(name=LOGGER, typed_config=pack(config))
    if at is not None:
        log.filter.log_type_filter.types.append(at)
    return [log]


def scope(series: int) -> bytes:
    """Return field 6 of the logger's configuration, ``stats_scope``, which is newer than our copy of the API.

    At most so many counters, and so many histograms, of each logger (type.v3.Scope, fields 1, 3 and 5); what comes
    beyond is not counted. Envoys before 1.39 get another word (`resources.older`). One scope shared by a proxy's
    loggers (field 6, ``sharing_name``) would cap them together, and ends Envoy 1.40 with a segmentation fault once two
    listeners have it and it only validates (tests/envoy/test_validate.py).
    """
    most = field(1, b"\x08" + varint(series)), field(3, b"\x08" + varint(series))
    return field(6, b"".join((*most, field(5, PREFIX.encode()))))


def _counter(stat: _Config.Stat, value: str) -> _Config.Counter:
    if value:
        return _Config.Counter(stat=stat, value_format=value)
    return _Config.Counter(stat=stat, value_fixed=wrappers_pb2.UInt64Value(value=1))


def _stat(name: str, labels: Labels, metering: Metering) -> _Config.Stat:
    found = dict(labels)
    for change in metering.changes:
        if change.metric == name and change.value:
            found[change.label] = change.value
        elif change.metric == name:
            found.pop(change.label, None)
    return _Config.Stat(
        name=name, tags=[_Config.Tag(name=key, value_format=text) for key, text in found.items()]
    )


def _literal(text: str) -> str:
    """Return a text that Envoy's formatter leaves as it is."""
    return text.replace("%", "%%")
