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

Authorize = Callable[[ResourceType, str], bool]


class Sight:
    """One stream's way to resources."""

    def __init__(self, snapshot: Snapshot, authorize: Authorize, names_on_demand: int) -> None:
        self.view: View = ()
        self.authorize = authorize
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

    def lookup(self, sub: Subscription) -> Lookup:
        """Return the only way to a resource: authorization comes before any lookup."""
        kind, permits, resolve = sub.type, self.permits, self._snapshot.resolve
        view = () if kind is None else self._scopes[kind]
        rations = self.rations(kind)

        def look(name: str) -> Resource | None:
            found = None if kind is None or not permits(sub, kind, name) else resolve(view, kind, name)
            if rations is None or (found is not None and not rations.hides(name, sub.held.get(name))):
                return found
            return rations.stand_in(name)

        return look

    def permits(self, sub: Subscription, kind: ResourceType, name: str) -> bool:
        """Ask whether this identity may have a name; a refusal stands on the ledger."""
        rations = self.rations(kind)
        if self.authorize(kind, name) and not (rations is not None and name in rations.refused):
            if sub.denied:
                sub.denied.discard(name)
            return True
        if name in sub.names:
            sub.denied.add(name)
        return False


def assignments_sent(clusters: Subscription) -> set[str]:
    """Return the load assignments of the clusters that were sent on this stream."""
    flight: Items = {} if clusters.in_flight is None else clusters.in_flight.items
    held = ((name, clusters.held.get(name)) for name in clusters.last)
    return {endpoints_of(name, found) for name, found in (*held, *flight.items())}
