"""The RateLimits of each namespace: which of them are for a Pod or a Service, the most specific first.

It owns their index; it must never know which limit is in force.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Final

from xds.api.rate_limit import RateLimit
from xds.hosts import Name, age
from xds.topics import Topic


class Ceilings:
    """All RateLimits, by namespace."""

    KIND: Final = "RateLimit"

    def __init__(self) -> None:
        self._in: defaultdict[str, dict[str, RateLimit]] = defaultdict(dict)

    def get(self, name: Name) -> RateLimit | None:
        """Return one RateLimit."""
        return self._in.get(name[0], {}).get(name[1])

    def of(self, namespace: str) -> list[RateLimit]:
        """Return the RateLimits of a namespace, oldest first."""
        return sorted(self._in.get(namespace, {}).values(), key=age)

    def take(self, name: Name, old: object, new: object) -> set[Topic]:
        """Take one change of a RateLimit; return the topics it touches."""
        del old
        if isinstance(new, RateLimit):
            self._in[name[0]][name[1]] = new
        else:
            self._in[name[0]].pop(name[1], None)
            if not self._in[name[0]]:
                del self._in[name[0]]
        return {("limit", *name), ("limits", name[0])}
