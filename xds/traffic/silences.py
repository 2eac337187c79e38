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

ASKED: Final = {
    otlp.LIMITER_ERRORS: "rate limit service",
    otlp.AUTHORIZER_ERRORS: "external authorization service",
    otlp.KEY_ERRORS: "server of keys (JWKS)",
    otlp.OLDER_KEY_ERRORS: "server of keys (JWKS)",  # of Envoys before 1.40
    otlp.PROVIDER_ERRORS: "extension provider",  # such as a collector of spans; it is pushed of no other cluster
}
"""What each counter is about."""


@dataclass(frozen=True, slots=True)
class Silence:
    """How often one sidecar got no answer from services of a kind, since its start, and when last.

    The time is epoch; 0 is long ago.
    """

    times: int
    last_s: float = 0


def silences(
    points: Iterable[Point], before: Mapping[str, Silence], now_s: float, *, is_first: bool
) -> dict[str, Silence]:
    """Return what a sidecar's counters say, by metric; of its first push nobody knows when that was."""
    sums: Counter[str] = Counter()
    for point in points:
        sums[point.metric] += int(point.values[0])
    found: dict[str, Silence] = {}
    for metric, times in sums.items():
        last = before.get(metric, Silence(0))
        # A smaller number is a sidecar that has started again.
        is_more = times != last.times and times > 0 and not is_first
        found[metric] = Silence(times, now_s if is_more else last.last_s)
    return found
