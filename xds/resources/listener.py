"""One IR listener in, one Envoy listener out: what a sidecar accepts, and where it hands it on.

It owns the outbound listeners and the choice of the builder; routes come by name (RDS), so that no traffic rule ever
changes a listener and drains its connections.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, assert_never

from xds.ir import Dialling, Inbound, Intercepted, OutboundHttp, OutboundTcp
from xds.pb.envoy.config.core.v3 import base_pb2
from xds.pb.envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from xds.pb.envoy.extensions.filters.http.fault.v3 import fault_pb2
from xds.resources import retry_owner, telemetry
from xds.resources.filters import hcm_filter, http, http_filter, tcp, tcp_filter
from xds.resources.inbound import inbound, intercepted
from xds.resources.observing import as_client, observe_connections, observe_requests
from xds.resources.outbound import dialling
from xds.resources.parts import ads, serialise, socket_address, stat_name

if TYPE_CHECKING:
    from xds import ir

_Chain = listener_components_pb2.FilterChain

_CONNECT_ATTEMPTS: Final = 3
"""One endpoint that refuses must not fail a TCP client while others accept; as many tries as HTTP gets."""


def build(node: ir.Listener) -> bytes:
    """Return the Envoy listener of one address on which the sidecar listens."""
    match node:
        case OutboundHttp():
            return serialise(_outbound_http(node))
        case OutboundTcp():
            return serialise(_outbound_tcp(node))
        case Inbound():
            return serialise(inbound(node))
        case Dialling():
            return serialise(dialling(node))
        case Intercepted():
            return serialise(intercepted(node))
        case _:
            assert_never(node)


def _outbound_http(node: OutboundHttp) -> listener_pb2.Listener:
    hcm = http(
        node.name, telemetry.http_logs(telemetry.at_source(node.workload), telemetry.metering_of(node))
    )
    observe_requests(hcm, node.observed, node.workload, as_client(node.workload))
    hcm.rds.route_config_name = node.route_table
    hcm.rds.config_source.CopyFrom(ads())
    # Always there, so that a route can switch faults on without touching a listener.
    before_router = (
        http_filter("envoy.filters.http.fault", fault_pb2.HTTPFault()),
        *retry_owner.filters(watched=node.observed.evidence > 0),
    )
    for position, found in enumerate(before_router):
        hcm.http_filters.insert(position, found)
    listener = _listener(node)
    listener.filter_chains.append(_Chain(name="http", filters=[hcm_filter(hcm)]))
    return listener


def _outbound_tcp(node: OutboundTcp) -> listener_pb2.Listener:
    logs = telemetry.tcp_logs(telemetry.at_source(node.workload), telemetry.metering_of(node))
    proxy = tcp(node.name, node.cluster, logs)
    observe_connections(proxy, node.observed, as_client(node.workload))
    proxy.max_connect_attempts.value = _CONNECT_ATTEMPTS
    listener = _listener(node)
    # No inspector: the first byte may be the server's.
    listener.filter_chains.append(_Chain(name="tcp", filters=[tcp_filter(proxy)]))
    return listener


def _listener(node: OutboundHttp | OutboundTcp) -> listener_pb2.Listener:
    return listener_pb2.Listener(
        name=node.name,
        # Envoy's own would be the address, under which nobody could tell two listeners' counters apart.
        stat_prefix=stat_name(node.name),
        address=socket_address(node.address, node.port),
        traffic_direction=base_pb2.OUTBOUND,
    )
