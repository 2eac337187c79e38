"""What the sidecars' reports cost the control plane: 100 proxies, each with ten edges of 10 requests a second.

It owns the reports, which have the form of Envoy's; it must never count what the client spends on making them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Final

import grpc

from benchmarks import worlds
from benchmarks.figures import ROUNDS, Result
from benchmarks.fleet import Proa, laboratory
from xds import settings
from xds.pb.opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2
from xds.pb.opentelemetry.proto.common.v1 import common_pb2
from xds.state import StateDirectory
from xds.traffic.otlp import DURATION, REQUESTS

EDGES: Final = 10
RPS: Final = 10
EVERY_S: Final = 5
"""Envoy's default interval of pushes."""

OUTCOMES: Final = {"200": 45, "503": 5}
"""How many of an edge's 50 requests of one interval end how."""

SHARE_MAX_PERCENT: Final = 5

_EXPORT: Final = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export"
_BOUNDS: Final = (
    0.5, 1, 5, 10, 25, 50, 100, 250, 500, 1e3, 2.5e3, 5e3, 1e4, 3e4, 6e4, 3e5, 6e5, 1.8e6, 3.6e6,
)  # fmt: skip


def run(result: Result) -> None:
    """Measure the server's CPU for whole rounds of reports, over TLS with tokens."""
    proxies, pushes = (4, 2) if result.is_quick else (100, 10)
    with laboratory() as lab, ExitStack() as channels:
        server = lab.proa("telemetry", [worlds.namespace(), *worlds.pods(proxies)], is_insecure=False)
        senders = [channels.enter_context(closing(_Sender(server, number))) for number in range(proxies)]
        before = server.rss_mib()
        shares = list(_rounds(server, senders, pushes))
        what = f"{proxies} proxies × {EDGES} edges × {RPS} rps, a report each {EVERY_S} s"
        result.add(f"{what}: CPU, share of a core", shares, "%", target=SHARE_MAX_PERCENT)
        result.add(f"{what}: RSS of the server more by", server.rss_mib() - before, "MiB")
        result.add(f"{what}: size of a report", len(report(0, 1)) / 1024, "KiB")


def report(number: int, push: int) -> bytes:
    """Return the report of one proxy: its edges, each with two outcomes, as they stand after so many pushes."""
    request = metrics_service_pb2.ExportMetricsServiceRequest()
    metrics = request.resource_metrics.add().instrumentation_library_metrics.add().metrics
    counters, histograms = metrics.add(name=REQUESTS), metrics.add(name=DURATION)
    for edge in range(EDGES):
        for code, each in OUTCOMES.items():
            labels = _labels(f"s{(number + edge) % 200}", code)
            counters.sum.data_points.add(as_int=each * push, attributes=labels)
            buckets = [0] * (len(_BOUNDS) + 1)
            buckets[2] = buckets[3] = each * push
            histograms.histogram.data_points.add(
                count=2 * each * push, explicit_bounds=_BOUNDS, bucket_counts=buckets, attributes=labels
            )
    return request.SerializeToString()


def _labels(service: str, code: str) -> list[bytes]:
    """Return what Envoy writes under the labels of resources.telemetry."""
    labels = {
        "reporter": "source",
        "source_workload": "web",
        "source_workload_namespace": worlds.NAMESPACE,
        "source_app": "web",
        "source_version": "v1",
        "source_principal": f"spiffe://{settings.TRUST_DOMAIN}/ns/{worlds.NAMESPACE}/sa/default",
        "destination_workload": service,
        "destination_workload_namespace": worlds.NAMESPACE,
        "destination_principal": f"spiffe://{settings.TRUST_DOMAIN}/ns/{worlds.NAMESPACE}/sa/{service}",
        "destination_app": service,
        "destination_version": "v1",
        "destination_service": f"{service}.{worlds.NAMESPACE}.svc.cluster.local",
        "request_protocol": "http",
        "connection_security_policy": "unknown",
        "response_code": code,
        "response_flags": "-",
        "grpc_response_status": "-",
    }
    pairs = [common_pb2.KeyValue(key=key, value={"string_value": text}) for key, text in labels.items()]
    return [pair.SerializeToString() for pair in pairs]


class _Sender:
    """One proxy's connection; each report is authenticated by its own token, as a sidecar's is."""

    def __init__(self, server: Proa, number: int) -> None:
        assert server.root is not None
        assert server.state is not None
        self.number = number
        token = (
            StateDirectory.open(server.state)
            .token_key()
            .issue(
                namespace=worlds.NAMESPACE,
                pod=f"p{number}",
                service_account="default",
                trust_domain=settings.TRUST_DOMAIN,
                now=time.time(),
                octets=os.urandom,
            )
        )
        options = [("grpc.ssl_target_name_override", settings.CHANNEL_SERVER_NAME)]
        credentials = grpc.ssl_channel_credentials(server.root)
        self._channel = grpc.secure_channel(server.address, credentials, options)
        self._export: Callable[..., bytes] = self._channel.unary_unary(  # pyright: ignore[reportUnknownMemberType]
            _EXPORT, None, None
        )
        self._metadata = (("authorization", f"Bearer {token}"),)

    def send(self, body: bytes) -> None:
        """Send one report and wait until it was taken."""
        self._export(body, metadata=self._metadata, timeout=30)

    def close(self) -> None:
        """End the connection."""
        self._channel.close()


def _rounds(server: Proa, senders: list[_Sender], pushes: int) -> Iterator[float]:
    """Yield the percentage of a core that each round takes; the first report of each proxy counts for none."""
    done = 1
    for sender in senders:
        sender.send(report(sender.number, done))
    for _ in range(ROUNDS):
        before = server.cpu_s()
        for _ in range(pushes):
            done += 1
            for sender in senders:
                sender.send(report(sender.number, done))
        yield (server.cpu_s() - before) / (pushes * EVERY_S) * 100
