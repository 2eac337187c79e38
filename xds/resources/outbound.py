"""The listener that takes a Pod's outgoing connections: the address that was dialled decides, never the Host.

It owns which chain a connection takes, and how a chain asks for the cluster of a destination that is new to it; it
must never name a service, so that no service's coming or going changes a listener.
"""

from __future__ import annotations

from datetime import timedelta
from ipaddress import ip_network
from typing import TYPE_CHECKING, Final

from google.protobuf import wrappers_pb2

from xds import settings
from xds.pb.envoy.config.core.v3 import base_pb2, substitution_format_string_pb2
from xds.pb.envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from xds.pb.envoy.config.route.v3 import scoped_route_pb2
from xds.pb.envoy.extensions.filters.common.set_filter_state.v3 import value_pb2
from xds.pb.envoy.extensions.filters.http.fault.v3 import fault_pb2
from xds.pb.envoy.extensions.filters.http.on_demand.v3 import on_demand_pb2
from xds.pb.envoy.extensions.filters.http.set_filter_state.v3 import set_filter_state_pb2 as http_state_pb2
from xds.pb.envoy.extensions.filters.listener.original_dst.v3 import original_dst_pb2
from xds.pb.envoy.extensions.filters.listener.tls_inspector.v3 import tls_inspector_pb2
from xds.pb.envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from xds.pb.envoy.extensions.filters.network.set_filter_state.v3 import set_filter_state_pb2
from xds.pb.envoy.extensions.http.early_header_mutation.header_mutation.v3 import header_mutation_pb2
from xds.pb.envoy.extensions.matching.common_inputs.network.v3 import network_inputs_pb2
from xds.pb.envoy.type.v3 import range_pb2
from xds.pb.xds.core.v3 import cidr_pb2, extension_pb2
from xds.pb.xds.type.matcher.v3 import ip_pb2, matcher_pb2
from xds.resources import names, retry_owner, telemetry
from xds.resources.filters import hcm_filter, http, http_filter, tcp, tcp_filter
from xds.resources.observing import as_client, observe_connections, observe_requests
from xds.resources.parts import ads, dual_stack_address, pack, stat_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from google.protobuf.message import Message

    from xds.indexes.ports import PortUse
    from xds.ir import Dialling, Named, Scope

_Chain = listener_components_pb2.FilterChain
_Predicate = listener_components_pb2.ListenerFilterChainMatchPredicate
_Matcher = matcher_pb2.Matcher
_OnMatch = matcher_pb2.Matcher.OnMatch
_Scoped = http_connection_manager_pb2.ScopedRoutes

DESTINATION: Final = "x-proa-destination"
"""The request header that names the dialled destination: written over whatever a client sent, and never sent on."""

_DIALLED: Final = "%DOWNSTREAM_LOCAL_ADDRESS%"
"""Envoy's word for where the connection was going before it was redirected."""

_CLEAR_ROUTE_CACHE: Final = b"\x10\x01"
"""``clear_route_cache: true``, field 2 of set_filter_state.v3.Config, which is newer than our copy of the API."""

_ON_DEMAND_WAIT: Final = timedelta(seconds=settings.ON_DEMAND_TIMEOUT_S)

_CONNECT_ATTEMPTS: Final = 3
"""One endpoint that refuses must not fail a TCP client while others accept; as many tries as HTTP gets."""

_CLOSED_PORTS: Final = (settings.OUTBOUND_PORT, settings.INBOUND_PORT)
"""A connection that was made to the sidecar's own listener would be sent on to it for ever."""

_HTTP, _TCP, _OTHERS, _CLOSED = "http", "tcp", "others", "closed"
_BY_HOST, _BY_SERVER_NAME, _FREE = "by host", "by server name", "free"

_SERVER_NAME_WAIT: Final = timedelta(seconds=settings.SERVER_NAME_WAIT_S)


def dialling(node: Dialling) -> listener_pb2.Listener:
    """Return the listener to which all of a Pod's outgoing connections are redirected."""
    listener = listener_pb2.Listener(
        name=node.name,
        stat_prefix=stat_name(node.name),
        address=dual_stack_address(node.port),
        traffic_direction=base_pb2.OUTBOUND,
        # No inspector of HTTP, and none of TLS but where entries need it: the first byte may be the server's.
        listener_filters=[
            listener_components_pb2.ListenerFilter(
                name="envoy.filters.listener.original_dst", typed_config=pack(original_dst_pb2.OriginalDst())
            )
        ],
        filter_chains=[
            *([_http_chain(node), _tcp_chain(node)] if node.declared is None else _declared_chains(node)),
            _static_chain(node),
            _closed_chain(),
            *_named_chains(node),
        ],
        filter_chain_matcher=_by_destination(node),
    )
    if node.named.tls:
        _inspect(listener, [port for port, _ in node.named.tls])
    return listener


