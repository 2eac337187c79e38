"""How often one call can arrive in the end: retries of sidecars and of applications, multiplied along the call graph.

It owns the chains, their factors, who multiplies and what mends it; it must never count a call that was made once as a
repeat: only what follows a failure is one.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from xds.traffic.edges import UNKNOWN
from xds.traffic.graph import Graph, Link
from xds.traffic.sightings import Sighting

DEPTH_MAX: Final = 10
"""Hops of a chain that are followed."""

CHAINS_MAX: Final = 2_000
"""Chains looked at: a dense graph has more ways than anybody reads."""

FAILED_FROM: Final = 500
"""A server's failure; 0 is no answer at all."""


@dataclass(frozen=True, slots=True)
class Rule:
    """How often a workload's sidecar sends a call to a service at most, and what says so."""

    source: str
    service: str
    attempts: int
    name: str
    conditions: str


@dataclass(frozen=True, slots=True)
class Rules:
    """``GET /api/v1/retries``: of each edge on which a sidecar may repeat what an application has seen."""

    rules: tuple[Rule, ...]


class Copying(Enum):
    """Whether an application copies ``baggage`` from the calls that it gets to those that it makes for them."""

    COPIES = "copies"
    DROPS = "drops"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Party:
    """Who multiplies a chain, and by how much."""

    kind: str
    """``application`` or ``mesh``."""
    where: str
    factor: int
    why: str


@dataclass(frozen=True, slots=True)
class Chain:
    """One way of calls; ``factor`` is how often its last workload may see what its first one asks for once.

    ``owned`` is the same if every application on the way copies ``baggage``.
    """

    workloads: tuple[str, ...]
    factor: int
    owned: int
    parties: tuple[Party, ...]
    drops: tuple[str, ...]
    unknown: tuple[str, ...]
    mends: tuple[str, ...]


@dataclass(slots=True)
class Habits:
    """What sampled requests tell of applications."""

    tries: dict[tuple[str, str], int] = field(default_factory=dict[tuple[str, str], int])
    """By caller and service: how often one call is made again by the application, the first time included."""
    copying: dict[str, Counter[Copying]] = field(default_factory=dict[str, Counter[Copying]])

    def copies(self, workload: str) -> Copying:
        """Return what a workload does: one call without the mark is one that its sidecar multiplies."""
        found = self.copying.get(workload, Counter[Copying]())
        if found[Copying.DROPS]:
            return Copying.DROPS
        return Copying.COPIES if found[Copying.COPIES] else Copying.UNKNOWN


def habits(sightings: Iterable[Sighting]) -> Habits:
    """Return what applications do, as far as the ids of requests show it."""
    arrived: defaultdict[tuple[str, str], list[Sighting]] = defaultdict(list)
    made: defaultdict[tuple[str, str, str], list[Sighting]] = defaultdict(list)
    for seen in sightings:
        if not seen.request_id:
            continue
        if seen.reporter == "source":
            made[seen.request_id, seen.source, seen.service].append(seen)
        else:
            arrived[seen.request_id, seen.destination].append(seen)
    found = Habits()
    for (request, source, service), calls in made.items():
        asked = arrived.get((request, source), [])
        tries = math.ceil(_repeats(calls) / max(1, len(asked)))
        key = source, service
        found.tries[key] = max(tries, found.tries.get(key, 1))
        if any(seen.arrived for seen in asked):
            counts = found.copying.setdefault(source, Counter())
            counts.update(Copying.COPIES if call.arrived else Copying.DROPS for call in calls)
    return found


def chains(graph: Graph, rules: Iterable[Rule], found: Habits, *, above: int) -> list[Chain]:
    """Return the chains whose factor is above a bound, the worst first."""
    by_edge = {(rule.source, rule.service): rule for rule in rules}
    out: dict[tuple[str, ...], Chain] = {}
    for path in _paths(graph):
        chain = _chain(path, by_edge, found)
        known = out.get(chain.workloads)
        if chain.factor > above and (known is None or known.factor < chain.factor):
            out[chain.workloads] = chain
    return sorted(out.values(), key=lambda chain: (-chain.factor, chain.workloads))


def _repeats(calls: list[Sighting]) -> int:
    """Return how often one call was made: what follows a failure repeats it, anything else is another call."""
    ordered = sorted(calls, key=lambda call: call.started)
    return 1 + sum(call.code >= FAILED_FROM or call.code == 0 for call in ordered[:-1])


def _paths(graph: Graph) -> Iterator[list[Link]]:
    """Yield the ways from those whom nobody calls, or from anybody where all are called, as far as they go."""
    calls: defaultdict[str, list[Link]] = defaultdict(list)
    for link in graph.edges:
        if link.protocol != "tcp" and link.source not in {UNKNOWN, link.destination}:
            calls[link.source].append(link)
    called = {link.destination for links in calls.values() for link in links}
    heads = [name for name in calls if name not in called] or list(calls)
    waiting: list[list[Link]] = [[link] for head in reversed(heads) for link in reversed(calls[head])]
    for _ in range(CHAINS_MAX):
        if not waiting:
            return
        path = waiting.pop()
        seen = {path[0].source, *(link.destination for link in path)}
        onward = [link for link in calls.get(path[-1].destination, ()) if link.destination not in seen]
        if onward and len(path) < DEPTH_MAX:
            waiting.extend([*path, link] for link in reversed(onward))
        else:
            yield path


def _chain(path: list[Link], rules: Mapping[tuple[str, str], Rule], found: Habits) -> Chain:
    parties: list[Party] = []
    factor = owned = 1
    has_owner = has_owner_if_copied = False
    drops: list[str] = []
    unknown: list[str] = []
    for link in path:
        key = link.source, link.service
        tries = found.tries.get(key, 1)
        if tries > 1:
            parties.append(
                Party("application", link.source, tries, f"repeats failed calls to {link.service}")
            )
        factor, owned = factor * tries, owned * tries
        rule = rules.get(key)
        copying = found.copies(link.source)
        if has_owner and copying is not Copying.COPIES:
            (drops if copying is Copying.DROPS else unknown).append(link.source)
            has_owner = False
        if rule is None:
            continue
        if not has_owner:
            where = f"{link.source} → {link.destination}"
            parties.append(Party("mesh", where, rule.attempts, f"{rule.name}: {rule.conditions}"))
            factor, has_owner = factor * rule.attempts, True
        if not has_owner_if_copied:
            owned, has_owner_if_copied = owned * rule.attempts, True
    workloads = (path[0].source, *(link.destination for link in path))
    mends = tuple(_mends(factor, owned, drops, unknown, parties))
    return Chain(workloads, factor, owned, tuple(parties), tuple(drops), tuple(unknown), mends)


def _mends(
    factor: int, owned: int, drops: list[str], unknown: list[str], parties: list[Party]
) -> Iterator[str]:
    """Yield the changes that help, the one that helps most of all chains first."""
    if drops:
        who = ", ".join(drops)
        yield f"let {who} copy every line of baggage to the calls that it makes"
    if unknown:
        who = ", ".join(unknown)
        yield f"look whether {who} copies baggage: set evidence.sampling in the mesh settings, and let it be called"
    if factor > owned:
        later = [party for party in parties if party.kind == "mesh"][1:]
        rules = ", ".join(dict.fromkeys(party.why.partition(":")[0] for party in later))
        yield f"or set retries.attempts to 0 in {rules}: {factor} → {owned}"
    for party in parties:
        if party.kind == "application":
            rest = owned // party.factor
            yield f"let {party.where} leave repeating to its sidecar ({party.factor} tries): {owned} → {rest}"
