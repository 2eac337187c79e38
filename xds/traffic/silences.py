"""Services that sidecars ask about requests, or tell of them, and that do not answer: limits, access, keys, collectors.

It owns what the pushed counters of failures mean; it must never decide what becomes of the requests meanwhile.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from xds.traffic import otlp
from xds.traffic.otlp import Point

RECENT_S: Final = 60.0
"""How long a failure is told: a sidecar asks only when there are requests, and for keys with growing pauses."""

KINDS: Final = {
    otlp.LIMITER_ERRORS: "rate limit service",
    otlp.AUTHORIZER_ERRORS: "external authorization service",
    otlp.KEY_ERRORS: "server of keys (JWKS)",
}
"""What the counters are about that do not say whom they mean."""

_SAME: Final = {otlp.OLDER_KEY_ERRORS: otlp.KEY_ERRORS}
"""How Envoys before 1.40 call a counter."""

MAX_CLUSTERS: Final = 64
"""Most services of one sidecar that are told apart; a mesh has a handful of providers."""

Heard = tuple[str, str]
"""A counter, and the stat name of the cluster that it is about: empty where it is of all ports together."""


@dataclass(frozen=True, slots=True)
class Silence:
    """How often one sidecar got no answer from services of a kind, since its start, and when last.

    The time is epoch; 0 is long ago.
    """

    times: int
    last_s: float = 0


def silences(
    points: Iterable[tuple[Point, list[bytes]]],
    before: Mapping[Heard, Silence],
    now_s: float,
    *,
    is_first: bool,
) -> dict[Heard, Silence]:
    """Return what a sidecar's counters say; of its first push nobody knows when that was."""
    sums: Counter[Heard] = Counter()
    for point, pairs in points:
        metric = _SAME.get(point.metric, point.metric)
        heard = (metric, _cluster(pairs) if metric == otlp.PROVIDER_ERRORS else "")
        if heard in sums or len(sums) < MAX_CLUSTERS:
            sums[heard] += int(point.values[0])
    found: dict[Heard, Silence] = {}
    for heard, times in sums.items():
        last = before.get(heard, Silence(0))
        # A smaller number is a sidecar that has started again.
        is_more = times != last.times and times > 0 and not is_first
        found[heard] = Silence(times, now_s if is_more else last.last_s)
    return found


def _cluster(pairs: list[bytes]) -> str:
    return otlp.read_labels(pairs).get("envoy.cluster_name", "")