def scope(node: Scope) -> scoped_route_pb2.ScopedRouteConfiguration:
    """Return the scope of every request: the first word of its destination's name is the key of it."""
    key = scoped_route_pb2.ScopedRouteConfiguration.Key(
        fragments=[scoped_route_pb2.ScopedRouteConfiguration.Key.Fragment(string_key=names.HTTP_DESTINATION)]
    )
    return scoped_route_pb2.ScopedRouteConfiguration(
        name=node.name, route_configuration_name=node.table, key=key
    )


# --- Chains -----------------------------------------------------------------------------------


def _http_chain(node: Dialling) -> _Chain:
    """Return the chain in which a table has rules for destinations, and every other goes to the cluster of its name.

    A stream keeps the table that it began with, but for scoped routes: there each new look for the route finds the
    newest table. So a request that waited for its cluster looks again, finds the rules that came meanwhile, and waits
    once more if these name another cluster. See docs/adr/0027.
    """
    hcm = http(
        node.name, telemetry.http_logs(telemetry.at_source(node.workload), telemetry.metering_of(node))
    )
    observe_requests(hcm, node.observed, node.workload, as_client(node.workload))
    hcm.early_header_mutation_extensions.add(
        name="envoy.http.early_header_mutation.header_mutation", typed_config=pack(_name_destination())
    )
    hcm.scoped_routes.CopyFrom(_scoped(node.name))
    look_again = http_state_pb2.Config.FromString(_CLEAR_ROUTE_CACHE)
    before_router = (
        http_filter("envoy.filters.http.on_demand", _on_demand()),
        http_filter("envoy.filters.http.set_filter_state", look_again),
        # Always there, so that a route can switch faults on without touching a listener.
        http_filter("envoy.filters.http.fault", fault_pb2.HTTPFault()),
        http_filter("envoy.filters.http.on_demand", _on_demand()),
        *retry_owner.filters(watched=node.observed.evidence > 0),
    )
    for position, found in enumerate(before_router):
        hcm.http_filters.insert(position, found)
    return _Chain(name=_HTTP, filters=[hcm_filter(hcm)])


def _name_destination() -> header_mutation_pb2.HeaderMutation:
    config = header_mutation_pb2.HeaderMutation()
    append = config.mutations.add().append
    append.header.key = DESTINATION
    append.header.value = f"{names.HTTP_DESTINATION}|{_DIALLED}"
    append.append_action = base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
    return config


def _scoped(name: str) -> _Scoped:
    routes = _Scoped(name=name, rds_config_source=ads())
    routes.scoped_rds.scoped_rds_config_source.CopyFrom(ads())
    extractor = routes.scope_key_builder.fragments.add().header_value_extractor
    extractor.name, extractor.element_separator, extractor.index = DESTINATION, "|", 0
    return routes


def _on_demand() -> on_demand_pb2.OnDemand:
    config = on_demand_pb2.OnDemand()
    config.odcds.source.CopyFrom(ads())
    config.odcds.timeout.FromTimedelta(_ON_DEMAND_WAIT)
    return config


def _tcp_chain(node: Dialling) -> _Chain:
    cluster = f"{names.TCP_DESTINATION}|{_DIALLED}"
    return _Chain(name=_TCP, filters=_dialling_filters(node, f"{node.name}-tcp", cluster))


def _dialling_filters(node: Dialling, name: str, cluster: str) -> list[listener_components_pb2.Filter]:
    """Return the filters of a chain that asks for the cluster of this name, in which Envoy puts its own words."""
    proxy = tcp(
        name,
        names.BLACKHOLE,
        telemetry.tcp_logs(telemetry.at_source(node.workload), telemetry.metering_of(node)),
    )
    observe_connections(proxy, node.observed, as_client(node.workload))
    proxy.max_connect_attempts.value = _CONNECT_ATTEMPTS
    if node.declared is None:
        proxy.on_demand.odcds_config.CopyFrom(ads())
        proxy.on_demand.timeout.FromTimedelta(_ON_DEMAND_WAIT)
    value = value_pb2.FilterStateValue(
        object_key="envoy.tcp_proxy.cluster",
        format_string=substitution_format_string_pb2.SubstitutionFormatString(
            text_format_source=base_pb2.DataSource(inline_string=cluster)
        ),
    )
    state = listener_components_pb2.Filter(
        name="envoy.filters.network.set_filter_state",
        typed_config=pack(set_filter_state_pb2.Config(on_new_connection=[value])),
    )
    return [state, tcp_filter(proxy)]


