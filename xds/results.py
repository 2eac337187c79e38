"""What each unit of compilation gave: its nodes, their bytes in the snapshot, and which of them differ from before.

It owns the step from an IR node to a resource and builds only what differs; it must never decide what is compiled.

Proxies whose traffic is intercepted have equal nodes wherever they are equal workloads, so that their resources are
built once and hold their bytes once, however many Pods there are.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from xds import ir
from xds.places import Node, Place, build
from xds.snapshot import Resource, Snapshot, encode
from xds.tables import Unit

_NOTHING: Mapping[Place, Node] = {}

_SHARED = ("transparent/", "older-transparent/", "caller/", "demand/")
"""Beginnings of layers whose nodes are equal for many."""


class Results:
    """The nodes of every unit, and their resources in the snapshot."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._nodes: dict[Unit, dict[Place, Node]] = {}
        self._shared: dict[object, tuple[Resource, int]] = {}
        self.built = 0
        """Resources that were made from a node: what the memo saves is not among them."""

    @property
    def shared(self) -> int:
        """The number of resources that layers share, or could."""
        return len(self._shared)

    def put(self, unit: Unit, nodes: dict[Place, Node]) -> list[Place]:
        """Build what differs from the unit's last result, drop what it no longer gives; return the places that differ.

        A node that is None stands for bytes that were put by ``put_bodies``.
        """
        before = self._nodes.get(unit, _NOTHING)
        changed = [
            place for place, node in nodes.items() if before.get(place) != node and self._put(place, node)
        ]
        changed += [place for place in before.keys() - nodes.keys() if self._snapshot.drop(*place)]
        for place, (node, _) in before.items():
            if _is_shared(place) and (place not in nodes or nodes[place] != before[place]):
                self._release(node)
        if nodes:
            self._nodes[unit] = nodes
        else:
            self._nodes.pop(unit, None)
        return changed

    def put_bodies(self, unit: Unit, bodies: Mapping[Place, bytes], cause: tuple[str, ...]) -> list[Place]:
        """Put what needs no building; return the places that differ."""
        changed = [place for place, body in bodies.items() if self._snapshot.put(*place, body, cause=cause)]
        if self._nodes.get(unit, _NOTHING).keys() != bodies.keys():
            changed += self.put(unit, dict.fromkeys(bodies, (None, ())))
        return changed

    def _put(self, place: Place, found: Node) -> bool:
        node, cause = found
        if node is None:
            return False
        layer = place[0]
        if not _is_shared(place):
            return self._snapshot.place(layer, replace(self._encode(place, node), cause=cause))
        resource, holders = self._shared.get(node) or (self._encode(place, node), 0)
        self._shared[node] = (resource, holders + 1)
        return self._snapshot.place(layer, replace(resource, cause=cause))

    def _encode(self, place: Place, node: object) -> Resource:
        self.built += 1
        assignment = node.assignment if isinstance(node, ir.Cluster) else ""
        return encode(place[1], place[2], build(node), endpoints=assignment)

    def _release(self, node: object) -> None:
        resource, holders = self._shared[node]
        if holders > 1:
            self._shared[node] = (resource, holders - 1)
        else:
            del self._shared[node]


def _is_shared(place: Place) -> bool:
    return place[0].startswith(_SHARED)
