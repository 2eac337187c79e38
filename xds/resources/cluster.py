"""One IR cluster in, one Envoy cluster out: where endpoints come from, how they are chosen and trusted.

It owns the defaults that a service without any DestinationRule gets, which are Istio's; it must never decide
which clusters exist.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from google.protobuf import struct_pb2, wrappers_pb2

from xds.api.core import Protocol
from xds.features.connection_pool import HTTP_OPTIONS, UNLIMITED
from xds.ir import AutoMtls, Cluster, Discovery, InboundCluster, Mtls, OriginateTls, Plaintext
from xds.pb.envoy.config.cluster.v3 import cluster_pb2
from xds.pb.envoy.config.core.v3 import address_pb2
from xds.pb.envoy.config.endpoint.v3 import endpoint_components_pb2, endpoint_pb2
from xds.pb.envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from xds.pb.envoy.type.v3 import percent_pb2
from xds.redirect import TO_APPLICATION
from xds.resources import tls
from xds.resources.endpoint import MTLS_MATCH
from xds.resources.parts import ads, pack, serialise, socket_address, stat_name
from xds.resources.telemetry import spoken

METADATA: Final = "proa"
"""Namespace of our metadata on clusters and endpoints, which access loggers read."""

TLS_MATCH: Final = ("tls", "mesh")
"""The pair in an endpoint's ``envoy.transport_socket_match`` metadata that asks for mutual TLS."""

_CONNECT_TIMEOUT: Final = timedelta(seconds=10)
"""Istio's default (MeshConfig ``connectTimeout``)."""

_OUTBOUND_IDLE: Final = timedelta(minutes=5)
"""A connection between sidecars costs a handshake, so it is kept; an hour (Envoy's) is too long.
Shorter than the hour that the other side waits, so that the side that sends is the one that closes."""

_INBOUND_IDLE: Final = timedelta(seconds=30)
"""A loopback connection costs next to nothing. Below the idle timeouts that Go servers get (60 to 120 s), so
that no request meets a connection that the server is closing."""

_KEEPALIVE_TIME_S: Final = 30
_KEEPALIVE_INTERVAL_S: Final = 5
_KEEPALIVE_PROBES: Final = 3
"""An idle connection to a node that vanished is noticed after 45 s, not after the kernel's
two hours. TCP's, because gRPC servers punish HTTP/2 pings that come more often than every five minutes."""

_SOL_SOCKET: Final = 1
_SO_PRIORITY: Final = 12
"""Linux' numbers (asm-generic/socket.h)."""

_DNS_REFRESH: Final = timedelta(seconds=60)
"""Istio's (MeshConfig ``dnsRefreshRate``), where the answer carries no TTL."""

_Cluster = cluster_pb2.Cluster

_TYPES: Final = {
    Discovery.EDS: _Cluster.EDS,
    Discovery.STATIC: _Cluster.STATIC,
    Discovery.STRICT_DNS: _Cluster.STRICT_DNS,
    Discovery.LOGICAL_DNS: _Cluster.LOGICAL_DNS,
    Discovery.ORIGINAL_DST: _Cluster.ORIGINAL_DST,
}
"""Where endpoints come from, in Envoy's words."""

_Options = http_protocol_options_pb2.HttpProtocolOptions


def build(node: Cluster) -> bytes:
    """Return the Envoy cluster of one service port or subset, as clients see it."""
    cluster = _skeleton(node.name)
    cluster.lb_policy = _Cluster.LEAST_REQUEST
    cluster.upstream_connection_options.tcp_keepalive.CopyFrom(_keepalive())
    cluster.metadata.filter_metadata[METADATA].CopyFrom(_labels(node))
    _discover(cluster, node)
    _secure(cluster, node)
    if node.protocol.is_http:
        cluster.typed_extension_protocol_options[HTTP_OPTIONS].CopyFrom(pack(_outbound_options(node)))
    for feature in node.features:
        feature.patch_cluster(cluster)
    if node.discovery is Discovery.ORIGINAL_DST:
        # There is one endpoint for each connection, so nothing to choose from: Envoy insists on saying so.
        cluster.lb_policy = _Cluster.CLUSTER_PROVIDED
        cluster.ClearField("lb_config")
    return serialise(cluster)


