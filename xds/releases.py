"""Which Envoys are served, and what each lacks of what today's has.

It owns the releases at which something began, and the words for what is missing before; docs/envoys.md shows the same
table. It must never say how a resource is changed for one of them (`xds.resources.older`).
"""

from __future__ import annotations

from typing import Final

Release = tuple[int, int]
"""Major and minor number."""

ROUTE_FILTERS: Final[Release] = (1, 40)
"""From here on a route can bring every filter that a port needs. 1.39 has the filter that takes them, but no token and
no shared limit can be brought; before, there is none. So the listener holds them (docs/adr/0036)."""

SCOPED_STATS: Final[Release] = (1, 39)
"""From here on the stats logger takes ``stats_scope``, which caps series; before, ``stat_prefix`` is required."""

ON_DEMAND: Final[Release] = (1, 38)
"""From here on a stream that waited for its cluster looks for its route again (docs/adr/0027)."""

EACH_LINE: Final[Release] = (1, 38)
"""From here on a rule sees each line of a repeated header. Before, only the lines joined with commas."""

STATS_LOGGER: Final[Release] = (1, 37)
"""From here on there is a stats logger. Before, a listener that names its type is refused as a whole, so it goes:
what remains are the counters of clusters (docs/metrics.md)."""

HANDSHAKES: Final[Release] = (1, 37)
"""From here on a proxy of bytes can wait for the client's certificate before it connects to the application. Before,
the application sees a connection, and no byte, of a peer that is refused afterwards."""

FORMATTED_TAGS: Final[Release] = (1, 37)
"""From here on a tag of a span can be a format. Before, such a tag is left out."""

CLOSED_ADMIN: Final[Release] = (1, 37)
"""From here on the admin endpoint takes a list of paths. Before, who reaches it can ask Envoy to quit."""

TODAY: Final = ROUTE_FILTERS
"""What the pages of docs/ are about."""

OLDEST: Final[Release] = (1, 36)
"""The oldest that the tests run; an older one gets the same."""

LACKS: Final[tuple[tuple[Release, str], ...]] = (
    (ROUTE_FILTERS, "open connections are refused once when tokens or CUSTOM providers change"),
    (SCOPED_STATS, "`maxSeries` does not cap metrics"),
    (ON_DEMAND, "an intercepted sidecar holds every Service that it sees"),
    (EACH_LINE, "a header with a list that a rule names may be denied"),
    (STATS_LOGGER, "no counters of requests: nothing of it in `proa stat`, `edges`, `top`, `graph`"),
    (FORMATTED_TAGS, "tags of spans that are formats are left out"),
    (HANDSHAKES, "behind a TCP port the application sees connections of peers that are refused"),
    (CLOSED_ADMIN, "whoever reaches the Pod's loopback address can ask Envoy to quit"),
)
"""What an Envoy before a release lacks, newest first."""


def release(version: str) -> Release | None:
    """Return the release of a node's ``1.39.3`` if it needs another form, None for today's or what is no version."""
    major, _, rest = version.partition(".")
    minor = rest.partition(".")[0]
    if not (major.isdecimal() and minor.isdecimal() and len(version) < 32):
        return None
    found = int(major), int(minor)
    # Clients that are no Envoy say nothing, which arrives as 0.0: they get what is true today.
    return found if (0, 0) < found < TODAY else None


def takes_filters(version: str) -> bool:
    """Tell whether a node's version takes the filters of its ports from routes."""
    return release(version) is None


def can_ask(version: str) -> bool:
    """Tell whether a node's version asks for clusters on demand as our listeners need it."""
    found = release(version)
    return found is None or found >= ON_DEMAND


def lacks(version: str) -> tuple[str, ...]:
    """Return what a node's version lacks of what today's Envoy has, newest first; nothing for what is no version."""
    found = release(version)
    return () if found is None else tuple(words for begun, words in LACKS if found < begun)
