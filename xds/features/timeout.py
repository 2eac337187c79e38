"""The time that a request may take, retries included.

It owns Istio's ``http[].timeout``; it must never set the timeout of one attempt, retries do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from xds.fields import Reader
    from xds.pb.envoy.config.route.v3 import route_components_pb2

SUPPORT: Final = (
    (
        "http[].timeout",
        "route.timeout, max_grpc_timeout",
        "at least 1ms; default and 0s: none",
    ),
)
"""Field, where it ends in Envoy, remark: the rows of docs/features.md."""


@dataclass(frozen=True, slots=True)
class Timeout:
    """Milliseconds until the whole request fails; 0: never."""

    timeout_ms: float

    def patch_route(self, route: route_components_pb2.Route) -> None:
        """Write the timeout, which also caps the one that a gRPC client asks for.

        The older field, as Istio does (pilot route.go): with max_stream_duration.grpc_timeout_header_max in its
        place Envoy ignores route.timeout, and a slow answer is never cut.
        """
        microseconds = round(self.timeout_ms * 1000)
        route.route.timeout.FromMicroseconds(microseconds)
        route.route.max_grpc_timeout.FromMicroseconds(microseconds)


NONE: Final = Timeout(0)
"""Istio's default. Said aloud, because silence means 15 s to Envoy. A gRPC client's own timeout holds uncapped."""


def read(parent: Reader) -> Timeout | None:
    """Return the timeout of a rule, None where there is none."""
    timeout_ms = parent.duration_ms("timeout")
    if timeout_ms is None:
        return None
    # Istio refuses 0s today, but took it for long as "no timeout", which is what it means to Envoy.
    if 0 < timeout_ms < 1:
        raise parent.fail("timeout", f"must be 0s (none) or at least 1ms, got {parent.raw('timeout')}")
    return Timeout(timeout_ms)
