"""Sums of an edge over the last minute: what several sidecars pushed, by slots of time that age out.

It owns the slots and the time that they cover; it must never know whose traffic it is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from operator import add
from typing import Final

from xds.traffic.edges import Numbers

WINDOW_S: Final = 60.0
"""The longest time that a rate is taken over, and the one that is taken unless somebody asks for less."""

SLOT_S: Final = 10.0
"""How finely the window is cut: two pushes of a sidecar."""

_KEPT: Final = int(WINDOW_S // SLOT_S) + 1
"""Most sums of an edge: a window may begin within a slot."""


@dataclass(slots=True)
class Counts:
    """Sums of an edge; ``buckets`` are requests per duration bucket, one more than ``bounds``."""

    requests: float = 0
    errors: float = 0
    connections: float = 0
    sent_bytes: float = 0
    received_bytes: float = 0
    bounds: Numbers = ()
    buckets: Numbers = ()

    def add(self, other: Counts, share: float = 1) -> None:
        """Add what another one counted, or a share of it."""
        self.requests += other.requests * share
        self.errors += other.errors * share
        self.connections += other.connections * share
        self.sent_bytes += other.sent_bytes * share
        self.received_bytes += other.received_bytes * share
        if other.buckets:
            found = other.buckets if share == 1 else tuple(count * share for count in other.buckets)
            self.observe(other.bounds, found)

    def observe(self, bounds: Numbers, buckets: Numbers) -> None:
        """Add durations; another Envoy version may bring other buckets, and then the newest ones count."""
        if self.bounds == bounds:
            buckets = tuple(map(add, self.buckets, buckets))
        self.bounds, self.buckets = bounds, buckets


@dataclass(slots=True)
class Window:
    """What was counted lately. A first push, of which nobody knows when it began, is none of it."""

    since_s: float | None = None
    """From when on it is known what was counted."""
    _slots: dict[int, Counts] = field(default_factory=dict[int, Counts])

    def take(self, counts: Counts, *, now_s: float, interval_s: float) -> None:
        """Add what was counted in the interval that ends now; 0: nobody knows how long it was.

        Pushes of several sidecars end at any time: each slot gets its share, as if requests had come evenly.
        """
        if self.since_s is None:
            self.since_s = now_s - interval_s
        if interval_s <= 0:
            return
        last = _slot(now_s)
        begin_s = max(now_s - interval_s, (last - _KEPT + 1) * SLOT_S)
        for number in range(_slot(begin_s), last + 1):
            part_s = min(now_s, (number + 1) * SLOT_S) - max(begin_s, number * SLOT_S)
            if part_s > 0:
                self._slots.setdefault(number, Counts()).add(counts, share=part_s / interval_s)
        for number in [number for number in self._slots if number <= last - _KEPT]:
            del self._slots[number]

    def of(self, seconds: float, *, until_s: float, now_s: float) -> tuple[Counts, float]:
        """Return the sums of so many last seconds, or a slot more, and the time that they cover.

        It ends with the last push (``until_s``), since nobody knows yet what came after it.
        """
        first = _slot(now_s - seconds)
        found = Counts()
        for number, counts in self._slots.items():
            if number >= first:
                found.add(counts)
        begin_s = max(first * SLOT_S, self.since_s or 0.0)
        return found, max(until_s - begin_s, 1.0)


def _slot(at_s: float) -> int:
    return int(at_s // SLOT_S)