def _named_chains(node: Dialling) -> list[_Chain]:
    """Return the chains of destinations that have no known address: the Host, or TLS's server name, tells them."""
    found: list[_Chain] = []
    if node.named.http:
        found.append(_by_host(node, _BY_HOST, names.ENTRIES, names.ENTRIES))
    if any(not host.startswith("*") for _, hosts in node.named.tls for host in hosts):
        # The name is one of those that the choice of this chain knows, never any that a client makes up.
        cluster = names.cluster_of_server_name("%DOWNSTREAM_LOCAL_PORT%", "%REQUESTED_SERVER_NAME%")
        found.append(
            _Chain(name=_BY_SERVER_NAME, filters=_dialling_filters(node, f"{node.name}-tls", cluster))
        )
    for port, hosts in node.named.tls:
        for host in filter(_is_wild, hosts):
            name = names.cluster(port, "", host)
            found.append(_Chain(name=name, filters=_dialling_filters(node, f"{node.name}-tls", name)))
    if node.named.free:
        logs = telemetry.tcp_logs(telemetry.at_source(node.workload), telemetry.metering_of(node))
        proxy = tcp(f"{node.name}-free", names.PASSTHROUGH, logs)
        observe_connections(proxy, node.observed, as_client(node.workload))
        found.append(_Chain(name=_FREE, filters=[tcp_filter(proxy)]))
    return found


def _by_host(node: Dialling, chain: str, name: str, table: str) -> _Chain:
    """Return a chain in which the Host of a request chooses from a table."""
    hcm = http(name, telemetry.http_logs(telemetry.at_source(node.workload), telemetry.metering_of(node)))
    observe_requests(hcm, node.observed, node.workload, as_client(node.workload))
    hcm.rds.route_config_name = table
    hcm.rds.config_source.CopyFrom(ads())
    waits = [] if node.declared is not None else [http_filter("envoy.filters.http.on_demand", _on_demand())]
    before_router = (
        *waits,
        http_filter("envoy.filters.http.fault", fault_pb2.HTTPFault()),
        *retry_owner.filters(watched=node.observed.evidence > 0),
    )
    for position, added in enumerate(before_router):
        hcm.http_filters.insert(position, added)
    return _Chain(name=chain, filters=[hcm_filter(hcm)])


def _declared_chains(node: Dialling) -> list[_Chain]:
    """Return the chains of a proxy that cannot ask: one for the table of all hosts, one for each port of bytes."""
    clusters = {name for found in node.declared or () for _, name in found.ports if name}
    filters = ((name, _dialling_filters(node, f"{node.name}-tcp", name)) for name in sorted(clusters))
    by_cluster = [_Chain(name=name, filters=found) for name, found in filters]
    return [_by_host(node, _HTTP, node.name, node.table), *by_cluster]


def _is_wild(host: str) -> bool:
    return host.startswith("*")


def _static_chain(node: Dialling) -> _Chain:
    logs = telemetry.tcp_logs(telemetry.at_source(node.workload), telemetry.metering_of(node))
    proxy = tcp(f"{node.name}-others", node.others, logs)
    observe_connections(proxy, node.observed, as_client(node.workload))
    return _Chain(name=_OTHERS, filters=[tcp_filter(proxy)])


def _closed_chain() -> _Chain:
    return _Chain(name=_CLOSED, filters=[tcp_filter(tcp(_CLOSED, names.BLACKHOLE, []))])


# --- Which chain ------------------------------------------------------------------------------


def _by_destination(node: Dialling) -> _Matcher:
    """Return the choice of a chain: by port for the sidecar's own, then by range, then by port within the range."""
    ranges = ip_pb2.IPMatcher()
    if node.declared is None:
        _add_asked(ranges, node)
    for declared in node.declared or ():
        at = _ports({port: name or _HTTP for port, name in declared.ports})
        at.on_no_match.CopyFrom(_chain(_OTHERS))
        _add(ranges, [declared.address], _to(at))
    by_address = _TCP if node.declared is None else _OTHERS
    for text, uses in node.named.addressed:
        at = _ports({port: _HTTP if is_http else by_address for port, is_http in uses})
        at.on_no_match.CopyFrom(_chain(_OTHERS))
        _add(ranges, [text], _to(at))
    anywhere = _Matcher(on_no_match=_by_name(node.named))
    anywhere.matcher_tree.input.CopyFrom(_extension("ip", network_inputs_pb2.DestinationIPInput()))
    anywhere.matcher_tree.custom_match.CopyFrom(_extension("range", ranges))
    own = _ports(dict.fromkeys(_CLOSED_PORTS, _CLOSED))
    own.on_no_match.CopyFrom(_to(anywhere))
    return own


def _add_asked(ranges: ip_pb2.IPMatcher, node: Dialling) -> None:
    """Let connections within the ranges of Services and Pods ask, in the protocol that their port speaks there."""
    for use in node.ports:
        if use.exceptions:
            other = _TCP if use.services else _HTTP
            exception = _to(_ports({use.port: other}))
            _add(ranges, use.exceptions, exception)
    services, pods = set(node.service_ranges), set(node.pod_ranges)
    _add(ranges, sorted(services - pods), _to(_speaking(node.ports, lambda use: use.services)))
    _add(ranges, sorted(pods - services), _to(_speaking(node.ports, lambda use: use.pods)))
    _add(ranges, sorted(services & pods), _to(_speaking(node.ports, lambda use: use.services or use.pods)))


