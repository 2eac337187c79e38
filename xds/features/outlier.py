"""Outlier detection: an endpoint that keeps failing gets no traffic for a while.

It owns Istio's OutlierDetection; it must never eject for a low success rate, which Istio does not either.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from xds.fields import Reader
    from xds.pb.envoy.config.cluster.v3 import cluster_pb2

SUPPORT: Final = (
    (
        "trafficPolicy.outlierDetection.consecutive5xxErrors",
        "outlier_detection.consecutive_5xx",
        "default 5; 0 disables",
    ),
    (
        "trafficPolicy.outlierDetection.consecutiveGatewayErrors",
        "consecutive_gateway_failure",
        "502, 503, 504; default: off",
    ),
    (
        "trafficPolicy.outlierDetection.consecutiveErrors",
        "consecutive_gateway_failure",
        "deprecated; 5xx are then not counted",
    ),
    (
        "trafficPolicy.outlierDetection.splitExternalLocalOriginErrors, consecutiveLocalOriginFailures",
        "split_external_local_origin_errors, consecutive_local_origin_failure",
        "",
    ),
    ("trafficPolicy.outlierDetection.interval", "outlier_detection.interval", "at least 1ms; default 10s"),
    ("trafficPolicy.outlierDetection.baseEjectionTime", "base_ejection_time", "at least 1ms; default 30s"),
    (
        "trafficPolicy.outlierDetection.maxEjectionPercent",
        "max_ejection_percent",
        "0..100; 0 and default: 10",
    ),
    (
        "trafficPolicy.outlierDetection.minHealthPercent",
        "healthy_panic_threshold",
        "0..100; default 0: never panic",
    ),
    ("trafficPolicy.outlierDetection.outlierDetectionHttpErrorCodes", "", "left out: 5xx are counted"),
)
"""Field, where it ends in Envoy, remark: the rows of docs/features.md."""

_MOST: Final = 2**32 - 1
"""Counts are uint32 in both APIs."""

_ALWAYS: Final = 100
"""Percent of the cases in which a count that is reached ejects."""


@dataclass(frozen=True, slots=True)
class OutlierDetection:
    """Counts that eject an endpoint (None: Envoy's default, 0: never) and for how long; 0 ms and 0 %: the default.

    Defaults are Envoy's, which are Istio's: 5 answers of 5xx in a row, looked at every 10 s,
    30 s out (longer each time), at most 10 % of the endpoints.
    """

    consecutive_5xx: int | None = None
    consecutive_gateway: int | None = None
    consecutive_local: int | None = None
    splits_local_errors: bool = False
    interval_ms: float = 0
    base_ejection_ms: float = 0
    max_ejection_percent: int = 0
    min_health_percent: int = 0

    def patch_cluster(self, cluster: cluster_pb2.Cluster) -> None:
        """Write the detection into the cluster."""
        # The gauge `healthy` of each endpoint, from which the control plane knows whom a sidecar has ejected.
        cluster.track_cluster_stats.per_endpoint_stats = True
        out = cluster.outlier_detection
        out.enforcing_success_rate.value = 0
        if self.consecutive_5xx is not None:
            out.consecutive_5xx.value = self.consecutive_5xx or 1  # Envoy has no 0, but does not enforce it
            out.enforcing_consecutive_5xx.value = _ALWAYS if self.consecutive_5xx else 0
        if self.consecutive_gateway is not None:
            out.consecutive_gateway_failure.value = self.consecutive_gateway or 1
            out.enforcing_consecutive_gateway_failure.value = _ALWAYS if self.consecutive_gateway else 0
        if self.splits_local_errors:
            out.split_external_local_origin_errors = True
            out.enforcing_local_origin_success_rate.value = 0
            if self.consecutive_local:
                out.consecutive_local_origin_failure.value = self.consecutive_local
                out.enforcing_consecutive_local_origin_failure.value = _ALWAYS
        if self.interval_ms:
            out.interval.FromMicroseconds(round(self.interval_ms * 1000))
        if self.base_ejection_ms:
            out.base_ejection_time.FromMicroseconds(round(self.base_ejection_ms * 1000))
        if self.max_ejection_percent:
            out.max_ejection_percent.value = self.max_ejection_percent
        # Envoy's 50 % would send to ejected endpoints again as soon as one of two is out.
        cluster.common_lb_config.healthy_panic_threshold.value = self.min_health_percent


def read(parent: Reader) -> OutlierDetection | None:
    """Return the outlier detection of a traffic policy, None where there is none."""
    reader = parent.object("outlierDetection")
    if reader is None:
        return None
    reader.leave("outlierDetectionHttpErrorCodes", "5xx are counted, and nothing else")
    consecutive_5xx = _count(reader, "consecutive5xxErrors")
    gateway = _count(reader, "consecutiveGatewayErrors")
    old = _count(reader, "consecutiveErrors")
    if old:
        reader.warn(
            "consecutiveErrors", "is deprecated; use consecutiveGatewayErrors or consecutive5xxErrors"
        )
        # The meaning that it had last: gateway errors only, and not Envoy's 5xx besides (istio/api#617).
        gateway = old if gateway is None else gateway
        consecutive_5xx = 0 if consecutive_5xx is None else consecutive_5xx
    detection = OutlierDetection(
        consecutive_5xx=consecutive_5xx,
        consecutive_gateway=gateway,
        consecutive_local=_count(reader, "consecutiveLocalOriginFailures"),
        splits_local_errors=reader.boolean("splitExternalLocalOriginErrors"),
        interval_ms=reader.duration_ms("interval", low_ms=1) or 0,
        base_ejection_ms=reader.duration_ms("baseEjectionTime", low_ms=1) or 0,
        max_ejection_percent=reader.integer("maxEjectionPercent", 0, low=0, high=100),
        min_health_percent=reader.integer("minHealthPercent", 0, low=0, high=100),
    )
    reader.done()
    if detection.consecutive_local and not detection.splits_local_errors:
        raise reader.fail("consecutiveLocalOriginFailures", "needs splitExternalLocalOriginErrors: true")
    return detection


def _count(reader: Reader, name: str) -> int | None:
    return reader.integer(name, low=0, high=_MOST) if reader.has(name) else _absent(reader, name)


def _absent(reader: Reader, name: str) -> None:
    reader.raw(name)
