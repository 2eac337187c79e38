"""What the sidecars count, as the live picture of who calls whom: requests, errors and durations per edge.

It owns growth, rates and the bounds on what is kept; it must never believe a node that reports for a workload which
is not its own (the caller passes who was authenticated), and never reads a clock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from operator import lt, sub
from typing import Final

from xds.traffic import ejections, otlp, silences
from xds.traffic.edges import UNKNOWN, Edge, Numbers, Port, Traffic, percentile
from xds.traffic.ejections import Ejected
from xds.traffic.otlp import Point
from xds.traffic.silences import RECENT_S, Heard, Silence
from xds.traffic.window import WINDOW_S, Counts, Window

MAX_NODES: Final = 20_000
"""Nodes kept at once. Four times the largest mesh that one control plane is measured with."""

MAX_SERIES: Final = 5_000
"""Series kept per node: some hundred destinations with ten outcomes each. A node that reports more is cut."""

MAX_ALL_SERIES: Final = 400_000
"""Series kept of all nodes: 5,000 proxies with ten edges, two outcomes, two metrics and both ends; about 200 MB."""

MAX_EDGES: Final = 20_000
"""Edges kept at once, about 2 KB each. What belongs to a further edge is dropped and counted until others are old."""

MAX_LABEL_SETS: Final = 100_000
"""Sets of labels known by their bytes, about 1.5 KB each: five outcomes for each edge. A set is shared by nodes."""

STALE_S: Final = 30.0
"""A node that has not reported for this long (six pushes of 5 s) has no rate any more."""

KEPT_S: Final = 3600.0
"""An edge that nobody has reported for an hour is forgotten, so that old workloads do not pile up."""

PRUNED_S: Final = 60.0
"""How often what is old is looked for: it walks over everything."""

# The OpenTelemetry semantic conventions for RPC name these as the server's fault.
_GRPC_FAULTS: Final = frozenset({"2", "4", "12", "13", "14", "15"})

_LISTENER: Final = "envoy.listener_address"
"""Envoy's tag that names the listener of its own counters."""

_OF_ENDPOINTS: Final = frozenset({otlp.UNHEALTHY, otlp.EJECTIONS})
_OF_NO_EDGE: Final = _OF_ENDPOINTS | otlp.ASKED

_NOTHING: Final = "-"
"""Envoy's word for an operator without a value."""


@dataclass(slots=True, eq=False)
class _Total:
    """One edge and what it carried; known by itself, so that nothing is compared in the inner loop."""

    edge: Edge
    seen_s: float
    counts: Counts = field(default_factory=Counts)
    window: Window = field(default_factory=Window)
    source_identity: str = ""
    destination_identity: str = ""


@dataclass(slots=True, eq=False)
class _Labels:
    """What one set of labels means, read once for all nodes of a workload; without edge and listener it is forged."""

    total: _Total | None
    listener: str
    is_error: bool
    seen_s: float


@dataclass(slots=True)
class _Node:
    at_s: float
    interval_s: float = 0
    series: dict[tuple[str, _Labels], Numbers] = field(default_factory=dict[tuple[str, _Labels], Numbers])
    recent: dict[_Total, Counts] = field(default_factory=dict[_Total, Counts])
    ports: dict[str, Port] = field(default_factory=dict[str, Port])
    silences: dict[Heard, Silence] = field(default_factory=dict[Heard, Silence])
    ejected: dict[tuple[str, str], Ejected] = field(default_factory=dict[tuple[str, str], Ejected])