def build_inbound(node: InboundCluster) -> bytes:
    """Return the Envoy cluster of the application behind one of the workload's own ports.

    A request arrives at the application in the HTTP version in which it was sent, whatever the port declares:
    a plain ``net/http`` server and a gRPC server both work, and so does the HTTP probe of a TCP port.
    """
    cluster = _skeleton(node.name)
    if node.concurrency:
        cluster.circuit_breakers.thresholds[0].max_requests.value = node.concurrency
    if node.address:
        cluster.type = _Cluster.STATIC
        cluster.load_assignment.CopyFrom(_one_endpoint(node.name, node.address, node.port))
    else:
        _to_original_destination(cluster)
    options = _as_received()
    options.common_http_protocol_options.idle_timeout.FromTimedelta(_INBOUND_IDLE)
    cluster.typed_extension_protocol_options[HTTP_OPTIONS].CopyFrom(pack(options))
    return serialise(cluster)


def _to_original_destination(cluster: _Cluster) -> None:
    """Go on to where the connection was going, marked so that the Pod's rules do not redirect it back to us.

    The mark is the socket's priority, which needs no capability (0 to 6, socket(7)) and no address of its own, and
    which never leaves the machine; Istio binds 127.0.0.6 and ::6, and must add the latter to the Pod's loopback.
    """
    cluster.type = _Cluster.ORIGINAL_DST
    cluster.lb_policy = _Cluster.CLUSTER_PROVIDED
    # By default an address is forgotten, with its idle connections, 5 s after the last one was opened.
    cluster.cleanup_interval.FromTimedelta(2 * _INBOUND_IDLE)
    cluster.upstream_bind_config.socket_options.add(
        description="to the application", level=_SOL_SOCKET, name=_SO_PRIORITY, int_value=TO_APPLICATION
    )


def _skeleton(name: str) -> _Cluster:
    cluster = _Cluster(name=name, alt_stat_name=stat_name(name), connect_timeout=_CONNECT_TIMEOUT)
    limit = wrappers_pb2.UInt32Value(value=UNLIMITED)
    cluster.circuit_breakers.thresholds.add(
        max_connections=limit, max_pending_requests=limit, max_requests=limit, max_retries=limit
    )
    # Below half of the hosts healthy, Envoy would by default send to the sick ones too.
    cluster.common_lb_config.healthy_panic_threshold.CopyFrom(percent_pb2.Percent(value=0))
    return cluster


def _keepalive() -> address_pb2.TcpKeepalive:
    return address_pb2.TcpKeepalive(
        keepalive_time=wrappers_pb2.UInt32Value(value=_KEEPALIVE_TIME_S),
        keepalive_interval=wrappers_pb2.UInt32Value(value=_KEEPALIVE_INTERVAL_S),
        keepalive_probes=wrappers_pb2.UInt32Value(value=_KEEPALIVE_PROBES),
    )


def _labels(node: Cluster) -> struct_pb2.Struct:
    """Return what metrics and logs say about this destination; see ``resources.telemetry``."""
    labels = {
        "service": node.host,
        "service_name": node.service,
        "namespace": node.namespace,
        "protocol": spoken(node.protocol),
    }
    values = {key: struct_pb2.Value(string_value=text) for key, text in labels.items()}
    return struct_pb2.Struct(fields=values)


