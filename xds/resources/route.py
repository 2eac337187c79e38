"""Virtual hosts and route tables: one IR virtual host in, framed bytes out, and a table is a join of them.

It owns what every route has, with or without rules; it must never know which hosts exist or
what a rule is called in YAML.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from xds.features import timeout
from xds.features.direct_response import MAX_BODY_BYTES
from xds.ir import Destination, Forward, Route, VirtualHost
from xds.pb.envoy.config.route.v3 import route_components_pb2, route_pb2
from xds.resources.parts import serialise
from xds.wire import field

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xds.ir import HostTable

VIRTUAL_HOSTS: Final = 2
"""The number of RouteConfiguration.virtual_hosts in envoy/config/route/v3/route.proto."""


def build_virtual_host(host: VirtualHost) -> bytes:
    """Return the virtual host framed as a field of a RouteConfiguration, ready to be joined with others."""
    return field(VIRTUAL_HOSTS, serialise(_virtual_host(host)))


def build_table(name: str, framed_hosts: Sequence[bytes]) -> bytes:
    """Return a RouteConfiguration of framed virtual hosts.

    Protobuf lets fields come in any order and a message be cut between its fields, so the bytes
    before the hosts are those of the same message without them.
    """
    return b"".join((serialise(table(name)), *framed_hosts))


def build_host_table(node: HostTable) -> bytes:
    """Return a RouteConfiguration of named hosts, in which any other Host goes to one cluster."""
    others = VirtualHost(
        "others", ("*",), (Route("others", None, Forward((Destination(node.others, 100),))),)
    )
    return build_table(node.name, [build_virtual_host(host) for host in (*node.hosts, others)])


def table(name: str) -> route_pb2.RouteConfiguration:
    """Return a table of no routes yet, with what holds for all of them."""
    message = route_pb2.RouteConfiguration(name=name)
    # A route may name a cluster that comes a moment later, or never: that is 503 for one rule,
    # where validation would be a refusal of every rule.
    message.validate_clusters.value = False
    message.max_direct_response_body_size_bytes.value = MAX_BODY_BYTES
    # A destination's headers are set after its route's, as they are read in YAML (Istio's order).
    message.most_specific_header_mutations_wins = True
    return message


def _virtual_host(host: VirtualHost) -> route_components_pb2.VirtualHost:
    message = route_components_pb2.VirtualHost(name=host.name, domains=host.domains)
    # Tells an application that this is a retry: x-envoy-attempt-count.
    message.include_request_attempt_count = True
    message.routes.extend(route(found, host.name) for found in host.routes)
    return message


def route(node: Route, host: str) -> route_components_pb2.Route:
    """Return one rule; ``host`` is what its spans are called by."""
    message = route_components_pb2.Route(name=node.name)
    if node.match is None:
        message.match.prefix = "/"
    else:
        node.match.patch_route(message)
    # What a span of this request is called: by host, because paths may hold what must not be told.
    message.decorator.operation = f"{host}/*"
    if isinstance(node.action, Forward):
        _forward(message, node.action.destinations)
        timeout.NONE.patch_route(message)
    else:
        node.action.patch_route(message)
    for feature in node.features:
        feature.patch_route(message)
    if message.route.hash_policy and message.route.HasField("retry_policy"):
        # The hash says where a request belongs; a retry that avoids that host would break it (Istio as well).
        del message.route.retry_policy.retry_host_predicate[:]
    return message


def _forward(message: route_components_pb2.Route, destinations: tuple[Destination, ...]) -> None:
    if len(destinations) == 1 and destinations[0].headers is None:
        message.route.cluster = destinations[0].cluster
        return
    for destination in destinations:
        share = message.route.weighted_clusters.clusters.add(name=destination.cluster)
        share.weight.value = destination.weight
        if destination.headers is not None:
            destination.headers.patch_destination(share)
