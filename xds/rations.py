"""The clusters that one client asks for by name: how many it may have, and what it is told instead of "missing".

It owns the share of one stream; it must never decide whether a name means anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from xds.compile.outbound import nowhere
from xds.held import Held
from xds.resources import cluster, names
from xds.snapshot import Resource, ResourceType, encode
from xds.subscription import Subscription

NOWHERE = "nothing that this proxy may have answers to this name"
"""The cause of a cluster that leads nowhere, for the ledger."""


class Rations:
    """Names that one client asked for; a client keeps each for the life of its stream, and so do we.

    Envoy never gives a name on demand back, and one that it was told is missing it asks for once, and then lets
    every request wait until the timeout (envoyproxy/envoy#47201). So no such name is ever missing.
    """

    __slots__ = ("_behind", "_hidden", "_is_closed", "_most", "_ruled", "_taken", "refused")

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken: set[str] = set()
        self.refused: set[str] = set()
        """Names beyond the share."""
        self._behind: set[str] = set()
        self._ruled: set[str] = set()
        self._hidden: set[str] = set()
        self._is_closed = False

    def asked(self, subscribed: Iterable[str], claims: Mapping[str, str]) -> list[str]:
        """Return the names that a request asks for: what a client holds from an earlier stream is among them."""
        return list(dict.fromkeys((*subscribed, *filter(names.is_on_demand, claims))))

    def admit(self, added: Iterable[str]) -> list[str]:
        """Count names that a client subscribed to; return those that it may have."""
        out: list[str] = []
        for name in added:
            if not names.is_on_demand(name) or name in self._taken:
                out.append(name)
            elif len(self._taken) < self._most:
                self._taken.add(name)
                out.append(name)
            else:
                self.refused.add(name)
        return out

    def foresee(self, wanted: Iterable[str], *, behind_routes: bool) -> list[str]:
        """Count names that the client has not asked for yet; return those for which there is room.

        ``behind_routes``: they may come after the table that names them, as nobody uses it yet; with the destination
        that waits for that table they are one response, and warm together.
        """
        out = [name for name in wanted if name not in self._taken and name not in self.refused]
        out = out[: max(0, self._most - len(self._taken))]
        self._taken.update(out)
        if behind_routes:
            self._behind.update(out)
        return out

    def rule(self, ruled: Iterable[str]) -> None:
        """Note destinations that have rules."""
        self._ruled.update(ruled)

    def unrouted(self, routes: Subscription, clusters: Subscription | None) -> Callable[[str], bool] | None:
        """Return which clusters wait for the route table, None while the client has the one that is wanted.

        A request that waits for the cluster of its destination looks for its route again once it has it, so the
        rules for that destination must be there first.
        """
        was_closed, self._is_closed = self._is_closed, bool(routes.rejected)
        if was_closed and not self._is_closed and clusters is not None:
            for name in self._hidden:
                clusters.mark(name, None)
            self._hidden.clear()
        if routes.idle:
            self._behind.clear()
            return None
        return self._waits

    def _waits(self, name: str) -> bool:
        return names.is_http_destination(name) or name in self._behind

    def hides(self, name: str, held: Held | None) -> bool:
        """Tell whether a destination leads nowhere because the client has rejected the table with its rules.

        One that the client has already keeps what it has: the last accepted table goes with it.
        """
        if not self._is_closed or name not in self._ruled:
            return False
        if not isinstance(held, Resource):
            self._hidden.add(name)
        return name in self._hidden

    def release(self, removed: Iterable[str]) -> None:
        """Forget names beyond the share that a client no longer asks for.

        Those within it stay counted: what they mean was compiled for as long as the stream lives.
        """
        self.refused.difference_update(removed)

    def stand_in(self, name: str) -> Resource | None:
        """Return what a client is told of a name that means nothing to it, None if it may hear that there is none."""
        if not names.is_on_demand(name):
            return None
        return encode(ResourceType.CLUSTER, name, cluster.build(nowhere(name)), cause=(NOWHERE,))


def endpoints_of(name: str, found: Held | None) -> str:
    """Return the name of a cluster's load assignment, which several clusters may share."""
    return found.endpoints if isinstance(found, Resource) and found.endpoints else name