class Telemetry:
    """The latest series of every node; everything in it is bounded, and what is cut is counted in ``dropped``."""

    def __init__(self) -> None:
        self._nodes: dict[str, _Node] = {}
        self._totals: dict[Edge, _Total] = {}
        self._labels: dict[tuple[bytes, str], _Labels] = {}
        self._series = 0
        self._pruned_s = 0.0
        self.dropped = 0
        """Points that no room was left for."""
        self.forged = 0
        """Points in which a node spoke for another workload than its own."""

    @property
    def sizes(self) -> Mapping[str, int]:
        """Return how much is kept of each thing that is bounded."""
        return Counter(
            nodes=len(self._nodes),
            edges=len(self._totals),
            label_sets=len(self._labels),
            series=self._series,
        )

    def counters(self) -> Mapping[str, int]:
        """Return what was not counted, by why."""
        return {"telemetry_points_dropped": self.dropped, "telemetry_points_forged": self.forged}

    def receive(self, node_id: str, export: bytes, *, workload: str, now_s: float) -> None:
        """Take one serialised ExportMetricsServiceRequest of an authenticated node of ``NAME.NAMESPACE``.

        Counters are cumulative since the Envoy's start: a value below the last one means that it restarted.
        Raises TelemetryError.
        """
        points = list(otlp.points(export))
        node = self._nodes.get(node_id)
        is_first = node is None
        if node is None:
            if len(self._nodes) >= MAX_NODES:
                self.dropped += len(points)
                return
            node = self._nodes[node_id] = _Node(at_s=now_s)
        node.interval_s, node.at_s, node.recent = now_s - node.at_s, now_s, {}
        gauges = [found for found in points if found[0].metric in _OF_ENDPOINTS]
        node.ejected = ejections.ejected(gauges, node.ejected, now_s) if gauges else {}
        asked = [found for found in points if found[0].metric in otlp.ASKED]
        node.silences = silences.silences(asked, node.silences, now_s, is_first=is_first)
        for point, pairs in points:
            if point.metric in _OF_NO_EDGE:
                continue
            labels = self._labels.get((point.labels, workload))
            if labels is None and len(node.series) < MAX_SERIES:
                labels = self._read(point.labels, pairs, workload, now_s)
            if labels is None:
                self.dropped += 1
                continue
            labels.seen_s = now_s
            if labels.total is not None:
                self._count(node, labels, labels.total, point)
            elif labels.listener:
                _count_port(node, Port(node_id, labels.listener, 0, 0, workload=workload), point)
            else:
                self.forged += 1
        for total, counts in node.recent.items():
            total.counts.add(counts)
            total.window.take(counts, now_s=now_s, interval_s=node.interval_s)
            total.seen_s = now_s

    def forget(self, node_id: str) -> None:
        """Drop a node that has left; what its edges carried stays until ``prune`` finds it old."""
        node = self._nodes.pop(node_id, None)
        if node is not None:
            self._series -= len(node.series)

    def prune(self, *, now_s: float) -> None:
        """Drop nodes, edges and labels that nobody has reported for ``KEPT_S``; to be called now and then."""
        if now_s - self._pruned_s < PRUNED_S:
            return
        self._pruned_s, old = now_s, now_s - KEPT_S
        self._nodes = {name: node for name, node in self._nodes.items() if node.at_s >= old}
        self._series = sum(len(node.series) for node in self._nodes.values())
        self._totals = {edge: total for edge, total in self._totals.items() if total.seen_s >= old}
        self._labels = {
            text: labels
            for text, labels in self._labels.items()
            if labels.seen_s >= old
            and (labels.total is None or self._totals.get(labels.total.edge) is labels.total)
        }

    def traffic(self, *, now_s: float, window_s: float = WINDOW_S) -> list[Traffic]:
        """Return every edge, sorted; rates and percentiles are those of the last seconds, a slot more at most."""
        found: list[Traffic] = []
        for _, total in sorted(self._totals.items()):
            # Of an edge that nobody reports any more, the time without a word counts as well.
            until_s = now_s if now_s - total.seen_s > STALE_S else total.seen_s
            latest, covered_s = total.window.of(window_s, until_s=until_s, now_s=now_s)
            found.append(_summary(total, latest, covered_s))
        return found

    def ports(self, *, now_s: float) -> list[Port]:
        """Return the connection counters of every listener, sorted by node and listener; not of silent nodes."""
        heard = (node for node in self._nodes.values() if now_s - node.at_s <= STALE_S)
        return sorted(port for node in heard for port in node.ports.values())

    def ejected(self, node_id: str, *, now_s: float) -> list[Ejected]:
        """Return whom a node's sidecar has ejected, sorted; nobody if it is silent."""
        node = self._nodes.get(node_id)
        return sorted(node.ejected.values()) if node and now_s - node.at_s <= STALE_S else []

    def silences(self, node_id: str, *, now_s: float) -> dict[Heard, Silence]:
        """Return which counters say that services have lately not answered a node's sidecar."""
        node = self._nodes.get(node_id)
        found = node.silences if node else {}
        return {heard: one for heard, one in found.items() if one.last_s and now_s - one.last_s <= RECENT_S}

    def _read(self, text: bytes, pairs: list[bytes], workload: str, now_s: float) -> _Labels | None:
        """Return what new labels mean, None where no room is left."""
        if len(self._labels) >= MAX_LABEL_SETS:
            return None
        labels = otlp.read_labels(pairs)
        listener = labels.get(_LISTENER, "")
        edge = None if listener else _edge(labels, workload)
        total = self._total(edge, labels, now_s) if edge else None
        if edge and total is None:
            return None
        found = self._labels[text, workload] = _Labels(total, listener, _is_error(labels), now_s)
        return found

    def _total(self, edge: Edge, labels: Mapping[str, str], now_s: float) -> _Total | None:
        total = self._totals.get(edge)
        if total is None:
            if len(self._totals) >= MAX_EDGES:
                return None
            total = self._totals[edge] = _Total(edge, now_s)
        # Not part of the edge: a call that never reached its peer has not learnt who that is.
        total.source_identity = _known(labels, "source_principal") or total.source_identity
        total.destination_identity = _known(labels, "destination_principal") or total.destination_identity
        return total

    def _count(self, node: _Node, labels: _Labels, total: _Total, point: Point) -> None:
        key = (point.metric, labels)
        last = node.series.get(key)
        if last is None:
            if len(node.series) >= MAX_SERIES or self._series >= MAX_ALL_SERIES:
                self.dropped += 1
                return
            self._series += 1
        elif last == point.values:
            total.seen_s = node.at_s
            return
        node.series[key] = point.values
        more = _growth(last, point.values)
        counts = node.recent.get(total)
        if counts is None:
            counts = node.recent[total] = Counts()
        match point.metric:
            case otlp.DURATION:
                counts.observe(point.bounds, more)
            case otlp.REQUESTS:
                counts.requests += more[0]
                if labels.is_error:
                    counts.errors += more[0]
            case otlp.OPENED:
                counts.connections += more[0]
            case otlp.SENT:
                counts.sent_bytes += more[0]
            case _:
                counts.received_bytes += more[0]


