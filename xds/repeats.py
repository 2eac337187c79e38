"""Which sidecars may repeat which calls: the retries of the routes in force, for each edge that was seen.

It owns the step from a workload and a service to the route with the most attempts; it must never change the world or
compile anything into it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from xds import ir
from xds.callers import class_of
from xds.compile.hosts import Client, foreign_host, virtual_hosts
from xds.compile.lens import Lens
from xds.features import retry
from xds.hosts import service_of
from xds.traffic.amplification import Rule, Rules
from xds.traffic.edges import UNKNOWN, Traffic

if TYPE_CHECKING:
    from xds.world import World


def repeats(world: World, edges: Iterable[Traffic]) -> Rules:
    """Return the rule of each edge on which a sidecar may repeat what an application has seen."""
    asked = {
        (found.edge.source, found.edge.service, found.edge.protocol)
        for found in edges
        if UNKNOWN not in {found.edge.source, found.edge.service} and found.edge.protocol != "tcp"
    }
    clients = _clients(world, {source for source, _, _ in asked})
    rules = (
        _rule(Lens(world), clients[source], source, service, is_grpc=protocol == "grpc")
        for source, service, protocol in sorted(asked)
        if source in clients
    )
    return Rules(tuple(rule for rule in rules if rule is not None))


def _clients(world: World, workloads: set[str]) -> dict[str, Client]:
    """Return the class of clients of each workload, as its first Pod's labels say."""
    found: dict[str, Client] = {}
    for name in sorted(world.pods()):
        backend, pod = world.backend(name), world.pod(name)
        workload = f"{backend.workload}.{backend.namespace}"
        if pod is not None and workload in workloads and workload not in found:
            found[workload] = class_of(world, name[0], pod.meta.labels)
    return found


def _rule(lens: Lens, client: Client, source: str, host: str, *, is_grpc: bool) -> Rule | None:
    """Return the route with the most attempts, None where nothing is repeated that was seen."""
    worst: Rule | None = None
    for route in _routes(lens, client, host):
        for feature in route.features:
            if isinstance(feature, retry.Retry):
                conditions = retry.OF_GRPC if feature.is_default else feature.risky
                is_risky = bool(feature.attempts and conditions and (is_grpc or not feature.is_default))
                if is_risky and (worst is None or worst.attempts < feature.attempts + 1):
                    codes = tuple(map(str, feature.status_codes))
                    words = ",".join((*conditions, *codes))
                    worst = Rule(source, host, feature.attempts + 1, route.name, words)
    return worst


def _routes(lens: Lens, client: Client, host: str) -> Iterator[ir.Route]:
    service = service_of(host)
    is_known = service is not None and lens.service(service) is not None
    hosts = virtual_hosts(lens, service, client) if is_known and service else foreign_host(lens, host, client)
    for found in hosts:
        yield from (route for route in found.routes if isinstance(route.action, ir.Forward))
