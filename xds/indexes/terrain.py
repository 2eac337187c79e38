"""Where things are: the zones of nodes, and the ranges that the cluster's addresses come from.

It owns what Node and ServiceCIDR say; it must never know what is done with a range.
"""

from __future__ import annotations

from collections import Counter

from xds.api.core import Node, Pod, ServiceCIDR
from xds.api.mesh import MeshSettings
from xds.hosts import Name
from xds.topics import Topic

Ranges = tuple[str, ...]


class Terrain:
    """Nodes, the Pods on them, and address ranges."""

    def __init__(self) -> None:
        self._nodes: dict[str, Node] = {}
        self._pods_on: dict[str, set[Name]] = {}
        self._service_ranges: Counter[str] = Counter()
        self._pod_ranges: Counter[str] = Counter()

    def zone(self, pod: Pod) -> str:
        """Return a Pod's zone: as its labels say, else its Node's, empty where neither tells."""
        node = self._nodes.get(pod.node)
        return pod.zone or (node.zone if node else "")

    def cidrs(self, settings: MeshSettings) -> tuple[Ranges, Ranges]:
        """Return where cluster IPs and Pods' addresses come from, each sorted.

        What the settings say goes before what the cluster says: not every cluster tells (Kubernetes before
        1.33 has no ServiceCIDR, and some CNI plugins leave ``Node.spec.podCIDRs`` empty or wrong).
        """
        return (
            settings.service_cidrs or tuple(sorted(self._service_ranges)),
            settings.pod_cidrs or tuple(sorted(self._pod_ranges)),
        )

    def take_pod(self, name: Name, old: object, new: object) -> None:
        """Take one change of a Pod."""
        before = old.node if isinstance(old, Pod) else ""
        after = new.node if isinstance(new, Pod) else ""
        if before == after:
            return
        if before:
            pods = self._pods_on[before]
            pods.discard(name)
            if not pods:
                del self._pods_on[before]
        if after:
            self._pods_on.setdefault(after, set()).add(name)

    def take_node(self, name: str, old: object, new: object) -> tuple[frozenset[Name], set[Topic]]:
        """Take one change of a Node; return the Pods whose zone may differ, and the topics."""
        before = old if isinstance(old, Node) else None
        after = new if isinstance(new, Node) else None
        if after is None:
            self._nodes.pop(name, None)
        else:
            self._nodes[name] = after
        is_moved = (before.zone if before else "") != (after.zone if after else "")
        pods = frozenset(self._pods_on.get(name, ())) if is_moved else frozenset[Name]()
        ranges = _count(
            self._pod_ranges, before.pod_cidrs if before else (), after.pod_cidrs if after else ()
        )
        return pods, ranges

    def take_service_cidr(self, old: object, new: object) -> set[Topic]:
        """Take one change of a ServiceCIDR."""
        before = old.cidrs if isinstance(old, ServiceCIDR) else ()
        after = new.cidrs if isinstance(new, ServiceCIDR) else ()
        return _count(self._service_ranges, before, after)


def _count(ranges: Counter[str], before: Ranges, after: Ranges) -> set[Topic]:
    """Count each range once for each object that names it; return the topic if one came first or went last."""
    known = set(ranges)
    ranges.update(after)
    ranges.subtract(before)
    for text in before:
        if not ranges[text]:
            del ranges[text]
    return {("cidrs",)} if set(ranges) != known else set()
