"""Access logs: the fields that every listener writes, and the loggers that write them to a stream or over OTLP.

It owns the one schema of both sides; it must never write a secret that the redaction list names, nor a line that a
client's words could end (a JSON string escapes them, and a field of text holds no client's words but a path).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from xds.observed import AccessLog, Otlp, Redaction, Stream
from xds.pb.envoy.config.accesslog.v3 import accesslog_pb2
from xds.pb.envoy.config.core.v3 import config_source_pb2
from xds.pb.envoy.config.route.v3 import route_components_pb2
from xds.pb.envoy.data.accesslog.v3 import accesslog_pb2 as log_types_pb2
from xds.pb.envoy.extensions.access_loggers.filters.cel.v3 import cel_pb2
from xds.pb.envoy.extensions.access_loggers.open_telemetry.v3 import logs_service_pb2
from xds.pb.envoy.extensions.access_loggers.stream.v3 import stream_pb2
from xds.pb.opentelemetry.proto.common.v1 import common_pb2
from xds.resources.parts import pack

if TYPE_CHECKING:
    from google.protobuf import struct_pb2

Fields = tuple[tuple[str, str], ...]
"""Names of fields with texts or Envoy's command operators."""

CONNECTION: Final[Fields] = (
    ("start_time", "%START_TIME%"),
    ("duration", "%DURATION%"),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("upstream_local_address", "%UPSTREAM_LOCAL_ADDRESS%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER_RAW%"),
    ("requested_server_name", "%REQUESTED_SERVER_NAME%"),
    ("response_flags", "%RESPONSE_FLAGS_LONG%"),
    ("connection_termination_details", "%CONNECTION_TERMINATION_DETAILS%"),
    ("upstream_transport_failure_reason", "%UPSTREAM_TRANSPORT_FAILURE_REASON%"),
    ("attempts", "%UPSTREAM_REQUEST_ATTEMPT_COUNT%"),
)
"""What a request and a connection have alike. Names are those of Istio's JSON log where it has the field."""

