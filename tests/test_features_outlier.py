"""When an endpoint of one cluster is ejected, and for how long."""

from __future__ import annotations

import pytest
from google.protobuf.wrappers_pb2 import UInt32Value

from tests.fakes.reading import cluster, notes, present, reader, refusal
from xds.features import outlier
from xds.pb.envoy.config.cluster.v3.outlier_detection_pb2 import OutlierDetection


def ejecting(text: str) -> OutlierDetection:
    """Return this outlier detection as Envoy has it."""
    message = cluster()
    present(outlier.read(reader(f"outlierDetection: {text}"))).patch_cluster(message)
    return message.outlier_detection


def test_empty_detection_is_envoys_defaults() -> None:
    """Defaults are Envoy's, which are Istio's; only the success rate, which Istio has not, is off."""
    assert ejecting("{}") == OutlierDetection(enforcing_success_rate=UInt32Value(value=0))


def test_detection_never_panics() -> None:
    """Ejected endpoints get nothing even if they are the majority; Envoy's default is to panic at 50 %."""
    message = cluster()
    present(outlier.read(reader("outlierDetection: {}"))).patch_cluster(message)

    assert message.common_lb_config.HasField("healthy_panic_threshold")
    assert message.common_lb_config.healthy_panic_threshold.value == 0


def test_min_health_percent() -> None:
    """The user can want panic below a share of healthy endpoints."""
    message = cluster()
    present(outlier.read(reader("outlierDetection: {minHealthPercent: 30}"))).patch_cluster(message)

    assert message.common_lb_config.healthy_panic_threshold.value == 30


def test_consecutive_errors() -> None:
    """A count that is reached ejects always."""
    found = ejecting("{consecutive5xxErrors: 7, consecutiveGatewayErrors: 3}")

    assert (found.consecutive_5xx.value, found.enforcing_consecutive_5xx.value) == (7, 100)
    assert (found.consecutive_gateway_failure.value, found.enforcing_consecutive_gateway_failure.value) == (
        3,
        100,
    )


def test_count_of_0_disables() -> None:
    """0 is never, not after every request."""
    assert ejecting("{consecutive5xxErrors: 0}").enforcing_consecutive_5xx.value == 0


def test_deprecated_consecutive_errors() -> None:
    """Istio's older field counts gateway errors only, and the user is told."""
    found = ejecting("{consecutiveErrors: 4}")

    assert (found.consecutive_gateway_failure.value, found.enforcing_consecutive_5xx.value) == (4, 0)
    assert "is deprecated" in notes(outlier.read, "outlierDetection: {consecutiveErrors: 4}")[0]


def test_local_errors_apart() -> None:
    """Failures to connect can be counted apart from answers."""
    found = ejecting("{splitExternalLocalOriginErrors: true, consecutiveLocalOriginFailures: 2}")

    assert (found.split_external_local_origin_errors, found.consecutive_local_origin_failure.value) == (
        True,
        2,
    )


def test_times_and_share() -> None:
    """How often endpoints are looked at, how long they are out, and how many may be."""
    found = ejecting("{interval: 1s, baseEjectionTime: 15m, maxEjectionPercent: 100}")

    assert (found.interval.seconds, found.base_ejection_time.seconds, found.max_ejection_percent.value) == (
        1,
        900,
        100,
    )


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("{consecutive5xxErrors: -1}", "x.outlierDetection.consecutive5xxErrors: must be 0.."),
        ("{interval: 0s}", "x.outlierDetection.interval: must be at least 1ms"),
        ("{baseEjectionTime: 30}", "x.outlierDetection.baseEjectionTime: must be a duration"),
        ("{maxEjectionPercent: 101}", "x.outlierDetection.maxEjectionPercent: must be 0..100"),
        ("{minHealthPercent: -1}", "x.outlierDetection.minHealthPercent: must be 0..100"),
        (
            "{consecutiveLocalOriginFailures: 1}",
            "x.outlierDetection.consecutiveLocalOriginFailures: needs split",
        ),
        (
            "{consecutive5xxError: 1}",
            "x.outlierDetection.consecutive5xxError: unknown field; did you mean consecutive5xx",
        ),
    ],
)
def test_refused_detection(text: str, start: str) -> None:
    """Counts below zero, shares above 100 and misspelt fields are refused."""
    assert refusal(outlier.read, f"outlierDetection: {text}").startswith(start)
