"""Proxies with redirected traffic: who they are among callers, and what they get with their workload or by name.

It owns the route tables by destination and the way from such a unit to its results; it must never know which unit is
due, nor what stands in the snapshot.
"""

from __future__ import annotations

from collections.abc import Iterable

from xds import ir
from xds.api.core import Labels
from xds.compile.hosts import Client
from xds.compile.lens import Lens
from xds.compile.outbound import Caller, demand_layer, destination, hidden, outbound, rules
from xds.hosts import Name
from xds.places import (
    MESH,
    TRUST,
    Node,
    Place,
    layer_of,
    placed_outbound,
    redirected_layer,
)
from xds.resources import names
from xds.snapshot import NAMED, ResourceType, View
from xds.tables import BY_DESTINATION, Tables, Unit
from xds.world import World


def class_of(world: World, namespace: str, labels: Labels) -> Client:
    """Return the class of clients that a Pod of a namespace with these labels belongs to."""
    asked, sidecar = world.source_labels, world.scope_of(namespace, labels)
    named = f"{sidecar.meta.namespace}/{sidecar.meta.name}" if sidecar else ""
    return Client(namespace, tuple((k, v) for k, v in labels if k in asked), named)


class Callers:
    """The callers that have a proxy, and their tables."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.tables: Tables[Caller, ir.Rules] = Tables(BY_DESTINATION)

    def of(self, pod: Name, client: Client, *, declared: bool = False) -> Caller:
        """Return who a Pod is among the callers that share a listener and a table."""
        backend = self._world.backend(pod)
        found = self._world.pod(pod)
        telemetry = self._world.telemetries.selecting(pod[0], found.meta.labels) if found else None
        name = telemetry.meta.name if telemetry else ""
        account = backend.service_account or "default"
        return Caller(client, backend.workload or pod[1], account, name, declared)

    def view(self, caller: Caller) -> View:
        """Return the layers that a caller's proxies see, behind those of each alone.

        Of one that cannot ask those come behind that its class sees: the table by Host is nearer than a caller's own.
        """
        namespace = caller.namespace
        if caller.is_declared:
            redirected = (redirected_layer(namespace), redirected_layer(""))
            return (caller.client.layer, caller.layer, *redirected)
        by_name = (
            demand_layer(namespace),
            redirected_layer(namespace),
            layer_of(namespace),
            redirected_layer(""),
            MESH,
        )
        return (caller.layer, NAMED, *by_name, TRUST)

    def units(self, layer: str, wanted: Iterable[str]) -> list[Unit]:
        """Return the units of what proxies of a caller's layer ask for by name."""
        namespace = self.tables.client(layer).namespace
        asked = [name for name in wanted if names.parse_destination(name) is not None]
        return [unit for name in asked for unit in (("demand", namespace, name), ("rules", layer, name))]

    def run(self, lens: Lens, unit: Unit) -> dict[Place, Node]:
        """Compile one unit; rules go into their table, everything else is returned by its place."""
        match unit:
            case ("caller", layer):
                return placed_outbound(layer, outbound(lens, self.tables.client(layer)))
            case ("demand", namespace, name):
                place = (demand_layer(namespace), ResourceType.CLUSTER, name)
                return {place: destination(lens, namespace, name)}
            case ("rules", layer, name):
                caller = self.tables.client(layer)
                found = rules(lens, caller.client, name)
                self.tables.put(caller, unit, (found,) if found else ())
                unseen = hidden(lens, caller.client, name)
                return {(layer, ResourceType.CLUSTER, name): unseen} if unseen else {}
            case _:
                raise AssertionError(unit)

    def is_owned(self, name: str) -> bool:
        """Tell whether a destination's address is known: such a one is worth being sent ahead."""
        dialled = names.parse_destination(name)
        return dialled is not None and self._world.by_address(dialled.address) is not None

    def is_ruled(self, layer: str, name: str) -> bool:
        """Tell whether a caller's table has rules for a destination."""
        return self.tables.has(self.tables.client(layer), ("rules", layer, name))

    def mirrored(self, layer: str, wanted: Iterable[str]) -> set[str]:
        """Return the clusters to which rules for some destinations send copies: no request waits for those."""
        return self.tables.mirrors(self.tables.client(layer), [("rules", layer, name) for name in wanted])

    def routed(self, layer: str, wanted: Iterable[str] | None = None) -> set[str]:
        """Return the clusters that the rules of a caller's layer name: all, or those for some destinations."""
        units = None if wanted is None else [("rules", layer, name) for name in wanted]
        return self.tables.clusters(self.tables.client(layer), units)
