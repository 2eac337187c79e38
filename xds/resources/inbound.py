"""What stands in front of the application: which connections reach a port, and as whom.

It owns the filter chains of each TLS mode, for a listener on one port and for the one that takes a Pod's redirected
connections; it must never let a connection through that no chain names, and never reads the Pod's address.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final, assert_never

from google.protobuf import wrappers_pb2

from xds.api.core import Protocol
from xds.ir import Inbound, Intercepted, MtlsMode
from xds.pb.envoy.config.core.v3 import base_pb2
from xds.pb.envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from xds.pb.envoy.config.route.v3 import route_components_pb2, route_pb2
from xds.pb.envoy.extensions.filters.listener.original_dst.v3 import original_dst_pb2
from xds.pb.envoy.extensions.filters.listener.tls_inspector.v3 import tls_inspector_pb2
from xds.pb.envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from xds.pb.envoy.type.v3 import range_pb2
from xds.resources import access, names, standing, telemetry, tls
from xds.resources.filters import Hcm, hcm_filter, http, normalise, tcp, tcp_filter
from xds.resources.inbound_routes import passed, probe
from xds.resources.observing import as_server, observe_connections, observe_requests
from xds.resources.parts import ads, dual_stack_address, pack, socket_address, stat_name
from xds.resources.telemetry import MUTUAL_TLS, NO_TLS

if TYPE_CHECKING:
    from google.protobuf.message import Message


_Chain = listener_components_pb2.FilterChain
_ChainMatch = listener_components_pb2.FilterChainMatch
_Filter = listener_components_pb2.ListenerFilter
_Predicate = listener_components_pb2.ListenerFilterChainMatchPredicate

_SERVER_FIRST_WAIT: Final = timedelta(milliseconds=100)
"""How long a PERMISSIVE TCP port waits for a client's TLS hello before it calls the connection plaintext. A
client of a server-first protocol (MySQL) waits exactly that long; a hello arrives within a round trip."""

_INTERCEPTED_WAIT: Final = timedelta(seconds=2)
"""The same for a listener that takes all ports of a Pod, most of which speak mutual TLS. A hello that is lost once
comes after a retransmission timeout of up to 1 s (RFC 6298 §2.1); taken for plaintext, it would fail the call. The
price is paid by plaintext clients of server-first protocols alone: each of their connections waits so long."""

_EARLY_BYTES: Final = 64 * 1024
"""What a client may send before the application has accepted; Envoy then stops reading, and loses nothing."""

_CLOSED_PORTS: Final = range(15000, 15007)
"""The sidecar's own ports. A connection that was made to one of them has the sidecar itself as its original
destination: forwarded there, it would come back for ever (15006), or leave as the Pod's own traffic (15001)."""


def inbound(node: Inbound) -> listener_pb2.Listener:
    """Return the listener of one port; a connection that no chain matches is closed."""
    listener = listener_pb2.Listener(
        name=node.name,
        # Envoy's own would be the address, under which nobody could tell the ports' TLS counters apart.
        stat_prefix=stat_name(node.name),
        address=socket_address(node.address, node.port),
        traffic_direction=base_pb2.INBOUND,
        filter_chains=_chains(node),
    )
    if node.mode is MtlsMode.DISABLE:
        return listener
    listener.listener_filters.append(_listener_filter("tls_inspector", tls_inspector_pb2.TlsInspector()))
    if node.mode is MtlsMode.PERMISSIVE:
        # Whoever says nothing before the time is up speaks no TLS. Clients of HTTP speak first: they get
        # Envoy's 15 s, because a hello that a busy machine delays must not be taken for plaintext.
        listener.continue_on_listener_filters_timeout = True
        if not node.protocol.is_http:
            listener.listener_filters_timeout.FromTimedelta(_SERVER_FIRST_WAIT)
    return listener


def intercepted(node: Intercepted) -> listener_pb2.Listener:
    """Return the listener to which all of a Pod's incoming connections are redirected.

    There is no default filter chain on purpose: Envoy takes it also for a connection to a port that has chains of
    which none matches, so that a default made for ports which nobody declared would open the STRICT ones.
    """
    listener = listener_pb2.Listener(
        name=node.name,
        stat_prefix=stat_name(node.name),
        address=dual_stack_address(node.port),
        traffic_direction=base_pb2.INBOUND,
        listener_filters=[_listener_filter("original_dst", original_dst_pb2.OriginalDst())],
        filter_chains=[_Chain(name=f"closed|{port}", filter_chain_match=_at(port)) for port in _CLOSED_PORTS],
    )
    for port in node.ports:
        listener.filter_chains.extend(_on_port(chain, port.port) for chain in _chains(port))
    listener.filter_chains.extend(_chains(node.others))
    _inspect(listener, node)
    return listener


def _inspect(listener: listener_pb2.Listener, node: Intercepted) -> None:
    """Let TLS be told from plaintext, except on ports that take no mutual TLS: there the server may speak first."""
    inspector = _listener_filter("tls_inspector", tls_inspector_pb2.TlsInspector())
    every = (*node.ports, node.others)
    disabled = [port.port for port in node.ports if port.mode is MtlsMode.DISABLE]
    if node.others.mode is MtlsMode.DISABLE:
        inspected = [port.port for port in node.ports if port.mode is not MtlsMode.DISABLE]
        if not inspected:
            return
        inspector.filter_disabled.not_match.CopyFrom(_any_of(inspected))
    elif disabled:
        inspector.filter_disabled.CopyFrom(_any_of(disabled))
    listener.listener_filters.append(inspector)
    if any(port.mode is MtlsMode.PERMISSIVE for port in every):
        listener.continue_on_listener_filters_timeout = True
    if any(port.mode is MtlsMode.PERMISSIVE and not port.protocol.is_http for port in node.ports):
        listener.listener_filters_timeout.FromTimedelta(_INTERCEPTED_WAIT)


