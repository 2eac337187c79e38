"""Connection pools: how many connections and requests a client keeps open to a host, and for how long.

It owns Istio's ConnectionPoolSettings; it must never set a limit that the user did not, since
the defaults are the cluster's.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from xds.pb.envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.wrappers_pb2 import UInt32Value

    from xds.fields import Reader
    from xds.pb.envoy.config.cluster.v3 import circuit_breaker_pb2, cluster_pb2

SUPPORT: Final = (
    (
        "trafficPolicy.connectionPool.tcp.maxConnections",
        "circuit_breakers.max_connections",
        "default: no limit",
    ),
    ("trafficPolicy.connectionPool.tcp.connectTimeout", "connect_timeout", "at least 1ms; default 10s"),
    (
        "trafficPolicy.connectionPool.tcp.tcpKeepalive.probes, time, interval",
        "tcp_keepalive",
        "whole seconds",
    ),
    ("trafficPolicy.connectionPool.tcp.maxConnectionDuration", "max_connection_duration", "at least 1ms"),
    (
        "trafficPolicy.connectionPool.tcp.idleTimeout",
        "idle_timeout",
        "HTTP ports only, where http.idleTimeout is absent",
    ),
    (
        "trafficPolicy.connectionPool.http.http1MaxPendingRequests",
        "circuit_breakers.max_pending_requests",
        "",
    ),
    (
        "trafficPolicy.connectionPool.http.http2MaxRequests",
        "circuit_breakers.max_requests",
        "of any HTTP version",
    ),
    ("trafficPolicy.connectionPool.http.maxRequestsPerConnection", "max_requests_per_connection", ""),
    ("trafficPolicy.connectionPool.http.maxRetries", "circuit_breakers.max_retries", "in flight at once"),
    ("trafficPolicy.connectionPool.http.idleTimeout", "idle_timeout", "at least 1ms; default 5m"),
    (
        "trafficPolicy.connectionPool.http.h2UpgradePolicy",
        "explicit_http_config",
        "UPGRADE: HTTP/2 to plain HTTP ports",
    ),
    ("trafficPolicy.connectionPool.http.useClientProtocol", "use_downstream_protocol_config", ""),
    ("trafficPolicy.connectionPool.http.maxConcurrentStreams", "max_concurrent_streams", "1..2147483647"),
    (
        "trafficPolicy.connectionPool.http.http2KeepAlive",
        "",
        "left out: TCP keepalive finds dead connections",
    ),
)
"""Field, where it ends in Envoy, remark: the rows of docs/features.md."""

HTTP_OPTIONS: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
"""The key under which a cluster holds what it says about HTTP."""

UNLIMITED: Final = 2**32 - 1
"""Istio's default for every limit: a limit that nobody asked for turns load into errors."""

_INT32_MAX: Final = 2**31 - 1
"""Istio's limits are int32."""


class H2Upgrade(enum.Enum):
    """Whether requests to plain HTTP ports travel as HTTP/2."""

    DEFAULT = "DEFAULT"
    DO_NOT_UPGRADE = "DO_NOT_UPGRADE"
    UPGRADE = "UPGRADE"


@dataclass(frozen=True, slots=True)
class Keepalive:
    """TCP keepalive probes; 0 keeps the cluster's default."""

    probes: int = 0
    time_s: int = 0
    interval_s: int = 0


@dataclass(frozen=True, slots=True)
class ConnectionPool:
    """Limits and timeouts; 0 keeps the cluster's default."""

    max_connections: int = 0
    connect_timeout_ms: float = 0
    keepalive: Keepalive | None = None
    max_duration_ms: float = 0
    max_pending_requests: int = 0
    max_requests: int = 0
    max_requests_per_connection: int = 0
    max_retries: int = 0
    idle_timeout_ms: float = 0
    h2_upgrade: H2Upgrade = H2Upgrade.DEFAULT
    uses_client_protocol: bool = False
    max_concurrent_streams: int = 0

    def patch_cluster(self, cluster: cluster_pb2.Cluster) -> None:
        """Write the limits into a cluster that has its own defaults and HTTP options already."""
        self._patch_limits(cluster)
        if self.connect_timeout_ms:
            cluster.connect_timeout.FromMicroseconds(round(self.connect_timeout_ms * 1000))
        if self.keepalive is not None:
            _patch_keepalive(cluster, self.keepalive)
        # A TCP cluster has no HTTP options, and these settings no meaning for it.
        if HTTP_OPTIONS in cluster.typed_extension_protocol_options:
            options = HttpProtocolOptions()
            packed = cluster.typed_extension_protocol_options[HTTP_OPTIONS]
            packed.Unpack(options)
            self._patch_http(options)
            packed.Pack(options, deterministic=True)

    def _patch_limits(self, cluster: cluster_pb2.Cluster) -> None:
        thresholds = cluster.circuit_breakers.thresholds
        limits = thresholds[0] if thresholds else thresholds.add()
        asked = (self.max_connections, self.max_pending_requests, self.max_requests, self.max_retries)
        for field, limit in zip(_fields(limits), asked, strict=True):
            # Envoy's own defaults (1,024; 3 retries) must not come in with the first limit that is set.
            field.value = limit or field.value or UNLIMITED

    def _patch_http(self, options: HttpProtocolOptions) -> None:
        if self.max_requests_per_connection:
            options.common_http_protocol_options.max_requests_per_connection.value = (
                self.max_requests_per_connection
            )
        if self.idle_timeout_ms:
            options.common_http_protocol_options.idle_timeout.FromMicroseconds(
                round(self.idle_timeout_ms * 1000)
            )
        if self.max_duration_ms:
            duration = options.common_http_protocol_options.max_connection_duration
            duration.FromMicroseconds(round(self.max_duration_ms * 1000))
        if self.uses_client_protocol:
            options.use_downstream_protocol_config.http_protocol_options.SetInParent()
            options.use_downstream_protocol_config.http2_protocol_options.SetInParent()
        elif self.h2_upgrade is H2Upgrade.UPGRADE:
            options.explicit_http_config.http2_protocol_options.SetInParent()
        if self.max_concurrent_streams:
            _patch_streams(options, self.max_concurrent_streams)


