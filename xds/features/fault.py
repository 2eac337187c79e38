"""Injected faults: delays and aborts on purpose, for a share of a route's requests.

It owns Istio's HTTPFaultInjection; it must never add the fault filter itself, which every
outbound HTTP listener has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from xds.fields import show
from xds.grammar import read_percent
from xds.pb.envoy.extensions.filters.http.fault.v3 import fault_pb2
from xds.pb.envoy.type.v3 import percent_pb2

if TYPE_CHECKING:
    from xds.fields import Reader
    from xds.pb.envoy.config.route.v3 import route_components_pb2

SUPPORT: Final = (
    (
        "http[].fault.delay.fixedDelay, percentage, percent",
        "HTTPFault.delay",
        "at least 1ms; no percentage: none",
    ),
    (
        "http[].fault.abort.httpStatus, percentage",
        "HTTPFault.abort.http_status",
        "200..599; no percentage: none",
    ),
    (
        "http[].fault.abort.grpcStatus, percentage",
        "HTTPFault.abort.grpc_status",
        "gRPC's names, such as UNAVAILABLE",
    ),
)
"""Field, where it ends in Envoy, remark: the rows of docs/features.md."""

FILTER: Final = "envoy.filters.http.fault"
"""The filter that a route configures; a route without a fault leaves it idle."""

GRPC_STATUSES: Final = (
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)
"""gRPC's status names; a name's place is its number (grpc/grpc doc/statuscodes.md)."""


@dataclass(frozen=True, slots=True)
class Delay:
    """How long to hold which share of the requests."""

    delay_ms: float
    percent: float


@dataclass(frozen=True, slots=True)
class HttpAbort:
    """Answer this share of the requests with an HTTP status."""

    status: int
    percent: float


@dataclass(frozen=True, slots=True)
class GrpcAbort:
    """Answer this share of the requests with a gRPC status."""

    status: int
    percent: float


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong on purpose; a request can be delayed and then aborted."""

    delay: Delay | None = None
    abort: HttpAbort | GrpcAbort | None = None

    def patch_route(self, route: route_components_pb2.Route) -> None:
        """Configure the fault filter for this route."""
        fault = fault_pb2.HTTPFault()
        if self.delay is not None:
            fault.delay.fixed_delay.FromMicroseconds(round(self.delay.delay_ms * 1000))
            fault.delay.percentage.CopyFrom(_percentage(self.delay.percent))
        match self.abort:
            case HttpAbort(status, percent):
                fault.abort.http_status = status
                fault.abort.percentage.CopyFrom(_percentage(percent))
            case GrpcAbort(status, percent):
                fault.abort.grpc_status = status
                fault.abort.percentage.CopyFrom(_percentage(percent))
            case None:
                pass
        route.typed_per_filter_config[FILTER].Pack(fault, deterministic=True)


def read(parent: Reader) -> Fault | None:
    """Return the fault of a rule, None where there is none."""
    reader = parent.object("fault")
    if reader is None:
        return None
    delay = reader.object("delay")
    abort = reader.object("abort")
    reader.done()
    if delay is None and abort is None:
        raise parent.fail("fault", "must have delay or abort")
    return Fault(None if delay is None else _read_delay(delay), None if abort is None else _read_abort(abort))


def _read_delay(reader: Reader) -> Delay:
    reader.refuse("exponentialDelay", "no request would be delayed")
    if reader.has("percent") and reader.has("percentage"):
        raise reader.fail("percent", "excludes percentage; keep percentage")
    # `percent` is what Istio had before `percentage`.
    whole = reader.integer("percent", 0, low=0, high=100)
    delay_ms = reader.duration_ms("fixedDelay", low_ms=1)
    if delay_ms is None:
        raise reader.fail("fixedDelay", "is required")
    delay = Delay(delay_ms, read_percent(reader, "percentage", float(whole)))
    reader.done()
    _warn_of_zero(reader, delay.percent, "delayed")
    return delay


def _read_abort(reader: Reader) -> HttpAbort | GrpcAbort:
    reader.refuse("http2Error", "no request would be aborted")
    percent = read_percent(reader, "percentage", 0.0)
    if reader.has("httpStatus") == reader.has("grpcStatus"):
        raise reader.fail("httpStatus", "must stand alone, or grpcStatus in its place")
    if reader.has("httpStatus"):
        abort = HttpAbort(reader.integer("httpStatus", low=200, high=599), percent)
        reader.raw("grpcStatus")
    else:
        abort = GrpcAbort(_grpc_status(reader), percent)
        reader.raw("httpStatus")
    reader.done()
    _warn_of_zero(reader, percent, "aborted")
    return abort


def _grpc_status(reader: Reader) -> int:
    name = reader.text("grpcStatus")
    if name not in GRPC_STATUSES:
        raise reader.fail("grpcStatus", f"must be one of {', '.join(GRPC_STATUSES)}, got {show(name)}")
    return GRPC_STATUSES.index(name)


def _warn_of_zero(reader: Reader, percent: float, what: str) -> None:
    if not percent:
        reader.warn("percentage", f"is 0 or absent, so no request is {what}")


def _percentage(percent: float) -> percent_pb2.FractionalPercent:
    # Of a million, as Istio does: percentages have four decimals.
    numerator = round(percent * 10_000)
    return percent_pb2.FractionalPercent(
        numerator=numerator, denominator=percent_pb2.FractionalPercent.MILLION
    )
