"""Sampled requests by who called whom how: method and route, with the best, the worst and the last duration.

It owns which of both ends' sightings count and what success is; it must never tell more of a request than its sighting
holds: a route stands for the paths that it takes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from xds.traffic.graph import SOURCE
from xds.traffic.sightings import Sighting

_Key = tuple[str, str, str, str]


@dataclass(frozen=True, slots=True)
class Calls:
    """Requests of one kind; ``success`` is the share of those that were no failure, 0..1."""

    source: str
    destination: str
    method: str
    route: str
    count: int
    best_ms: float
    worst_ms: float
    last_ms: float
    success: float


def calls(found: Iterable[Sighting]) -> list[Calls]:
    """Return the kinds of requests among sightings in the order in which they came, the most frequent kind first.

    Where both ends have seen requests of one workload to another, the caller's word counts: it knows the route.
    """
    groups: defaultdict[_Key, list[Sighting]] = defaultdict(list)
    told: set[tuple[str, str]] = set()
    for one in found:
        destination = one.destination or one.service
        if one.reporter == SOURCE:
            told.add((one.source, destination))
        groups[one.source, destination, one.method, f"{one.reporter} {one.route}"].append(one)
    out: list[Calls] = []
    for (source, destination, method, _), group in groups.items():
        if group[0].reporter == SOURCE or (source, destination) not in told:
            times = [one.duration_ms for one in group]
            well = sum(not _is_failure(one) for one in group) / len(group)
            route = group[0].route
            out.append(
                Calls(source, destination, method, route, len(group), min(times), max(times), times[-1], well)
            )
    return sorted(out, key=lambda one: (-one.count, one.source, one.destination, one.method, one.route))


def _is_failure(one: Sighting) -> bool:
    """Tell whether the server or the way to it failed; a caller that hung up (DC) is no failure of theirs."""
    return one.code >= 500 or (one.code == 0 and "DC" not in one.flags.split(","))
