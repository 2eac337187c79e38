"""Where the plan puts what it compiles: the layer of each kind of result, and its bytes.

It owns the names of the layers that a plan fills; it must never decide what is in them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from xds import ir
from xds.access import PolicyName, policy_of
from xds.compile.entries import entry_cause, entry_clusters
from xds.compile.lens import Lens
from xds.compile.outbound import Outbound
from xds.compile.sidecar import Sidecar
from xds.hosts import Name
from xds.resources import cluster, inbound_routes, listener, route
from xds.resources.outbound import scope
from xds.resources.parts import serialise
from xds.snapshot import ResourceType

Place = tuple[str, ResourceType, str]
"""Where a resource stands in the snapshot: (layer, type, name)."""

Node = tuple[object, tuple[str, ...]]
"""An IR node and the objects that it comes from."""

MESH = "mesh"
"""The layer that every proxy sees whose sidecar is called by its address."""

TRUST = "trust"
"""The layer of the trust bundle, which every proxy sees."""


class Outcome(msgspec.Struct):
    """What a batch did: the resources that differ, in order, and the Pods whose view may differ."""

    changed: list[Place] = []
    review: set[Name] = set()


def build(node: object) -> bytes:
    """Return the Envoy resource of an IR node."""
    match node:
        case ir.Cluster():
            return cluster.build(node)
        case ir.InboundCluster():
            return cluster.build_inbound(node)
        case ir.OutboundHttp() | ir.OutboundTcp() | ir.Dialling() | ir.Inbound() | ir.Intercepted():
            return listener.build(node)
        case ir.InboundRoutes():
            return inbound_routes.build(node)
        case ir.HostTable():
            return route.build_host_table(node)
        case ir.Scope():
            return serialise(scope(node))
        case _:
            raise AssertionError(node)


def layer_of(namespace: str) -> str:
    """Return the layer of what one namespace sees differently; "" is the layer that everybody sees."""
    return f"ns/{namespace}" if namespace else MESH


def placed(
    clusters: Mapping[str, Iterable[ir.Cluster]], cause: tuple[str, ...], *, redirected: bool = False
) -> dict[Place, Node]:
    """Return the places of clusters by the namespace that sees them; ``redirected``: with redirected traffic only."""
    layer = redirected_layer if redirected else layer_of
    return {
        (layer(namespace), ResourceType.CLUSTER, node.name): (node, cause)
        for namespace, nodes in clusters.items()
        for node in nodes
    }


def placed_outbound(layer: str, found: Outbound) -> dict[Place, Node]:
    """Return the places of what a caller gets without asking."""
    cause = ("Workload " + "/".join(workload_of(layer)),)
    out: dict[Place, Node] = {(layer, ResourceType.LISTENER, found.listener.name): (found.listener, cause)}
    out[layer, ResourceType.SCOPES, found.scope.name] = (found.scope, cause)
    out[layer, ResourceType.ROUTES, found.hosts.name] = (found.hosts, cause)
    return out | {(layer, ResourceType.CLUSTER, node.name): (node, cause) for node in found.clusters}


def placed_proxy(layer: str, found: Sidecar | None) -> dict[Place, Node]:
    """Return the places of what belongs to one proxy alone, None for a Pod that is gone."""
    if found is None:
        return {}
    cause = (f"Pod {layer.partition('/')[2]}",)
    out: dict[Place, Node] = {}
    for node in found.listeners:
        out[layer, ResourceType.LISTENER, node.name] = (node, (*cause, *_in_listener(node)))
    out |= {(layer, ResourceType.CLUSTER, node.name): (node, cause) for node in found.clusters}
    for table in found.routes:
        out[layer, ResourceType.ROUTES, table.name] = (table, (*cause, *_in_routes(table.port)))
    return out


def _in_listener(node: ir.Listener) -> tuple[str, ...]:
    """Return the objects whose rules stand in a listener, which are those of its ports of bytes."""
    match node:
        case ir.Inbound():
            ports = (node,)
        case ir.Intercepted():
            ports = (*node.ports, node.others)
        case _:
            ports = ()
    guards = [port.access.on_bytes() for port in ports if port.access and not port.protocol.is_http]
    return _objects(named for access in guards for named in access.policies())


def _in_routes(port: ir.Inbound) -> tuple[str, ...]:
    """Return the objects whose rules stand in a port's routes."""
    guards = port.access.policies() if port.access else set[PolicyName]()
    limits = {policy_of(name) for name, _ in port.limits.rules} if port.limits else set[PolicyName]()
    return _objects(guards | limits)


def _objects(named: Iterable[PolicyName]) -> tuple[str, ...]:
    return tuple(sorted({f"{kind} {namespace}/{name}" for kind, namespace, name in named}))


def placed_entries(lens: Lens, host: str) -> dict[Place, Node]:
    """Return the places of a ServiceEntry's host: only proxies with redirected traffic know its original address."""
    cause = entry_cause(lens, host)
    original = {
        namespace: [node for node in nodes if node.discovery is ir.Discovery.ORIGINAL_DST]
        for namespace, nodes in entry_clusters(lens, host, redirected=True).items()
    }
    return placed(entry_clusters(lens, host), cause) | placed(original, cause, redirected=True)


def redirected_layer(namespace: str) -> str:
    """Return the layer of what proxies with redirected traffic see otherwise than others; as ``layer_of``."""
    return f"redirected/{namespace}" if namespace else "redirected"


def is_caller(layer: str) -> bool:
    """Tell whether a layer is that of a calling workload."""
    return layer.startswith("caller/")


def workload_of(layer: str) -> Name:
    """Return the namespace and name of the workload whose layer this is."""
    _, namespace, workload, *_ = layer.split("/")
    return namespace, workload


def is_counted(layer: str) -> bool:
    """Tell whether a layer ends with its last stream: a calling workload's, a class made for Pod labels.

    The latter is ``class/NAMESPACE/KEY=VALUE,…``.
    """
    return is_caller(layer) or (layer.startswith("class/") and not layer.endswith("/"))