def read(parent: Reader) -> ConnectionPool | None:
    """Return the connection pool of a traffic policy, None where there is none."""
    reader = parent.object("connectionPool")
    if reader is None:
        return None
    tcp = reader.object("tcp")
    http = reader.object("http")
    reader.done()
    if tcp is None and http is None:
        raise parent.fail("connectionPool", "must have tcp or http")
    return _read_http(http, _read_tcp(tcp))


def _read_tcp(reader: Reader | None) -> ConnectionPool:
    if reader is None:
        return ConnectionPool()
    pool = ConnectionPool(
        max_connections=_limit(reader, "maxConnections"),
        connect_timeout_ms=reader.duration_ms("connectTimeout", low_ms=1) or 0,
        keepalive=_read_keepalive(reader),
        max_duration_ms=reader.duration_ms("maxConnectionDuration", low_ms=1) or 0,
        idle_timeout_ms=reader.duration_ms("idleTimeout", low_ms=1) or 0,
    )
    if pool.idle_timeout_ms:
        reader.warn(
            "idleTimeout",
            "holds for HTTP ports only: TCP connections stay until one of their ends closes them",
        )
    reader.done()
    return pool


def _read_http(reader: Reader | None, tcp: ConnectionPool) -> ConnectionPool:
    if reader is None:
        return tcp
    pool = ConnectionPool(
        max_connections=tcp.max_connections,
        connect_timeout_ms=tcp.connect_timeout_ms,
        keepalive=tcp.keepalive,
        max_duration_ms=tcp.max_duration_ms,
        max_pending_requests=_limit(reader, "http1MaxPendingRequests"),
        max_requests=_limit(reader, "http2MaxRequests"),
        max_requests_per_connection=_limit(reader, "maxRequestsPerConnection"),
        max_retries=_limit(reader, "maxRetries"),
        idle_timeout_ms=reader.duration_ms("idleTimeout", low_ms=1) or tcp.idle_timeout_ms,
        h2_upgrade=reader.choice("h2UpgradePolicy", H2Upgrade, H2Upgrade.DEFAULT),
        uses_client_protocol=reader.boolean("useClientProtocol"),
        max_concurrent_streams=_limit(reader, "maxConcurrentStreams"),
    )
    reader.leave("http2KeepAlive", "a connection that is dead is noticed by TCP keepalive only")
    reader.done()
    if pool.uses_client_protocol and pool.h2_upgrade is H2Upgrade.UPGRADE:
        raise reader.fail("useClientProtocol", "excludes h2UpgradePolicy UPGRADE; keep one of them")
    return pool


def _read_keepalive(parent: Reader) -> Keepalive | None:
    reader = parent.object("tcpKeepalive")
    if reader is None:
        return None
    keepalive = Keepalive(
        probes=reader.integer("probes", 0, low=0, high=UNLIMITED),
        time_s=_seconds(reader, "time"),
        interval_s=_seconds(reader, "interval"),
    )
    reader.done()
    return keepalive


def _seconds(reader: Reader, name: str) -> int:
    """Return whole seconds, at least one: the kernel knows no less."""
    duration_ms = reader.duration_ms(name, low_ms=1000)
    return 0 if duration_ms is None else round(duration_ms / 1000)


def _limit(reader: Reader, name: str) -> int:
    return reader.integer(name, 0, low=0, high=_INT32_MAX)


def _fields(limits: circuit_breaker_pb2.CircuitBreakers.Thresholds) -> Iterator[UInt32Value]:
    yield limits.max_connections
    yield limits.max_pending_requests
    yield limits.max_requests
    yield limits.max_retries


def _patch_keepalive(cluster: cluster_pb2.Cluster, keepalive: Keepalive) -> None:
    tcp = cluster.upstream_connection_options.tcp_keepalive
    tcp.SetInParent()
    if keepalive.probes:
        tcp.keepalive_probes.value = keepalive.probes
    if keepalive.time_s:
        tcp.keepalive_time.value = keepalive.time_s
    if keepalive.interval_s:
        tcp.keepalive_interval.value = keepalive.interval_s


def _patch_streams(options: HttpProtocolOptions, streams: int) -> None:
    """Limit the requests at once on one HTTP/2 connection, where the cluster speaks HTTP/2 at all."""
    explicit = options.explicit_http_config
    received = options.use_downstream_protocol_config
    if explicit.HasField("http2_protocol_options"):
        explicit.http2_protocol_options.max_concurrent_streams.value = streams
    if received.HasField("http2_protocol_options"):
        received.http2_protocol_options.max_concurrent_streams.value = streams