def _discover(cluster: _Cluster, node: Cluster) -> None:
    cluster.type = _TYPES[node.discovery]
    match node.discovery:
        case Discovery.EDS:
            cluster.eds_cluster_config.eds_config.CopyFrom(ads())
            if node.assignment:
                cluster.eds_cluster_config.service_name = node.assignment
                cluster.alt_stat_name = stat_name(node.assignment)
            return
        case Discovery.ORIGINAL_DST:
            return
        case Discovery.STATIC:
            pass
        case Discovery.STRICT_DNS | Discovery.LOGICAL_DNS:
            # A resolution that fails ends the warming too, so a dead name server delays a start by its timeout
            # only. Never set wait_for_warm_on_init to false: with certificates from SDS it crashes Envoy 1.40.
            cluster.dns_lookup_family = _Cluster.V4_PREFERRED
            cluster.dns_refresh_rate.FromTimedelta(_DNS_REFRESH)
            cluster.respect_dns_ttl = True
    cluster.load_assignment.CopyFrom(_assignment(node))


def _assignment(node: Cluster) -> endpoint_pb2.ClusterLoadAssignment:
    """Return the cluster's own endpoints, by zone, in the order in which they were written."""
    assignment = endpoint_pb2.ClusterLoadAssignment(cluster_name=node.name)
    zones: dict[str, endpoint_components_pb2.LocalityLbEndpoints] = {}
    for found in node.endpoints:
        if found.zone not in zones:
            zones[found.zone] = assignment.endpoints.add()
            if found.zone:
                zones[found.zone].locality.zone = found.zone
        endpoint = zones[found.zone].lb_endpoints.add()
        endpoint.endpoint.address.CopyFrom(socket_address(found.address, found.port))
        if found.weight != 1:
            endpoint.load_balancing_weight.value = found.weight
        if found.workload:
            who = {"workload": found.workload, "namespace": found.namespace}
            endpoint.metadata.filter_metadata[METADATA].update(who)
        if found.mtls:
            endpoint.metadata.filter_metadata[MTLS_MATCH].update(dict([TLS_MATCH]))
    return assignment


def _one_endpoint(name: str, host: str, port: int) -> endpoint_pb2.ClusterLoadAssignment:
    endpoint = endpoint_components_pb2.Endpoint(address=socket_address(host, port))
    locality = endpoint_components_pb2.LocalityLbEndpoints(
        lb_endpoints=[endpoint_components_pb2.LbEndpoint(endpoint=endpoint)]
    )
    return endpoint_pb2.ClusterLoadAssignment(cluster_name=name, endpoints=[locality])


def _secure(cluster: _Cluster, node: Cluster) -> None:
    match node.tls:
        case AutoMtls(sans, sni):
            key, value = TLS_MATCH
            socket = tls.mesh_client(sans, sni)
            mtls = cluster.transport_socket_matches.add(name="mtls", transport_socket=socket)
            mtls.match.fields[key].string_value = value
            # Its empty match holds for every endpoint that the one above did not take.
            cluster.transport_socket_matches.add(name="plaintext", match={}, transport_socket=tls.plaintext())
        case Mtls(sans, sni):
            cluster.transport_socket.CopyFrom(tls.mesh_client(sans, sni))
        case OriginateTls():
            cluster.transport_socket.CopyFrom(tls.originate(node.tls, node.protocol))
        case Plaintext():
            pass


def _outbound_options(node: Cluster) -> _Options:
    if node.protocol is not Protocol.HTTP:
        options = _Options()
        options.explicit_http_config.http2_protocol_options.SetInParent()
    elif isinstance(node.tls, OriginateTls):
        options = _Options()
        # A server behind TLS expects the version that ALPN settled, and we offer it HTTP/1.1.
        options.explicit_http_config.http_protocol_options.SetInParent()
    else:
        options = _as_received()
    if isinstance(node.tls, OriginateTls) and tls.names_itself(node.tls, node.protocol):
        options.upstream_http_protocol_options.auto_sni = True
        options.upstream_http_protocol_options.auto_san_validation = not (
            node.tls.sans or node.tls.insecure_skip_verify
        )
    options.common_http_protocol_options.idle_timeout.FromTimedelta(_OUTBOUND_IDLE)
    return options


def _as_received() -> _Options:
    """Return "the version of the request": never an upgrade that the server may not understand."""
    options = _Options()
    options.use_downstream_protocol_config.http_protocol_options.SetInParent()
    options.use_downstream_protocol_config.http2_protocol_options.SetInParent()
    return options
