"""What is told of the traffic through one listener: logs, spans and changes to metrics, as frozen values.

It owns these values, which listeners' IR nodes carry; it must never know where they were configured.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

Pairs = tuple[tuple[str, str], ...]


class Metric(enum.Enum):
    """Istio's standard metrics; the values are its names for them."""

    REQUEST_COUNT = "REQUEST_COUNT"
    REQUEST_DURATION = "REQUEST_DURATION"
    REQUEST_SIZE = "REQUEST_SIZE"
    RESPONSE_SIZE = "RESPONSE_SIZE"
    TCP_OPENED_CONNECTIONS = "TCP_OPENED_CONNECTIONS"
    TCP_CLOSED_CONNECTIONS = "TCP_CLOSED_CONNECTIONS"
    TCP_SENT_BYTES = "TCP_SENT_BYTES"
    TCP_RECEIVED_BYTES = "TCP_RECEIVED_BYTES"
    GRPC_REQUEST_MESSAGES = "GRPC_REQUEST_MESSAGES"
    GRPC_RESPONSE_MESSAGES = "GRPC_RESPONSE_MESSAGES"


@dataclass(frozen=True, slots=True)
class MetricOverride:
    """How one metric differs from the mesh's own: switched off, or with other labels.

    ``tags`` are labels by name, sorted; a value of None takes the label away.
    """

    metric: Metric
    disabled: bool = False
    tags: tuple[tuple[str, str | None], ...] = ()


class TagSource(enum.Enum):
    """Where the value of a span's tag comes from."""

    LITERAL = "literal"
    HEADER = "header"
    ENVIRONMENT = "environment"
    FORMATTER = "formatter"


@dataclass(frozen=True, slots=True)
class Tag:
    """A tag of every span: a text, or the name of a header or variable with a default, or Envoy's operators."""

    name: str
    source: TagSource
    value: str
    default: str = ""


@dataclass(frozen=True, slots=True)
class ZipkinTracer:
    """Spans as Zipkin's JSON; ``w3c``: the context is carried and taken in both forms, B3 and W3C."""

    cluster: str
    host: str
    path: str
    w3c: bool
    short_ids: bool = False


@dataclass(frozen=True, slots=True)
class OtlpTracer:
    """Spans over OTLP: by gRPC, or by HTTP to a ``path``; the context is carried in W3C's form."""

    cluster: str
    host: str
    timeout_ms: float
    path: str = ""
    headers: Pairs = ()


@dataclass(frozen=True, slots=True)
class Tracing:
    """Spans of the requests through a listener; ``sampling`` is a percentage of those that begin a trace here."""

    tracer: ZipkinTracer | OtlpTracer
    sampling: float
    tags: tuple[Tag, ...] = ()
    max_tag_length: int = 0
    use_request_id: bool = True


@dataclass(frozen=True, slots=True)
class Stream:
    """One of the sidecar's own streams: standard output, or standard error."""

    is_error: bool = False


@dataclass(frozen=True, slots=True)
class Otlp:
    """Records over OTLP by gRPC."""

    cluster: str
    log_name: str


@dataclass(frozen=True, slots=True)
class Redaction:
    """What is never logged: the query of a request that has one of these parameters, and paths that begin so."""

    parameters: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AccessLog:
    """One access log: where it goes, its words, and which requests it takes (CEL, empty for all).

    The words are a line of ``text``, else the ``fields`` of an object, else the mesh's own fields.
    """

    sink: Stream | Otlp
    text: str = ""
    fields: Pairs = ()
    expression: str = ""
    omit_empty: bool = False
    redaction: Redaction = Redaction()


@dataclass(frozen=True, slots=True)
class Observed:
    """All that is told of a listener's traffic besides its counters."""

    logs: tuple[AccessLog, ...] = ()
    tracing: Tracing | None = None
    metrics: tuple[MetricOverride, ...] = ()
    evidence: float = 0
    """Per cent of requests that are told to the control plane."""


NOTHING_OBSERVED = Observed()
