"""Faults that end by themselves: which of them are in force for a Service at the moment that the index was last told.

It owns that moment and the index; it must never ask a clock.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Final

from xds.api.fault import Fault
from xds.hosts import Name, age
from xds.topics import Topic


class Faults:
    """All Faults, by namespace, and the time."""

    KIND: Final = "Fault"

    def __init__(self) -> None:
        self._in: defaultdict[str, dict[str, Fault]] = defaultdict(dict)
        self._now = 0.0

    def get(self, name: Name) -> Fault | None:
        """Return one Fault, in force or not."""
        return self._in.get(name[0], {}).get(name[1])

    def is_over(self, found: Fault) -> bool:
        """Tell whether a Fault has ended."""
        return found.expires_at <= self._now

    def of(self, service: Name) -> list[Fault]:
        """Return the Faults in force for a Service, the one that holds first: the oldest."""
        found = self._in.get(service[0], {}).values()
        return sorted((one for one in found if one.service == service[1] and not self.is_over(one)), key=age)

    def take(self, name: Name, old: object, new: object) -> set[Topic]:
        """Take one change of a Fault; return the topics it touches."""
        if isinstance(new, Fault):
            self._in[name[0]][name[1]] = new
        else:
            self._in[name[0]].pop(name[1], None)
            if not self._in[name[0]]:
                del self._in[name[0]]
        both = [found for found in (old, new) if isinstance(found, Fault)]
        return {("fault", *name), *(("faults", name[0], found.service) for found in both)}

    def tick(self, now: float) -> list[Fault]:
        """Take the time, in seconds since the epoch; return what has ended since it was last told."""
        before, self._now = self._now, max(now, self._now)
        if not self._in:
            return []
        every = (found for namespace in self._in.values() for found in namespace.values())
        return sorted((found for found in every if before < found.expires_at <= self._now), key=age)


def topics_of(found: Fault) -> set[Topic]:
    """Return the topics that the end of a Fault touches."""
    namespace = found.meta.namespace
    return {("fault", namespace, found.meta.name), ("faults", namespace, found.service)}