def _by_name(named: Named) -> _OnMatch:
    """Return the choice among destinations that have no known address: by port, then by TLS's server name."""
    free = dict.fromkeys(named.free, _FREE)
    fallback = free | dict.fromkeys(named.http, _BY_HOST)
    if not fallback and not named.tls:
        return _chain(_OTHERS)
    matcher = _ports(fallback)
    for port, hosts in named.tls:
        otherwise = _chain(fallback.get(port, _OTHERS))
        choice = _to(_by_server_name(port, hosts, otherwise))
        matcher.matcher_tree.exact_match_map.map[str(port)].CopyFrom(choice)
    matcher.on_no_match.CopyFrom(_chain(_OTHERS))
    return _to(matcher)


def _by_server_name(port: int, hosts: tuple[str, ...], otherwise: _OnMatch) -> _Matcher:
    """Return the choice by server name: exact names first, then wildcards, the longest first."""
    wild = sorted(filter(_is_wild, hosts), key=len, reverse=True)
    listed = _Matcher(on_no_match=otherwise)
    for host in wild:
        found = listed.matcher_list.matchers.add(on_match=_chain(names.cluster(port, "", host)))
        found.predicate.single_predicate.input.CopyFrom(_server_name())
        found.predicate.single_predicate.value_match.suffix = host[1:]
    exact = [host for host in hosts if not _is_wild(host)]
    if not exact:
        return listed
    matcher = _Matcher(on_no_match=_to(listed) if wild else otherwise)
    matcher.matcher_tree.input.CopyFrom(_server_name())
    for host in exact:
        matcher.matcher_tree.exact_match_map.map[host].CopyFrom(_chain(_BY_SERVER_NAME))
    return matcher


def _server_name() -> extension_pb2.TypedExtensionConfig:
    return _extension("server name", network_inputs_pb2.ServerNameInput())


def _inspect(listener: listener_pb2.Listener, ports: list[int]) -> None:
    """Let TLS tell its server name on these ports only; a server that speaks first there costs its client the wait."""
    rules = [
        _Predicate(destination_port_range=range_pb2.Int32Range(start=port, end=port + 1)) for port in ports
    ]
    inspector = listener_components_pb2.ListenerFilter(
        name="envoy.filters.listener.tls_inspector", typed_config=pack(tls_inspector_pb2.TlsInspector())
    )
    asked = rules[0] if len(rules) == 1 else _Predicate(or_match=_Predicate.MatchSet(rules=rules))
    inspector.filter_disabled.not_match.CopyFrom(asked)
    listener.listener_filters.append(inspector)
    listener.continue_on_listener_filters_timeout = True
    listener.listener_filters_timeout.FromTimedelta(_SERVER_NAME_WAIT)


def _add(ranges: ip_pb2.IPMatcher, found: Iterable[str], on_match: _OnMatch) -> None:
    cidrs = [_cidr(text) for text in found]
    if cidrs:
        ranges.range_matchers.add(ranges=cidrs, on_match=on_match)


def _cidr(text: str) -> cidr_pb2.CidrRange:
    network = ip_network(text)
    return cidr_pb2.CidrRange(
        address_prefix=str(network.network_address),
        prefix_len=wrappers_pb2.UInt32Value(value=network.prefixlen),
    )


def _speaking(uses: Iterable[PortUse], is_http: Callable[[PortUse], bool]) -> _Matcher:
    """Return HTTP for the ports that speak it, bytes for all others."""
    http_ports = {use.port: _HTTP for use in uses if is_http(use)}
    matcher = _ports(http_ports) if http_ports else _Matcher()
    matcher.on_no_match.CopyFrom(_chain(_TCP))
    return matcher


def _ports(chains: dict[int, str]) -> _Matcher:
    matcher = _Matcher()
    matcher.matcher_tree.input.CopyFrom(_extension("port", network_inputs_pb2.DestinationPortInput()))
    for port, chain in chains.items():
        matcher.matcher_tree.exact_match_map.map[str(port)].CopyFrom(_chain(chain))
    return matcher


def _to(matcher: _Matcher) -> _OnMatch:
    return _OnMatch(matcher=matcher)


def _chain(name: str) -> _OnMatch:
    return _OnMatch(action=_extension(name, wrappers_pb2.StringValue(value=name)))


def _extension(name: str, config: Message) -> extension_pb2.TypedExtensionConfig:
    return extension_pb2.TypedExtensionConfig(name=name, typed_config=pack(config))
