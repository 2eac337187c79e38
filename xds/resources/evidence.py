"""The log of sampled requests that goes to the control plane itself, for `proa analyze`.

It owns its fields and the sampling, which is the same at every hop of a request; it must never hold a header, a path or
a body.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from xds.features.retry import MARKER
from xds.pb.envoy.config.accesslog.v3 import accesslog_pb2
from xds.pb.envoy.config.core.v3 import base_pb2, config_source_pb2, substitution_format_string_pb2
from xds.pb.envoy.extensions.access_loggers.open_telemetry.v3 import logs_service_pb2
from xds.pb.envoy.extensions.filters.common.set_filter_state.v3 import value_pb2
from xds.pb.envoy.extensions.filters.http.set_filter_state.v3 import set_filter_state_pb2
from xds.pb.envoy.type.v3 import percent_pb2
from xds.pb.opentelemetry.proto.common.v1 import common_pb2
from xds.resources import names
from xds.resources.filters import http_filter
from xds.resources.parts import pack

if TYPE_CHECKING:
    from xds.resources.filters import HttpFilter

ARRIVAL_FILTER: Final = "proa.retry_arrival"
"""The filter that remembers whether an application sent the mark, before ours adds it."""

_IS_MARKED: Final = f"%CEL('baggage' in request.headers && request.headers['baggage'].contains('{MARKER}='))%"
_ARRIVED: Final = "proa.retry_arrived"

_PARTIES: Final = frozenset(
    {"reporter", "source_workload", "destination_workload", "destination_namespace", "destination_service"}
)

_FIELDS: Final = (
    ("route", "%ROUTE_NAME%"),
    ("method", "%REQ(:METHOD)%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("trace_id", "%TRACE_ID%"),
    ("parent", "%REQ(TRACEPARENT?X-B3-TRACEID)%"),
    ("code", "%RESPONSE_CODE%"),
    ("flags", "%RESPONSE_FLAGS%"),
    ("attempts", "%UPSTREAM_REQUEST_ATTEMPT_COUNT%"),
    ("started", "%START_TIME%"),
    ("duration", "%DURATION%"),
)

_PER_MILLION: Final = 10_000
"""Millionths in one per cent."""


def log(sampling: float, sides: tuple[tuple[str, str], ...], *, is_outbound: bool) -> accesslog_pb2.AccessLog:
    """Return the logger of so many per cent of the requests, chosen by their id."""
    config = logs_service_pb2.OpenTelemetryAccessLogConfig()
    config.common_config.log_name = "proa.evidence"
    config.common_config.grpc_service.envoy_grpc.cluster_name = names.CONTROL_PLANE
    config.common_config.transport_api_version = config_source_pb2.V3
    arrived = f"%FILTER_STATE({_ARRIVED}:PLAIN)%" if is_outbound else _IS_MARKED
    parties = tuple((name, text) for name, text in sides if name in _PARTIES)
    for name, text in (*parties, *_FIELDS, ("arrived", arrived)):
        config.attributes.values.add(key=name, value=common_pb2.AnyValue(string_value=text))
    found = accesslog_pb2.AccessLog(name="envoy.access_loggers.open_telemetry", typed_config=pack(config))
    found.filter.runtime_filter.runtime_key = "proa.evidence"
    found.filter.runtime_filter.percent_sampled.numerator = round(sampling * _PER_MILLION)
    found.filter.runtime_filter.percent_sampled.denominator = percent_pb2.FractionalPercent.MILLION
    return found


def arrival() -> HttpFilter:
    """Return the filter that remembers what the application sent; to stand before the marks are added."""
    value = value_pb2.FilterStateValue(
        object_key=_ARRIVED,
        factory_key="envoy.string",
        format_string=substitution_format_string_pb2.SubstitutionFormatString(
            text_format_source=base_pb2.DataSource(inline_string=_IS_MARKED)
        ),
    )
    return http_filter(ARRIVAL_FILTER, set_filter_state_pb2.Config(on_request_headers=[value]))
