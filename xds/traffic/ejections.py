"""Whom sidecars have ejected: endpoints that failed so often that a client's sidecar sends nothing there for a while.

It owns what the pushed gauges of endpoints mean; it must never call an endpoint ejected for any other reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from xds.traffic import otlp
from xds.traffic.otlp import Point

MAX_EJECTED: Final = 1_000
"""Ejected endpoints kept of one sidecar; about 200 B each. It has more only if a whole service is down."""

_CLUSTER: Final = "envoy.cluster_name"
_ENDPOINT: Final = "envoy.endpoint_address"
"""Envoy's tags of the gauges of a cluster, and of one of its endpoints."""


@dataclass(frozen=True, slots=True, order=True)
class Ejected:
    """An endpoint that one sidecar sends nothing to; ``cluster`` is the name under which that sidecar counts."""

    cluster: str
    address: str
    """``IP:PORT``."""
    since_s: float
    """When it was first reported (epoch)."""


def ejected(
    gauges: Iterable[tuple[Point, list[bytes]]], before: Mapping[tuple[str, str], Ejected], now_s: float
) -> dict[tuple[str, str], Ejected]:
    """Return what a sidecar's latest gauges say, those that it has said ``before`` with their time.

    The gauges are of endpoints without health, which may be draining, and of clusters that eject somebody.
    """
    sick: set[tuple[str, str]] = set()
    ejecting: set[str] = set()
    for point, pairs in gauges:
        labels = otlp.read_labels(pairs)
        cluster = labels.get(_CLUSTER, "")
        if point.metric == otlp.EJECTIONS:
            ejecting.add(cluster)
        elif len(sick) < MAX_EJECTED:
            sick.add((cluster, labels.get(_ENDPOINT, "")))
    return {key: before.get(key) or Ejected(*key, now_s) for key in sick if key[0] in ejecting and all(key)}
