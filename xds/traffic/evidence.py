"""Sampled requests as sidecars saw them, kept as they came until somebody asks.

It owns the bound on what is kept and the reading of the records; it must never read a byte before it is asked, because
most evidence is never looked at, and never believe a record about whose it is.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from google.protobuf.message import DecodeError

from xds.pb.opentelemetry.proto.collector.logs.v1 import logs_service_pb2
from xds.traffic.sightings import Sighting

MAX_BYTES: Final = 32 * 1024 * 1024
"""Kept at once: some 50,000 requests of 600 bytes. What is older makes room."""

MAX_NODE_BYTES: Final = 4 * 1024 * 1024
"""Kept of one node, so that one of them cannot push out what the others saw."""

MAX_TEXT: Final = 512
"""Longest text of a field; a SPIFFE ID of Kubernetes names is the longest that is ours."""


class _Export(NamedTuple):
    node: str
    workload: str
    body: bytes


class Evidence:
    """A ring of exports, bounded in bytes."""

    def __init__(self) -> None:
        self._exports: deque[_Export] = deque()
        self._by_node: Counter[str] = Counter()
        self._bytes = 0
        self.dropped = 0
        """Exports of nodes that sent more than their share: their own oldest made room."""

    def counters(self) -> Mapping[str, int]:
        """Return what was not kept."""
        return {"evidence_exports_dropped": self.dropped}

    @property
    def size_bytes(self) -> int:
        """Return how much is kept."""
        return self._bytes

    def receive(self, node: str, export: bytes, *, workload: str) -> None:
        """Take one serialised ExportLogsServiceRequest of an authenticated node of ``NAME.NAMESPACE``."""
        if self._by_node[node] + len(export) > MAX_NODE_BYTES:
            self._thin(node)
        self._exports.append(_Export(node, workload, export))
        self._count(node, len(export))
        while self._bytes > MAX_BYTES:
            oldest = self._exports.popleft()
            self._count(oldest.node, -len(oldest.body))

    def sightings(self, limit: int) -> list[Sighting]:
        """Return the newest requests, at most so many, oldest first; what cannot be read is left out."""
        newest: list[Sighting] = []
        for export in reversed(self._exports):
            newest.extend(reversed(list(_read(export))))
            if len(newest) >= limit:
                break
        return newest[:limit][::-1]

    def _thin(self, node: str) -> None:
        """Drop the older half of what is kept of a node: rarely, because it walks over everything."""
        kept: deque[_Export] = deque()
        for export in self._exports:
            if export.node == node and self._by_node[node] > MAX_NODE_BYTES // 2:
                self._count(node, -len(export.body))
                self.dropped += 1
            else:
                kept.append(export)
        self._exports = kept

    def _count(self, node: str, size: int) -> None:
        self._bytes += size
        self._by_node[node] += size
        if not self._by_node[node]:
            del self._by_node[node]


def _read(export: _Export) -> Iterator[Sighting]:
    try:
        request = logs_service_pb2.ExportLogsServiceRequest.FromString(export.body)
    except DecodeError:
        return
    for resource in request.resource_logs:
        # Field 2 is "scope_logs" today; the pinned API still has its first name.
        for scope in resource.instrumentation_library_logs:
            for record in scope.logs:
                found = {pair.key: pair.value.string_value[:MAX_TEXT] for pair in record.attributes}
                yield _sighting(export, {key: "" if text == "-" else text for key, text in found.items()})


def _sighting(export: _Export, found: Mapping[str, str]) -> Sighting:
    """Return what a record says; of the two ends, the reporter's own is who was authenticated."""
    text = found.get
    reporter = text("reporter", "")
    is_source = reporter == "source"
    destination = ".".join(filter(None, (text("destination_workload"), text("destination_namespace"))))
    return Sighting(
        node=export.node,
        reporter=reporter,
        source=export.workload if is_source else text("source_workload", ""),
        destination=destination if is_source else export.workload,
        service=text("destination_service", ""),
        route=text("route", ""),
        method=text("method", ""),
        request_id=text("request_id", ""),
        trace_id=text("trace_id", ""),
        parent=text("parent", ""),
        arrived=text("arrived", "") == "true",
        code=_number(text("code", "")),
        flags=text("flags", ""),
        attempts=_number(text("attempts", "")),
        started=text("started", ""),
        duration_ms=_number(text("duration", "")),
    )


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else 0
