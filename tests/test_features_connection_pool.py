"""Limits, lifetimes and protocol of the connections to one cluster."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.fakes.reading import cluster, notes, present, reader, refusal
from xds.features import connection_pool, load_balancer, outlier
from xds.fields import Reader
from xds.pb.envoy.config.cluster.v3.cluster_pb2 import Cluster
from xds.pb.envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions


def http_options(message: Cluster) -> HttpProtocolOptions:
    """Return what a cluster says about HTTP."""
    options = HttpProtocolOptions()
    message.typed_extension_protocol_options[connection_pool.HTTP_OPTIONS].Unpack(options)
    return options


def pooled(text: str, *, http: HttpProtocolOptions | None = None) -> Cluster:
    """Return a cluster with this connection pool."""
    message = cluster()
    if http is not None:
        message.typed_extension_protocol_options[connection_pool.HTTP_OPTIONS].Pack(http)
    present(connection_pool.read(reader(f"connectionPool: {text}"))).patch_cluster(message)
    return message


def as_received() -> HttpProtocolOptions:
    """Return the HTTP options of a plain HTTP cluster."""
    options = HttpProtocolOptions()
    options.use_downstream_protocol_config.http_protocol_options.SetInParent()
    options.use_downstream_protocol_config.http2_protocol_options.SetInParent()
    return options


def test_limits() -> None:
    """All four limits are the circuit breaker's."""
    text = (
        "{tcp: {maxConnections: 1}, http: {http1MaxPendingRequests: 2, http2MaxRequests: 3, maxRetries: 4}}"
    )
    limits = pooled(text).circuit_breakers.thresholds[0]

    assert [
        limits.max_connections.value,
        limits.max_pending_requests.value,
        limits.max_requests.value,
        limits.max_retries.value,
    ] == [1, 2, 3, 4]


def test_limits_that_are_not_set_do_not_become_envoys() -> None:
    """One limit must not bring in Envoy's other three, such as 3 retries at once."""
    limits = pooled("{tcp: {maxConnections: 1}}").circuit_breakers.thresholds[0]

    assert limits.max_retries.value == 2**32 - 1


def test_limits_of_the_cluster_are_kept() -> None:
    """A cluster's own limits stay where the user sets none, and no second threshold is added."""
    message = cluster()
    message.circuit_breakers.thresholds.add().max_requests.value = 7
    present(connection_pool.read(reader("connectionPool: {tcp: {maxConnections: 1}}"))).patch_cluster(message)

    assert [t.max_requests.value for t in message.circuit_breakers.thresholds] == [7]


def test_connect_timeout() -> None:
    """How long a connection may take to open."""
    assert pooled("{tcp: {connectTimeout: 30ms}}").connect_timeout.ToMilliseconds() == 30


def test_tcp_keepalive() -> None:
    """Probes, and seconds until and between them; what is not given stays the cluster's."""
    keepalive = pooled(
        "{tcp: {tcpKeepalive: {time: 7200s, probes: 3}}}"
    ).upstream_connection_options.tcp_keepalive

    assert (keepalive.keepalive_time.value, keepalive.keepalive_probes.value) == (7200, 3)
    assert not keepalive.HasField("keepalive_interval")


def test_http_lifetimes() -> None:
    """How long, and for how many requests, an HTTP connection is kept."""
    text = "{tcp: {maxConnectionDuration: 1h}, http: {idleTimeout: 30s, maxRequestsPerConnection: 9}}"
    common = http_options(pooled(text, http=as_received())).common_http_protocol_options

    assert (common.max_connection_duration.seconds, common.idle_timeout.seconds) == (3600, 30)
    assert common.max_requests_per_connection.value == 9


def test_http_options_keep_what_the_cluster_says() -> None:
    """The version that a cluster speaks is not changed by a timeout."""
    options = http_options(pooled("{http: {idleTimeout: 30s}}", http=as_received()))

    assert options.HasField("use_downstream_protocol_config")


