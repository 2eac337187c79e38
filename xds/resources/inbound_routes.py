"""The routes of a workload's own ports: everything goes to the application, if the policies let it.

It owns these tables and the probes that no policy concerns; it must never choose who gets in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from xds.features import rate_limit, shared_limit
from xds.ir import MtlsMode
from xds.pb.envoy.config.core.v3 import base_pb2
from xds.pb.envoy.config.route.v3 import route_components_pb2, route_pb2
from xds.pb.envoy.type.matcher.v3 import string_pb2
from xds.resources import access, refusing, standing
from xds.resources.parts import OFF, serialise, stat_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xds.ir import Inbound, InboundRoutes
    from xds.resources.access import Part

GRPC_PROBE: Final = "/grpc.health.v1.Health/Check"
"""The method that the kubelet's ``grpc`` probe calls."""

_INBOUND_RETRIES: Final = 2
"""Istio's default on the inbound side: the application closed an idle connection as the request was sent."""


def build(node: InboundRoutes) -> bytes:
    """Return the table of one port, with its rules beside its routes: both are in force at one moment."""
    port = node.port
    routes = [
        _open(port, _two_hosts()),
        _open(port, _no_host()),
        *_probes(port),
        _guarded(port, _everything(port), passed(port)),
    ]
    host = route_components_pb2.VirtualHost(name=node.name, domains=["*"], routes=routes)
    table = route_pb2.RouteConfiguration(name=node.name, virtual_hosts=[host])
    # The cluster comes on its own; the table must not be refused because it is a moment late.
    table.validate_clusters.value = False
    return serialise(table)


def probe(node: Inbound, path: str) -> route_components_pb2.Route:
    """Return the route of one of the kubelet's probes: exactly this path, GET where it is no gRPC, and no upgrade.

    An application that agreed to one would have a tunnel to whoever asked, past every policy.
    """
    # Envoy compares the path without its query, so a probe that declares one would never match with it.
    match = route_components_pb2.RouteMatch(path=path.partition("?")[0])
    if path != GRPC_PROBE:
        match.headers.add(name=":method").string_match.exact = "GET"
    match.headers.add(name="upgrade", present_match=True, invert_match=True)
    action = _forward(node)
    if node.limits and node.limits.concurrency:
        action.priority = base_pb2.HIGH  # requests at once are limited for the others
    return route_components_pb2.Route(name="probe", match=match, route=action)


def _two_hosts() -> route_components_pb2.Route:
    """Return the route of a request with several Host lines, which Envoy joins with commas.

    No policy and no application could know which one is meant, and they would not choose the same.
    """
    host = string_pb2.StringMatcher(contains=",")
    return _refused("two-hosts", host, "the request names more than one Host\n")


def _no_host() -> route_components_pb2.Route:
    """Return the route of a Host that still ends with a dot, of which Envoy has taken one away.

    No host has such a name (RFC 1034 section 3.1); an application that takes all of its dots away would see one that
    no policy has.
    """
    host = string_pb2.StringMatcher()
    host.safe_regex.regex = r"\C*\.(?::\C*)?"
    return _refused("no-host", host, "the request's Host is no name of a host\n")


def _refused(name: str, host: string_pb2.StringMatcher, words: str) -> route_components_pb2.Route:
    match = route_components_pb2.RouteMatch(prefix="/")
    match.headers.add(name=":authority", string_match=host)
    body = base_pb2.DataSource(inline_string=words)
    answer = route_components_pb2.DirectResponseAction(status=400, body=body)
    return route_components_pb2.Route(name=name, match=match, direct_response=answer)


def _probes(node: Inbound) -> Iterator[route_components_pb2.Route]:
    """Yield the ways of probes: in plaintext past every policy, since the kubelet proves nothing, and past limits.

    A limit is never a reason to call an application dead.
    """
    for path in node.probes:
        if node.mode is not MtlsMode.STRICT:
            plain = probe(node, path)
            plain.match.tls_context.presented.value = False
            yield _open(node, plain)
        if node.limits is not None:
            yield _guarded(node, probe(node, path), access.of_requests(node.access))


def passed(node: Inbound) -> list[Part]:
    """Return what a request to a port passes before it reaches the application, in order."""
    parts = [*access.of_requests(node.access), *_limits(node)]
    # Nobody reads who refused where nothing is logged; an older listener's filters are told by no route.
    return parts if node.is_older or not node.observed.logs else list(refusing.told(parts, _objects(node)))


def _objects(node: Inbound) -> dict[str, str]:
    """Return the objects behind filters that do not name them, by the filter's name."""
    issuers = node.access.issuers if node.access else ()
    rules = node.limits.rules if node.limits else ()
    found = {
        access.TOKENS: ",".join(dict.fromkeys(_object(issuer.name) for issuer in issuers)),
        rate_limit.FILTER: _object(rules[0][0]) if rules else "",
        shared_limit.FILTER: node.limits.asked_by if node.limits else "",
    }
    return {name: objects for name, objects in found.items() if objects}


def _object(rule: str) -> str:
    """Return ``KIND/NAMESPACE/NAME`` of the name of one of its rules."""
    return rule.rpartition("/")[0]


def _limits(node: Inbound) -> Iterator[Part]:
    """Yield the filters that limit a request, in order: what is refused here asks no service.

    They stand in the route, so that all filter chains of the port count together and a new limit holds for open
    connections too.
    """
    if node.limits is not None and node.limits.rules:
        yield rate_limit.FILTER, rate_limit.local(stat_name(node.name), node.limits.rules)
    if node.limits is not None and node.limits.asked:
        config = shared_limit.asking(node.limits.asked, node.limits.descriptors)
        yield shared_limit.FILTER, config


def _guarded(
    node: Inbound, route: route_components_pb2.Route, parts: list[Part]
) -> route_components_pb2.Route:
    return _passing(node, route, parts, standing.generation(passed(node)) if node.is_older else "")


def _open(node: Inbound, route: route_components_pb2.Route) -> route_components_pb2.Route:
    """Return a route that no policy and no limit concerns."""
    return _passing(node, route, access.of_requests(None), "")


def _passing(
    node: Inbound, route: route_components_pb2.Route, parts: list[Part], generation: str
) -> route_components_pb2.Route:
    if node.is_older:
        standing.configure(route, parts, generation)
    else:
        route.typed_per_filter_config[access.GUARD].CopyFrom(access.chain(parts))
    return route


def _everything(node: Inbound) -> route_components_pb2.Route:
    route = route_components_pb2.Route(
        name=node.name, match=route_components_pb2.RouteMatch(prefix="/"), route=_forward(node)
    )
    route.decorator.operation = f"{node.service or node.workload.name}/*"
    retry = route.route.retry_policy
    retry.retry_on = "reset-before-request"
    retry.num_retries.value = _INBOUND_RETRIES
    return route


def _forward(node: Inbound) -> route_components_pb2.RouteAction:
    """Return "to the application", without Envoy's 15 s: how long a request may take is the caller's word."""
    return route_components_pb2.RouteAction(cluster=node.cluster, timeout=OFF)