def _count_port(node: _Node, empty: Port, point: Point) -> None:
    if empty.listener not in node.ports and len(node.ports) >= MAX_SERIES:
        return
    port = node.ports.get(empty.listener, empty)
    value = int(point.values[0])
    match point.metric:
        case otlp.ENCRYPTED:
            port = replace(port, tls=value)
        case otlp.ACTIVE:
            port = replace(port, active=value)
        case otlp.TAKEN:
            port = replace(port, connections=value)
        case _:
            return
    node.ports[empty.listener] = port


def _growth(last: Numbers | None, now: Numbers) -> Numbers:
    """Return how much a cumulative value grew; after a restart, or at first sight, all of it is growth."""
    if last is None or len(last) != len(now) or any(map(lt, now, last)):
        return now
    return tuple(map(sub, now, last))


def _edge(labels: Mapping[str, str], workload: str) -> Edge | None:
    """Return whose traffic this is, None where it is not the reporting workload's own.

    A destination names its caller ``workload.namespace`` in one label. A mesh may do without some labels
    (docs/metrics.md): who reports need not be told, and from which end only where both are there.
    """
    source, destination = _qualified(labels, "source_workload"), _qualified(labels, "destination_workload")
    own = {UNKNOWN, workload, workload.rpartition(".")[0]}
    reporter = _known(labels, "reporter") or ("source" if source in own - {UNKNOWN} else "destination")
    if (source if reporter == "source" else destination) not in own:
        return None
    if reporter == "source":
        source = workload
    else:
        destination = workload
    return Edge(
        source=source,
        destination=destination,
        service=_known(labels, "destination_service") or UNKNOWN,
        reporter=reporter,
        protocol=_known(labels, "request_protocol") or UNKNOWN,
        security=_known(labels, "connection_security_policy") or UNKNOWN,
    )


def _known(labels: Mapping[str, str], name: str) -> str:
    """Return what a label says, empty where it says that nobody knows."""
    text = labels.get(name, "")
    return "" if text in {_NOTHING, UNKNOWN} else text


def _qualified(labels: Mapping[str, str], name: str) -> str:
    workload, namespace = _known(labels, name), _known(labels, f"{name}_namespace")
    if not workload:
        return UNKNOWN
    return f"{workload}.{namespace}" if namespace else workload


def _is_error(labels: Mapping[str, str]) -> bool:
    """Tell whether the server or the way to it failed; a caller that hung up (DC) is no failure of theirs."""
    code = labels.get("response_code", "")
    if code == "0":
        return "DC" not in labels.get("response_flags", "").split(",")
    return code.startswith("5") or labels.get("grpc_response_status", "") in _GRPC_FAULTS


def _summary(total: _Total, latest: Counts, covered_s: float) -> Traffic:
    counts, bounds, buckets = total.counts, latest.bounds, latest.buckets
    return Traffic(
        edge=total.edge,
        requests=int(counts.requests),
        errors=int(counts.errors),
        connections=int(counts.connections),
        sent_bytes=int(counts.sent_bytes),
        received_bytes=int(counts.received_bytes),
        requests_per_s=latest.requests / covered_s,
        errors_per_s=latest.errors / covered_s,
        p50_ms=percentile(bounds, buckets, 0.50),
        p90_ms=percentile(bounds, buckets, 0.90),
        p95_ms=percentile(bounds, buckets, 0.95),
        p99_ms=percentile(bounds, buckets, 0.99),
        source_identity=total.source_identity,
        destination_identity=total.destination_identity,
        bounds=bounds,
        buckets=buckets,
    )
