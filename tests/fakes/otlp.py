"""A collector that only remembers: spans and log records over OTLP, by gRPC.

It owns the process and what it was sent; it must never judge that.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import grpc
import grpc.aio

from xds.demo.mesh import free_port, is_taken
from xds.demo.processes import wait_until
from xds.pb.opentelemetry.proto.collector.logs.v1 import logs_service_pb2
from xds.pb.opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2
from xds.pb.opentelemetry.proto.collector.trace.v1 import trace_service_pb2
from xds.pb.opentelemetry.proto.common.v1 import common_pb2
from xds.pb.opentelemetry.proto.trace.v1 import trace_pb2

ROOT = Path(__file__).parents[2]
TRACES = "opentelemetry.proto.collector.trace.v1.TraceService"
# The stubs leave the types of a request and its answer open.
_unary = cast("Callable[[object], Any]", grpc.unary_unary_rpc_method_handler)  # pyright: ignore[reportUnknownMemberType]
_service = cast("Callable[[str, dict[str, Any]], Any]", grpc.method_handlers_generic_handler)  # pyright: ignore[reportUnknownMemberType]

_KINDS = {trace_pb2.Span.SPAN_KIND_SERVER: "SERVER", trace_pb2.Span.SPAN_KIND_CLIENT: "CLIENT"}
METRICS = "opentelemetry.proto.collector.metrics.v1.MetricsService"
LOGS = "opentelemetry.proto.collector.logs.v1.LogsService"


@dataclass(frozen=True, slots=True)
class Span:
    """One span; ``kind`` is CLIENT or SERVER, ids are hexadecimal."""

    trace: str
    id: str
    parent: str
    service: str
    name: str
    kind: str
    tags: dict[str, str]


@dataclass(frozen=True, slots=True)
class Sink:
    """A running collector, and the file in which it keeps what has come."""

    port: int
    file: Path

    @property
    def spans(self) -> list[Span]:
        """All spans."""
        return [Span(**line["span"]) for line in self._lines() if "span" in line]

    @property
    def logs(self) -> list[dict[str, str]]:
        """The attributes of all log records, with the text as ``body``."""
        return [line["log"] for line in self._lines() if "log" in line]

    @property
    def counters(self) -> list[tuple[str, dict[str, str], int]]:
        """The last value of each counter, as name, labels and value."""
        found = {json.dumps(line["metric"]): line["value"] for line in self._lines() if "metric" in line}
        return [(*json.loads(key), value) for key, value in found.items()]

    def _lines(self) -> list[dict[str, Any]]:
        text = self.file.read_text(encoding="utf-8") if self.file.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


@contextmanager
def sink(directory: Path, *, identity: tuple[bytes, bytes] | None = None) -> Generator[Sink]:
    """Run a collector on a free port; a process of its own, because gRPC's threads do not survive a fork.

    ``identity`` is a certificate chain and its key as PEM: it then takes TLS alone.
    """
    found = Sink(free_port(), directory / "otlp.jsonl")
    argv = [sys.executable, "-m", "tests.fakes.otlp", f"127.0.0.1:{found.port}", str(found.file)]
    for number, part in enumerate(identity or ()):
        file = directory / f"otlp-{number}.pem"
        file.write_bytes(part)
        argv.append(str(file))
    with subprocess.Popen(argv, cwd=ROOT) as process:
        try:
            wait_until("the collector listens", lambda: is_taken("127.0.0.1", found.port), timeout_s=60)
            yield found
        finally:
            process.kill()


async def serve(address: str, file: Path, *identity: Path) -> None:
    """Take exports until the process is killed; ``identity`` are the files of a certificate chain and its key."""
    server = grpc.aio.server()  # pyright: ignore[reportUnknownMemberType]
    with file.open("a", encoding="utf-8", buffering=1) as out:

        async def take(body: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
            del context
            for line in _spans(body):
                out.write(json.dumps({"span": asdict(line)}) + "\n")
            return b""  # the answer of both services, without a complaint

        async def take_logs(body: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
            del context
            for line in _records(body):
                out.write(json.dumps({"log": line}) + "\n")
            return b""

        async def take_metrics(body: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
            del context
            for name, labels, value in _counters(body):
                out.write(json.dumps({"metric": [name, labels], "value": value}) + "\n")
            return b""

        for service, method in ((TRACES, take), (LOGS, take_logs), (METRICS, take_metrics)):
            server.add_generic_rpc_handlers((_service(service, {"Export": _unary(method)}),))  # pyright: ignore[reportUnknownMemberType]
        if identity:
            chain, key = (part.read_bytes() for part in identity)
            server.add_secure_port(address, grpc.ssl_server_credentials([(key, chain)]))
        else:
            server.add_insecure_port(address)
        await server.start()
        await server.wait_for_termination()


def _spans(body: bytes) -> Iterator[Span]:
    request = trace_service_pb2.ExportTraceServiceRequest.FromString(body)
    for resource in request.resource_spans:
        service = _texts(resource.resource.attributes).get("service.name", "")
        # Field 2 is "scope_spans" today; the pinned API still has its first name.
        for found in (span for scope in resource.instrumentation_library_spans for span in scope.spans):
            ids = (found.trace_id.hex(), found.span_id.hex(), found.parent_span_id.hex())
            yield Span(*ids, service, found.name, _KINDS.get(found.kind, ""), _texts(found.attributes))


def _records(body: bytes) -> Iterator[dict[str, str]]:
    request = logs_service_pb2.ExportLogsServiceRequest.FromString(body)
    for scope in (scope for found in request.resource_logs for scope in found.instrumentation_library_logs):
        for found in scope.logs:
            yield {**_texts(found.attributes), "body": found.body.string_value}


def _counters(body: bytes) -> Iterator[tuple[str, dict[str, str], int]]:
    request = metrics_service_pb2.ExportMetricsServiceRequest.FromString(body)
    for resource in request.resource_metrics:
        who = _texts(resource.resource.attributes)
        for scope in resource.instrumentation_library_metrics:
            for metric in scope.metrics:
                for point in metric.sum.data_points:
                    # Our copy of the API leaves a point's labels as bytes: the server reads few of them.
                    labels = _texts(map(common_pb2.KeyValue.FromString, point.attributes))
                    yield metric.name, {**who, **labels}, point.as_int


def _texts(attributes: Iterable[common_pb2.KeyValue]) -> dict[str, str]:
    return {pair.key: _text(pair.value) for pair in attributes}


def _text(value: common_pb2.AnyValue) -> str:
    match value.WhichOneof("value"):
        case "string_value":
            return value.string_value
        case "int_value":
            return str(value.int_value)
        case "bool_value":
            return str(value.bool_value)
        case _:
            return ""


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], *map(Path, sys.argv[2:])))