REQUEST: Final[Fields] = (
    ("method", "%REQ(:METHOD)%"),
    ("authority", "%REQ(:AUTHORITY)%"),
    ("path", "%PATH(WQ:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("route_name", "%ROUTE_NAME%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
    ("grpc_status", "%GRPC_STATUS%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("trace_id", "%TRACE_ID%"),
    ("user_agent", "%REQ(USER-AGENT)%"),
    ("x_forwarded_for", "%REQ(X-FORWARDED-FOR)%"),
    ("upstream_service_time", "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%"),
)
"""What only a request has."""

REDACTED: Final = "[redacted]"

_PATH: Final = re.compile(
    r"%(?:REQ\((?:[\w-]+\?)?:path\)|REQ\(:path\?[\w-]+\)|REQ\(x-envoy-original-path\)|PATH\([A-Z:_]+\))(?::\d+)?%",
    re.IGNORECASE,
)
"""Every operator that writes a request's path."""

_LogType = log_types_pb2.AccessLogType
_Filter = accesslog_pb2.AccessLogFilter
_Matcher = route_components_pb2.HeaderMatcher


def http_loggers(logs: Iterable[AccessLog], sides: Fields) -> list[accesslog_pb2.AccessLog]:
    """Return the loggers of requests; ``sides`` are the fields that tell the two parties."""
    return [logger for log in logs for logger in _requests(log, (*sides, *CONNECTION, *REQUEST))]


def tcp_loggers(logs: Iterable[AccessLog], sides: Fields) -> list[accesslog_pb2.AccessLog]:
    """Return the loggers of connections, which write when one ends."""
    ended = _Filter()
    ended.log_type_filter.types.append(_LogType.TcpConnectionEnd)
    return [_logger(log, _words(log, (*sides, *CONNECTION)), [ended, *_chosen(log)]) for log in logs]


def _requests(log: AccessLog, fields: Fields) -> Iterable[accesslog_pb2.AccessLog]:
    """Yield one logger for each form of the path; what stock Envoy cannot mask in a text, a filter keeps out of it."""
    words, chosen = _words(log, fields), _chosen(log)
    secret, private = _parameters(log.redaction), _paths(log.redaction)
    open_to_all = [_path_is(pattern, inverted=True) for pattern in (secret, private) if pattern]
    yield _logger(log, words, [*chosen, *open_to_all])
    if secret:
        masked = _with_path(words, f"%PATH(NQ:PATH)%?{REDACTED}")
        others = [_path_is(private, inverted=True)] if private else []
        yield _logger(log, masked, [*chosen, _path_is(secret), *others])
    if private:
        yield _logger(log, _with_path(words, REDACTED), [*chosen, _path_is(private)])


def _words(log: AccessLog, fields: Fields) -> str | Fields:
    return log.text or log.fields or fields


def _with_path(words: str | Fields, path: str) -> str | Fields:
    if isinstance(words, str):
        return _PATH.sub(lambda _: path, words)
    return tuple((name, _PATH.sub(lambda _: path, text)) for name, text in words)


def _chosen(log: AccessLog) -> list[_Filter]:
    if not log.expression:
        return []
    expression = cel_pb2.ExpressionFilter(expression=log.expression)
    found = _Filter()
    found.extension_filter.name = "envoy.access_loggers.extension_filters.cel"
    found.extension_filter.typed_config.CopyFrom(pack(expression))
    return [found]


def _parameters(redaction: Redaction) -> str:
    """Return a pattern of paths whose query has a secret, empty for none.

    A name that is written with escapes could be any of them, so it counts as one; ``token[]`` is ``token``.
    """
    if not redaction.parameters:
        return ""
    names = "|".join(map(re.escape, redaction.parameters))
    return rf"[^?]*\?(?:.*[&;])?(?:(?i:{names})(?:\[[^=&;]*)?|[^=&;]*%[^=&;]*)(?:=.*|[&;].*)?"


def _paths(redaction: Redaction) -> str:
    return f"(?:{'|'.join(map(re.escape, redaction.paths))}).*" if redaction.paths else ""


def _path_is(pattern: str, *, inverted: bool = False) -> _Filter:
    matcher = _Matcher(name=":path", invert_match=inverted)
    matcher.string_match.safe_regex.regex = pattern
    found = _Filter()
    found.header_filter.header.CopyFrom(matcher)
    return found


def _logger(log: AccessLog, words: str | Fields, filters: list[_Filter]) -> accesslog_pb2.AccessLog:
    match log.sink:
        case Stream(is_error):
            name, config = ("stderr", _error(log, words)) if is_error else ("stdout", _output(log, words))
            logger = accesslog_pb2.AccessLog(name=f"envoy.access_loggers.{name}", typed_config=pack(config))
        case Otlp():
            logger = accesslog_pb2.AccessLog(
                name="envoy.access_loggers.open_telemetry", typed_config=pack(_records(log.sink, words))
            )
    if len(filters) == 1:
        logger.filter.CopyFrom(filters[0])
    elif filters:
        logger.filter.and_filter.filters.extend(filters)
    return logger


def _output(log: AccessLog, words: str | Fields) -> stream_pb2.StdoutAccessLog:
    config = stream_pb2.StdoutAccessLog()
    _format(config, log, words)
    return config


def _error(log: AccessLog, words: str | Fields) -> stream_pb2.StderrAccessLog:
    config = stream_pb2.StderrAccessLog()
    _format(config, log, words)
    return config


def _format(
    config: stream_pb2.StdoutAccessLog | stream_pb2.StderrAccessLog, log: AccessLog, words: str | Fields
) -> None:
    if isinstance(words, str):
        config.log_format.text_format_source.inline_string = f"{words}\n"
        config.log_format.omit_empty_values = log.omit_empty
        return
    _fill(config.log_format.json_format, words)
    # An empty field of our own schema says nothing; who names the fields decides.
    config.log_format.omit_empty_values = log.omit_empty or not log.fields


def _fill(struct: struct_pb2.Struct, fields: Fields) -> None:
    for name, text in fields:
        struct.fields[name].string_value = text


def _records(sink: Otlp, words: str | Fields) -> logs_service_pb2.OpenTelemetryAccessLogConfig:
    config = logs_service_pb2.OpenTelemetryAccessLogConfig()
    # Its fields have moved up since; Envoy 1.36 knows them here only.
    config.common_config.log_name = sink.log_name
    config.common_config.grpc_service.envoy_grpc.cluster_name = sink.cluster
    config.common_config.transport_api_version = config_source_pb2.V3
    if isinstance(words, str):
        config.body.string_value = words
        return config
    config.attributes.values.extend(_pair(name, text) for name, text in words)
    return config


def _pair(name: str, text: str) -> common_pb2.KeyValue:
    return common_pb2.KeyValue(key=name, value=common_pb2.AnyValue(string_value=text))
