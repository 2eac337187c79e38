"""What one stream sees: its view of the snapshot, and behind it only what its identity may have.

It owns the way from a name to a resource, on which authorization comes before any lookup; it must never know what
the client holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from xds.held import Items, Lookup
from xds.rations import Rations, endpoints_of
from xds.snapshot import NAMED, Resource, ResourceType, Snapshot, View, scope
from xds.subscription import Subscription

Rule = Callable[[str], bool]
"""Tells which names an identity may have."""

RuleOf = Callable[[ResourceType], Rule]
"""Finds the rule of a type for the identity of one stream, which never changes."""


class Sight:
    """One stream's way to resources."""

    def __init__(self, snapshot: Snapshot, rule_of: RuleOf, names_on_demand: int) -> None:
        self.view: View = ()
        self._rule_of = rule_of
        self._rules: dict[ResourceType, Rule] = {}
        self._snapshot = snapshot
        self._names_on_demand = names_on_demand
        self._scopes: dict[ResourceType, View] = {}
        self._rations: Rations | None = None

    def attach(self, view: View) -> None:
        """Look through another view from here on."""
        self.view = view
        self._scopes = {kind: scope(view, kind) for kind in ResourceType}
        if NAMED in view and self._rations is None:
            self._rations = Rations(self._names_on_demand)

    @property
    def is_on_demand(self) -> bool:
        """Whether this client names the clusters that it needs, instead of getting all."""
        return self._rations is not None

    def rations(self, kind: ResourceType | None) -> Rations | None:
        """Return the client's share of names on demand, for the one type that has such."""
        return self._rations if kind is ResourceType.CLUSTER else None

    def names(self, kind: ResourceType) -> Iterator[str]:
        """Yield every name of a type that a wildcard covers."""
        return self._snapshot.names(self.view, kind)

    def rule(self, kind: ResourceType) -> Rule:
        """Return which names of a type this identity may have."""
        rule = self._rules.get(kind)
        if rule is None:
            rule = self._rules[kind] = self._rule_of(kind)
        return rule

    def lookup(self, sub: Subscription) -> Lookup:
        """Return the only way to a resource, good until the snapshot changes: authorization comes before any lookup."""
        kind = sub.type
        if kind is None:
            return _nothing
        permits, rations = self.permits(sub, kind), self.rations(kind)
        resolve = self._snapshot.resolver(self._scopes[kind], kind)
        if rations is None:
            return lambda name: resolve(name) if permits(name) else None

        def look(name: str) -> Resource | None:
            found = resolve(name) if permits(name) else None
            if found is not None and not rations.hides(name, sub.held.get(name)):
                return found
            return rations.stand_in(name)

        return look

    def permits(self, sub: Subscription, kind: ResourceType) -> Rule:
        """Return what tells whether this identity may have a name; a refusal stands on the ledger."""
        rule, rations = self.rule(kind), self.rations(kind)

        def permits(name: str) -> bool:
            if rule(name) and not (rations is not None and name in rations.refused):
                if sub.denied:
                    sub.denied.discard(name)
                return True
            if name in sub.names:
                sub.denied.add(name)
            return False

        return permits


def _nothing(_name: str) -> None:
    """Find nothing: of a type that the mesh does not serve there is none."""


def assignments_sent(clusters: Subscription) -> set[str]:
    """Return the load assignments of the clusters that were sent on this stream."""
    flight: Items = {} if clusters.in_flight is None else clusters.in_flight.items
    held = ((name, clusters.held.get(name)) for name in clusters.last)
    return {endpoints_of(name, found) for name, found in (*held, *flight.items())}