def _any_of(ports: list[int]) -> _Predicate:
    rules = [
        _Predicate(destination_port_range=range_pb2.Int32Range(start=port, end=port + 1)) for port in ports
    ]
    return rules[0] if len(rules) == 1 else _Predicate(or_match=_Predicate.MatchSet(rules=rules))


def _on_port(chain: _Chain, port: int) -> _Chain:
    chain.name = f"{chain.name}|{port}"
    chain.filter_chain_match.destination_port.value = port
    return chain


def _at(port: int) -> _ChainMatch:
    return _ChainMatch(destination_port=wrappers_pb2.UInt32Value(value=port))


def _chains(node: Inbound) -> list[_Chain]:
    """Return the ways in that a port's mode opens."""
    match node.mode:
        case MtlsMode.STRICT:
            return [_mtls_chain(node), *([_probe_chain(node)] if node.probes else [])]
        case MtlsMode.PERMISSIVE:
            return [_mtls_chain(node), _own_tls_chain(node), _plain_chain(node)]
        case MtlsMode.DISABLE:
            return [_plain_chain(node)]
        case _:
            assert_never(node.mode)


def _mtls_chain(node: Inbound) -> _Chain:
    return _Chain(
        name="mtls",
        filter_chain_match=_ChainMatch(transport_protocol="tls", application_protocols=[tls.ALPN]),
        transport_socket=tls.mesh_server(node.workload.trust_domain),
        filters=_to_application(node, MUTUAL_TLS),
    )


def _own_tls_chain(node: Inbound) -> _Chain:
    """Return the chain for TLS that is the application's own affair: bytes, whatever the port is declared to speak.

    Without it Envoy closes such a connection: once a chain asks for TLS, it looks no further for one that does not.
    """
    return _Chain(
        name="own-tls",
        filter_chain_match=_ChainMatch(transport_protocol="tls"),
        filters=_to_application(replace(node, protocol=Protocol.TCP), NO_TLS),
    )


def _plain_chain(node: Inbound) -> _Chain:
    """Return the chain for everything that no other takes: plaintext, or anything where nothing is inspected."""
    return _Chain(name="plain", filters=_to_application(node, NO_TLS))


def _probe_chain(node: Inbound) -> _Chain:
    """Return the plaintext chain of a STRICT port: the declared probes pass, everything else is denied."""
    # Probes are no traffic between workloads, so nothing counts them.
    hcm = http(node.name, [])
    hcm.forward_client_cert_details = Hcm.SANITIZE
    hcm.route_config.CopyFrom(_table(node, [*(probe(node, path) for path in node.probes), _denied()]))
    return _Chain(
        name="probe",
        filter_chain_match=_ChainMatch(transport_protocol="raw_buffer"),
        filters=[hcm_filter(hcm)],
    )


def _to_application(node: Inbound, security: str) -> list[listener_components_pb2.Filter]:
    labels = telemetry.at_destination(node, security)
    if not node.protocol.is_http:
        proxy = tcp(node.name, node.cluster, telemetry.tcp_logs(labels, telemetry.metering_of(node)))
        observe_connections(proxy, node.observed, as_server(node, security))
        if security == MUTUAL_TLS:
            # By default Envoy connects to the application at once: a peer that has yet to prove who it is would
            # reach it, and be counted as nobody.
            proxy.upstream_connect_mode = tcp_proxy_pb2.ON_DOWNSTREAM_TLS_HANDSHAKE
            proxy.max_early_data_bytes.value = _EARLY_BYTES
        return [*access.of_connection(node.name, node.access), tcp_filter(proxy)]
    hcm = http(node.name, telemetry.http_logs(labels, telemetry.metering_of(node)))
    observe_requests(hcm, node.observed, node.workload, as_server(node, security))
    normalise(hcm, node.paths)
    # The application learns its caller from XFCC: what the caller wrote there itself is removed either way.
    hcm.forward_client_cert_details = Hcm.SANITIZE
    if security == MUTUAL_TLS:
        hcm.forward_client_cert_details = Hcm.SANITIZE_SET
        hcm.set_current_client_cert_details.uri = True
    # Rules change more often than ports: with the routes they hold for open connections too, and close none.
    # All chains of a port have one table: two that hold a table each would count each for itself.
    hcm.rds.route_config_name = names.inbound_routes(node.port)
    hcm.rds.config_source.CopyFrom(ads())
    # What a request passes before the router stands in the route: see ``inbound_routes``.
    own = standing.filters(passed(node), stat_name(node.name)) if node.is_older else [access.guard()]
    for index, found in enumerate(own):
        hcm.http_filters.insert(index, found)
    return [hcm_filter(hcm)]


def _table(node: Inbound, routes: list[route_components_pb2.Route]) -> route_pb2.RouteConfiguration:
    host = route_components_pb2.VirtualHost(name=node.name, domains=["*"], routes=routes)
    table = route_pb2.RouteConfiguration(name=node.name, virtual_hosts=[host])
    # The cluster comes on its own; the listener must not be refused because it is a moment late.
    table.validate_clusters.value = False
    return table


def _denied() -> route_components_pb2.Route:
    body = base_pb2.DataSource(inline_string="plaintext denied: this port takes mutual TLS only (STRICT)\n")
    return route_components_pb2.Route(
        name="denied",
        match=route_components_pb2.RouteMatch(prefix="/"),
        direct_response=route_components_pb2.DirectResponseAction(status=403, body=body),
    )


def _listener_filter(name: str, config: Message) -> _Filter:
    return _Filter(name=f"envoy.filters.listener.{name}", typed_config=pack(config))