def test_upgrade_to_http2() -> None:
    """h2UpgradePolicy UPGRADE speaks HTTP/2 to a plain HTTP port."""
    options = http_options(pooled("{http: {h2UpgradePolicy: UPGRADE}}", http=as_received()))

    assert options.explicit_http_config.HasField("http2_protocol_options")


def test_client_protocol() -> None:
    """With useClientProtocol the cluster speaks what the client spoke."""
    options = http_options(pooled("{http: {useClientProtocol: true}}", http=HttpProtocolOptions()))

    assert options.HasField("use_downstream_protocol_config")


def test_concurrent_streams() -> None:
    """Requests at once on one HTTP/2 connection are limited where HTTP/2 is spoken."""
    options = http_options(pooled("{http: {maxConcurrentStreams: 5}}", http=as_received()))

    assert options.use_downstream_protocol_config.http2_protocol_options.max_concurrent_streams.value == 5


def test_http_settings_do_nothing_to_a_tcp_cluster() -> None:
    """A cluster without HTTP options does not get any."""
    assert not pooled("{http: {idleTimeout: 30s}}").typed_extension_protocol_options


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("{tcp: {idleTimeout: 7s}}", 7), ("{tcp: {idleTimeout: 7s}, http: {idleTimeout: 3s}}", 3)],
)
def test_idle_timeout_of_tcp_stands_in_for_that_of_http(text: str, seconds: int) -> None:
    """For HTTP ports it is what http does not say; for TCP ports it does nothing yet, and that is told."""
    options = http_options(pooled(text, http=as_received()))
    said = notes(connection_pool.read, f"connectionPool: {text}")

    assert options.common_http_protocol_options.idle_timeout.seconds == seconds
    assert said[0].startswith("warning: x.connectionPool.tcp.idleTimeout: holds for HTTP ports only")


@pytest.mark.parametrize(
    ("read", "text", "field"),
    [
        (
            connection_pool.read,
            "connectionPool: {http: {http2KeepAlive: {timeout: 1s}}}",
            "connectionPool.http.http2KeepAlive",
        ),
        (
            outlier.read,
            "outlierDetection: {outlierDetectionHttpErrorCodes: [429]}",
            "outlierDetection.outlierDetectionHttpErrorCodes",
        ),
        (
            load_balancer.read,
            "loadBalancer: {zoneAwareLbSetting: {enabled: true}}",
            "loadBalancer.zoneAwareLbSetting",
        ),
    ],
)
def test_new_fields_of_istio_are_left_out_and_told(
    read: Callable[[Reader], object], text: str, field: str
) -> None:
    """What cannot misroute is a warning, and no error."""
    assert notes(read, text)[0].startswith(f"warning: x.{field}: is not supported yet and was left out")


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("{}", "x.connectionPool: must have tcp or http"),
        ("{tcp: {maxConnections: -1}}", "x.connectionPool.tcp.maxConnections: must be 0.."),
        ("{tcp: {connectTimeout: 0s}}", "x.connectionPool.tcp.connectTimeout: must be at least 1ms"),
        (
            "{tcp: {tcpKeepalive: {time: 10ms}}}",
            "x.connectionPool.tcp.tcpKeepalive.time: must be at least 1000ms",
        ),
        (
            "{http: {http2MaxRequests: 2147483648}}",
            "x.connectionPool.http.http2MaxRequests: must be 0..2147483647",
        ),
        ("{http: {h2UpgradePolicy: MAYBE}}", "x.connectionPool.http.h2UpgradePolicy: must be one of DEFAULT"),
        (
            "{http: {useClientProtocol: true, h2UpgradePolicy: UPGRADE}}",
            "x.connectionPool.http.useClientProtocol: excludes",
        ),
        ("{http: {maxRequest: 1}}", "x.connectionPool.http.maxRequest: unknown field"),
    ],
)
def test_refused_pool(text: str, start: str) -> None:
    """Limits below zero, timeouts of nothing and two protocols at once are refused."""
    assert refusal(connection_pool.read, f"connectionPool: {text}").startswith(start)
