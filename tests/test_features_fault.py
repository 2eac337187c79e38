"""Delays and aborts of one route."""

from __future__ import annotations

import pytest

from tests.fakes.reading import notes, present, reader, refusal, route
from xds.features import fault
from xds.pb.envoy.extensions.filters.http.fault.v3.fault_pb2 import HTTPFault
from xds.pb.envoy.type.v3.percent_pb2 import FractionalPercent


def faulty(text: str) -> HTTPFault:
    """Return the fault filter's configuration."""
    message = route()
    present(fault.read(reader(f"fault: {text}"))).patch_route(message)
    found = HTTPFault()

    assert message.typed_per_filter_config[fault.FILTER].Unpack(found)
    return found


def test_delay() -> None:
    """A share of the requests is held; percentages have four decimals."""
    found = faulty("{delay: {fixedDelay: 1.5s, percentage: {value: 0.25}}}")

    assert found.delay.fixed_delay.ToMilliseconds() == 1500
    assert found.delay.percentage == FractionalPercent(numerator=2500, denominator=FractionalPercent.MILLION)
    assert not found.HasField("abort")


def test_abort_with_an_http_status() -> None:
    """A share of the requests is answered with a status."""
    found = faulty("{abort: {httpStatus: 503, percentage: {value: 100}}}")

    assert (found.abort.http_status, found.abort.percentage.numerator) == (503, 1_000_000)


def test_abort_with_a_grpc_status() -> None:
    """Statuses of gRPC go by name."""
    assert faulty("{abort: {grpcStatus: UNAVAILABLE, percentage: {value: 1}}}").abort.grpc_status == 14


def test_deprecated_percent() -> None:
    """Whole percents, Istio's older field, are still read."""
    assert faulty("{delay: {fixedDelay: 1s, percent: 10}}").delay.percentage.numerator == 100_000


def test_fault_without_a_share_is_told() -> None:
    """No percentage is no fault, as in Istio, and the user is told."""
    said = notes(fault.read, "fault: {abort: {httpStatus: 500}}")

    assert said == ["warning: x.fault.abort.percentage: is 0 or absent, so no request is aborted"]


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("{}", "x.fault: must have delay or abort"),
        ("{delay: {}}", "x.fault.delay.fixedDelay: is required"),
        ("{delay: {fixedDelay: 0s}}", "x.fault.delay.fixedDelay: must be at least 1ms"),
        ("{delay: {exponentialDelay: 1s}}", "x.fault.delay.exponentialDelay: is not supported yet"),
        (
            "{delay: {fixedDelay: 1s, percent: 1, percentage: {value: 1}}}",
            "x.fault.delay.percent: excludes percentage",
        ),
        (
            "{delay: {fixedDelay: 1s, percentage: {value: 101}}}",
            "x.fault.delay.percentage.value: must be 0..100",
        ),
        ("{abort: {}}", "x.fault.abort.httpStatus: must stand alone"),
        ("{abort: {httpStatus: 500, grpcStatus: INTERNAL}}", "x.fault.abort.httpStatus: must stand alone"),
        ("{abort: {httpStatus: 199}}", "x.fault.abort.httpStatus: must be 200..599"),
        ("{abort: {grpcStatus: unavailable}}", "x.fault.abort.grpcStatus: must be one of OK, CANCELLED"),
        ("{abort: {http2Error: a}}", "x.fault.abort.http2Error: is not supported yet"),
    ],
)
def test_refused_fault(text: str, start: str) -> None:
    """Faults that say nothing, or two things, are refused."""
    assert refusal(fault.read, f"fault: {text}").startswith(start)
