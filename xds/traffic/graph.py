"""The graph of who calls whom, with rates, errors and durations: what every replica heard, as one answer.

It owns how reports of both ends, of several Pods and of several replicas add up, and the rows that people ask for; it
must never draw, print or ask.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from operator import add
from typing import Final

from xds.traffic.edges import UNKNOWN, Numbers, Port, Traffic, percentile

SOURCE: Final = "source"
DESTINATION: Final = "destination"
MUTUAL_TLS: Final = "mutual_tls"
"""Istio's words in the labels ``reporter`` and ``connection_security_policy``."""

WORKLOAD: Final = "workload"
SERVICE: Final = "service"
"""What a node is: a service stands for calls of which nobody knows where they went."""


@dataclass(frozen=True, slots=True, order=True)
class Workload:
    """What the world knows of one workload, ``NAME.NAMESPACE``: its Pods, and the hosts that select them."""

    name: str
    pods: int
    meshed: int
    services: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Seen:
    """``GET /api/v1/edges``: what one control plane has heard, and what it knows of the world."""

    edges: tuple[Traffic, ...]
    ports: tuple[Port, ...]
    workloads: tuple[Workload, ...] = ()


@dataclass(frozen=True, slots=True)
class Red:
    """Rate, errors and durations within a window; None where there was nothing to measure."""

    requests_per_s: float = 0
    errors_per_s: float = 0
    bounds: Numbers = ()
    buckets: Numbers = ()

    def __add__(self, other: Red) -> Red:
        """Return both together; of different buckets, which two Envoy versions may bring, the other's count."""
        bounds, buckets = other.bounds or self.bounds, other.buckets or self.buckets
        if self.buckets and other.buckets and self.bounds == other.bounds:
            buckets = tuple(map(add, self.buckets, other.buckets))
        return Red(
            self.requests_per_s + other.requests_per_s,
            self.errors_per_s + other.errors_per_s,
            bounds,
            buckets,
        )

    @property
    def success(self) -> float | None:
        """Return the share of requests that were no failure of the server or of the way to it, 0..1."""
        if self.requests_per_s <= 0:
            return None
        return max(0.0, 1 - self.errors_per_s / self.requests_per_s)

    def percentile_ms(self, share: float) -> float | None:
        """Return the duration below which a share of the requests stayed."""
        return percentile(self.bounds, self.buckets, share)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What is shown of a `Red`."""

    requests_per_s: float
    success: float | None
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None


@dataclass(frozen=True, slots=True)
class Node:
    """One end of edges."""

    name: str
    namespace: str
    kind: str
    pods: int = 0
    meshed: int = 0


@dataclass(frozen=True, slots=True)
class Link:
    """One edge of the graph: calls of one workload to another, by the service under which they were made."""

    source: str
    destination: str
    service: str
    protocol: str
    security: str
    """`mutual_tls`, `none`, or `unknown` where only the caller reports and no peer has shown who it is."""
    source_identity: str
    destination_identity: str
    connections: int
    """TCP connections since they were first heard of; HTTP counts requests."""
    red: Figures


@dataclass(frozen=True, slots=True)
class Graph:
    """``GET /api/v1/graph``."""

    nodes: tuple[Node, ...]
    edges: tuple[Link, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of ``proa stat``: what arrives at a workload, a service or a namespace."""

    namespace: str
    name: str
    pods: int
    meshed: int
    open_connections: int | None
    """None where nobody counts them: connections belong to workloads, not to services."""
    red: Figures


@dataclass(slots=True)
class _Sum:
    """What the reports of one end of an edge add up to."""

    red: Red = field(default_factory=Red)
    connections: int = 0
    security: str = UNKNOWN
    identities: tuple[str, str] = ("", "")

    def take(self, found: Traffic) -> None:
        self.red += Red(found.requests_per_s, found.errors_per_s, found.bounds, found.buckets)
        self.connections += found.connections
        mine, theirs = self.identities
        self.identities = mine or found.source_identity, theirs or found.destination_identity
        if found.edge.security not in {UNKNOWN, self.security}:
            # Both, while a mode is being changed: what is not always encrypted is not called so.
            self.security = found.edge.security if self.security == UNKNOWN else "none"


_Key = tuple[str, str, str, str]
"""Source, destination, service, protocol."""


def merge(replicas: Iterable[Seen]) -> Seen:
    """Return what several control planes heard as one; of a proxy that moved both may know, and one counts on."""
    found = list(replicas)
    ports = {(port.node, port.listener): port for each in found for port in each.ports}
    workloads = {workload.name: workload for each in found for workload in each.workloads}
    return Seen(
        tuple(traffic for each in found for traffic in each.edges),
        tuple(ports[key] for key in sorted(ports)),
        tuple(workloads[name] for name in sorted(workloads)),
    )


def graph_of(seen: Seen) -> Graph:
    """Return nodes and edges, sorted; every workload that is meshed or called is there."""
    links = tuple(link for _, link in sorted(_links(seen).items()))
    known = {workload.name: workload for workload in seen.workloads}
    names = {end for link in links for end in (link.source, link.destination)}
    names |= {workload.name for workload in seen.workloads if workload.meshed}
    return Graph(tuple(_node(name, known) for name in sorted(names)), links)


