"""Clusters and endpoints for proxies under a Sidecar: what of the mesh they see, as references to the same bytes.

It owns the layers of such proxies and keeps them equal to what the mesh's layers hold of visible hosts; it must
never build a resource.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from xds.compile.hosts import Client
from xds.places import MESH, Place, layer_of
from xds.resources import names
from xds.snapshot import ResourceType, Snapshot
from xds.topics import Topic

KINDS = (ResourceType.CLUSTER, ResourceType.ENDPOINTS)
"""What a scope holds, in the order in which it is told."""


@dataclass(slots=True)
class _Scope:
    """One class of proxies: the layers that it chooses from, and the clusters that its routes name."""

    view: tuple[str, ...]
    used: frozenset[str] = field(default_factory=frozenset[str])


class Scopes:
    """The scopes in use; ``sees`` tells whether a class sees a host, by the host's cluster."""

    def __init__(self, snapshot: Snapshot, sees: Callable[[Client, names.ClusterName], bool]) -> None:
        self._snapshot = snapshot
        self._sees = sees
        self._scopes: dict[Client, _Scope] = {}

    def open(self, client: Client, used: Iterable[str]) -> list[Place]:
        """Begin the scope of a class whose routes name these clusters; return the places that it fills."""
        if client in self._scopes:
            return []
        self._scopes[client] = _Scope((layer_of(client.namespace), MESH), frozenset(used))
        return self._refill(client)

    def close(self, client: Client) -> None:
        """End a scope; unknown ones are ignored."""
        if self._scopes.pop(client, None) is not None:
            self._snapshot.drop_layer(scope_layer(client))

    def review(self, touched: Iterable[Topic]) -> list[Place]:
        """Fill the scopes again whose Sidecar, or the mesh's settings, have changed; return the places that differ."""
        if not self._scopes:
            return []
        topics = set(touched)
        changed = {f"{topic[1]}/{topic[2]}" for topic in topics if topic[0] == "sidecar"}
        found = [client for client in self._scopes if client.sidecar in changed or ("mesh",) in topics]
        return [place for client in found for place in self._refill(client)]

    def _refill(self, client: Client) -> list[Place]:
        scope, layer = self._scopes[client], scope_layer(client)
        out: list[Place] = []
        for kind in KINDS:
            known = {*self._snapshot.names(scope.view, kind), *self._snapshot.names((layer,), kind)}
            out += self._mirror(client, ((kind, name) for name in sorted(known)))
        return out

    def use(self, client: Client, clusters: Iterable[str]) -> list[Place]:
        """Set which clusters a class's routes name: it gets them whether or not it sees their hosts."""
        scope = self._scopes.get(client)
        now = frozenset(clusters)
        if scope is None or scope.used == now:
            return []
        differing, scope.used = sorted(scope.used ^ now), now
        return list(self._mirror(client, ((kind, name) for kind in KINDS for name in differing)))

    def follow(self, changed: Iterable[Place]) -> list[Place]:
        """Take over what has changed in the mesh's layers; return the places that differ."""
        concerned = [place for place in changed if place[1] in KINDS] if self._scopes else ()
        return [
            place
            for client, scope in (self._scopes.items() if concerned else ())
            for place in self._mirror(
                client, ((k, name) for layer, k, name in concerned if layer in scope.view)
            )
        ]

    def _mirror(self, client: Client, wanted: Iterable[tuple[ResourceType, str]]) -> Iterator[Place]:
        scope, layer = self._scopes[client], scope_layer(client)
        for kind, name in wanted:
            parsed = names.parse_cluster(name)
            is_seen = name in scope.used or (parsed is not None and self._sees(client, parsed))
            found = self._snapshot.resolve(scope.view, kind, name) if is_seen else None
            if (
                self._snapshot.drop(layer, kind, name)
                if found is None
                else self._snapshot.place(layer, found)
            ):
                yield layer, kind, name


def scope_layer(client: Client) -> str:
    """Return the layer of what one class under a Sidecar sees of the mesh."""
    return f"scope/{client.namespace}/{client.form}"
