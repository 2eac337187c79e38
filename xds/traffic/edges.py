"""Who calls whom, as values: one edge, what it carries, and the percentiles of its durations.

It owns the documents that the admin API and the command line share; it must never read an export, and never a clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

UNKNOWN: Final = "unknown"
"""Istio's word for a label whose value nobody knows."""

Numbers = tuple[float, ...]


@dataclass(frozen=True, slots=True, order=True)
class Edge:
    """One caller, one destination, as one side sees them; workloads are ``name.namespace``."""

    source: str
    service: str
    destination: str
    reporter: str
    protocol: str
    security: str


@dataclass(frozen=True, slots=True)
class Traffic:
    """What an edge carried since it was first seen, and how it went within the window that was asked for.

    Percentiles are milliseconds, interpolated inside Envoy's buckets; None where nothing was measured. ``bounds`` and
    ``buckets`` are those of the window, so that several edges, or several replicas, can be added up.
    """

    edge: Edge
    requests: int
    errors: int
    connections: int
    sent_bytes: int
    received_bytes: int
    requests_per_s: float
    errors_per_s: float
    p50_ms: float | None
    p90_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    source_identity: str = ""
    destination_identity: str = ""
    bounds: Numbers = ()
    buckets: Numbers = ()


@dataclass(frozen=True, slots=True, order=True)
class Port:
    """One listener of a node: connections taken, how many of them became TLS, and how many are open now."""

    node: str
    listener: str
    connections: int
    tls: int
    active: int = 0
    workload: str = ""
    """Whose node it is, ``NAME.NAMESPACE``."""


def percentile(bounds: Numbers, buckets: Numbers, share: float) -> float | None:
    """Return the value below which ``share`` of the observations lie, as Prometheus' ``histogram_quantile``.

    ``buckets`` holds one count for each bound and one for what is above the last, which answers that bound.
    """
    wanted = share * sum(buckets)
    if wanted <= 0:
        return None
    low = below = 0.0
    for bound, count in zip(bounds, buckets, strict=False):
        if count and below + count >= wanted:
            return low + (bound - low) * (wanted - below) / count
        low, below = bound, below + count
    return low