def stat(seen: Seen, kind: str) -> list[Row]:
    """Return one row for each ``workload``, ``service`` or ``namespace`` that there is or that is called.

    A workload's figures are what its own sidecars answered, or what its callers saw where it has none; a service's are
    what its callers saw, with what never arrived.
    """
    prefer = SOURCE if kind == SERVICE else DESTINATION
    sums: defaultdict[str, Red] = defaultdict(Red)
    reported: dict[_Key, dict[str, _Sum]] = _reported(seen)
    for (_, destination, service, _), ends in reported.items():
        end = ends.get(prefer) or next(iter(ends.values()))
        sums[_row_name(kind, destination, service)] += end.red
    rows = {row.name: row for row in _known_rows(seen, kind)}
    for name, red in sums.items():
        row = rows.get(name) or _row(name, 0, 0, None)
        rows[name] = Row(row.namespace, row.name, row.pods, row.meshed, row.open_connections, figures(red))
    return [_named(rows[name], kind) for name in sorted(rows, key=_by_namespace) if name != UNKNOWN]


def narrow(graph: Graph, namespace: str) -> Graph:
    """Return what touches a namespace: its nodes, their edges, and the other ends of these."""
    links = tuple(
        link for link in graph.edges if namespace in {split(link.source)[1], split(link.destination)[1]}
    )
    ends = {end for link in links for end in (link.source, link.destination)}
    nodes = tuple(node for node in graph.nodes if node.namespace == namespace or node.name in ends)
    return Graph(nodes, links)


def figures(red: Red) -> Figures:
    """Return what is shown."""
    return Figures(
        requests_per_s=red.requests_per_s,
        success=red.success,
        p50_ms=red.percentile_ms(0.50),
        p95_ms=red.percentile_ms(0.95),
        p99_ms=red.percentile_ms(0.99),
    )


def split(name: str) -> tuple[str, str]:
    """Return name and namespace of ``NAME.NAMESPACE``, and of a Service's host."""
    host = name.removesuffix(".svc.cluster.local")
    before, dot, namespace = host.rpartition(".")
    is_host = host == name and name.count(".") > 1  # of the outside, which has no namespace
    return (before, namespace) if dot and not is_host else (name, "")


def _reported(seen: Seen) -> dict[_Key, dict[str, _Sum]]:
    """Return the sums of each edge by the end that reports it, with destinations found as far as can be."""
    by_service: defaultdict[str, list[str]] = defaultdict(list)
    for workload in seen.workloads:
        for service in workload.services:
            by_service[service].append(workload.name)
    found: defaultdict[_Key, dict[str, _Sum]] = defaultdict(dict)
    for traffic in seen.edges:
        edge = traffic.edge
        destination = edge.destination
        if destination == UNKNOWN and edge.service != UNKNOWN:
            behind = by_service.get(edge.service, [])
            destination = behind[0] if len(behind) == 1 else edge.service
        key = (edge.source, destination, edge.service, edge.protocol)
        found[key].setdefault(edge.reporter, _Sum()).take(traffic)
    return found


def _links(seen: Seen) -> dict[_Key, Link]:
    """Return one link for each edge: figures as the caller saw them, security as the callee did."""
    links: dict[_Key, Link] = {}
    for key, ends in _reported(seen).items():
        end = ends.get(SOURCE) or next(iter(ends.values()))
        other = ends.get(DESTINATION) or end
        mine, theirs = (one or another for one, another in zip(end.identities, other.identities, strict=True))
        security = other.security
        if security == UNKNOWN and theirs:
            security = MUTUAL_TLS  # the caller has seen its peer's certificate
        source, destination, service, protocol = key
        links[key] = Link(
            source=source,
            destination=destination,
            service=service,
            protocol=protocol,
            security=security,
            source_identity=mine,
            destination_identity=theirs,
            connections=end.connections,
            red=figures(end.red),
        )
    return links


def _node(name: str, known: dict[str, Workload]) -> Node:
    workload = known.get(name)
    namespace = split(name)[1]
    if workload is not None:
        return Node(name, namespace, WORKLOAD, workload.pods, workload.meshed)
    is_service = name.count(".") > 1
    kind = UNKNOWN if name == UNKNOWN else SERVICE if is_service else WORKLOAD
    return Node(name, namespace, kind)


def _known_rows(seen: Seen, kind: str) -> Iterable[Row]:
    """Yield a row without traffic for all that the world has."""
    active: defaultdict[str, int] = defaultdict(int)
    for port in seen.ports:
        active[port.workload] += port.active
    groups: dict[str, list[Workload]] = {}
    for workload in seen.workloads:
        for name in _groups(workload, kind):
            groups.setdefault(name, []).append(workload)
    for name, members in groups.items():
        open_now = None if kind == SERVICE else sum(active[member.name] for member in members)
        pods, meshed = sum(one.pods for one in members), sum(one.meshed for one in members)
        yield _row(name, pods, meshed, open_now)


def _groups(workload: Workload, kind: str) -> tuple[str, ...]:
    if kind == SERVICE:
        return workload.services
    return (workload.name if kind == WORKLOAD else split(workload.name)[1],)


def _row(name: str, pods: int, meshed: int, open_connections: int | None) -> Row:
    return Row("", name, pods, meshed, open_connections, figures(Red()))


def _row_name(kind: str, destination: str, service: str) -> str:
    if kind == SERVICE:
        return service
    return destination if kind == WORKLOAD else split(destination)[1] or UNKNOWN


def _by_namespace(name: str) -> tuple[str, str]:
    first, namespace = split(name)
    return namespace, first


def _named(row: Row, kind: str) -> Row:
    """Return a row with its name cut into the two columns."""
    name, namespace = (row.name, row.name) if kind not in {WORKLOAD, SERVICE} else split(row.name)
    return Row(namespace, name, row.pods, row.meshed, row.open_connections, row.red)
