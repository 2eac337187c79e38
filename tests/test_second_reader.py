"""Facts from a second, independent copy of Envoy's API: it reads every golden resource and knows every field."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, cast

import betterproto2
import pytest
from envoy_data_plane.envoy.config.cluster import v3 as cluster
from envoy_data_plane.envoy.config.endpoint import v3 as endpoint
from envoy_data_plane.envoy.config.listener import v3 as listener
from envoy_data_plane.envoy.config.route import v3 as route
from envoy_data_plane.envoy.config.trace import v3 as trace
from envoy_data_plane.envoy.extensions.access_loggers.filters.cel import v3 as cel
from envoy_data_plane.envoy.extensions.access_loggers.open_telemetry import v3 as otlp_logs
from envoy_data_plane.envoy.extensions.access_loggers.stats import v3 as stats
from envoy_data_plane.envoy.extensions.access_loggers.stream import v3 as stream_logs
from envoy_data_plane.envoy.extensions.common.matching import v3 as matching
from envoy_data_plane.envoy.extensions.filters.common.matcher.action import v3 as skip
from envoy_data_plane.envoy.extensions.filters.http.ext_authz import v3 as ext_authz
from envoy_data_plane.envoy.extensions.filters.http.fault import v3 as fault
from envoy_data_plane.envoy.extensions.filters.http.filter_chain import v3 as filter_chain
from envoy_data_plane.envoy.extensions.filters.http.header_mutation import v3 as header_mutation
from envoy_data_plane.envoy.extensions.filters.http.jwt_authn import v3 as jwt_authn
from envoy_data_plane.envoy.extensions.filters.http.local_ratelimit import v3 as local_ratelimit
from envoy_data_plane.envoy.extensions.filters.http.on_demand import v3 as on_demand
from envoy_data_plane.envoy.extensions.filters.http.ratelimit import v3 as ratelimit
from envoy_data_plane.envoy.extensions.filters.http.rbac import v3 as http_rbac
from envoy_data_plane.envoy.extensions.filters.http.router import v3 as router
from envoy_data_plane.envoy.extensions.filters.http.set_filter_state import v3 as http_filter_state
from envoy_data_plane.envoy.extensions.filters.listener.original_dst import v3 as original_dst
from envoy_data_plane.envoy.extensions.filters.listener.tls_inspector import v3 as tls_inspector
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as http
from envoy_data_plane.envoy.extensions.filters.network.rbac import v3 as network_rbac
from envoy_data_plane.envoy.extensions.filters.network.set_filter_state import v3 as filter_state
from envoy_data_plane.envoy.extensions.filters.network.tcp_proxy import v3 as tcp_proxy
from envoy_data_plane.envoy.extensions.http.early_header_mutation.header_mutation import v3 as early_header
from envoy_data_plane.envoy.extensions.matching.common_inputs.network import v3 as network_inputs
from envoy_data_plane.envoy.extensions.rate_limit_descriptors.expr import v3 as descriptor_expression
from envoy_data_plane.envoy.extensions.rbac.principals.mtls_authenticated import v3 as authenticated
from envoy_data_plane.envoy.extensions.request_id.uuid import v3 as request_id
from envoy_data_plane.envoy.extensions.retry.host.previous_hosts import v3 as previous_hosts
from envoy_data_plane.envoy.extensions.tracers.opentelemetry.samplers import v3 as samplers
from envoy_data_plane.envoy.extensions.transport_sockets.raw_buffer import v3 as raw_buffer
from envoy_data_plane.envoy.extensions.transport_sockets.tls import v3 as tls
from envoy_data_plane.envoy.extensions.upstreams.http import v3 as upstreams
from envoy_data_plane.google import protobuf
from envoy_data_plane.xds.type.matcher import v3 as matcher

from tests import goldens
from xds.snapshot import ResourceType

MESSAGES: dict[ResourceType, type[betterproto2.Message]] = {
    ResourceType.CLUSTER: cluster.Cluster,
    ResourceType.ENDPOINTS: endpoint.ClusterLoadAssignment,
    ResourceType.LISTENER: listener.Listener,
    ResourceType.ROUTES: route.RouteConfiguration,
}
EXTENSIONS = (
    authenticated,
    cel,
    descriptor_expression,
    early_header,
    fault,
    ext_authz,
    filter_chain,
    jwt_authn,
    filter_state,
    header_mutation,
    http,
    http_rbac,
    network_rbac,
    http_filter_state,
    local_ratelimit,
    matcher,
    matching,
    network_inputs,
    on_demand,
    original_dst,
    otlp_logs,
    previous_hosts,
    ratelimit,
    raw_buffer,
    request_id,
    router,
    samplers,
    skip,
    stats,
    stream_logs,
    tcp_proxy,
    tls,
    tls_inspector,
    trace,
    upstreams,
)
"""Imported, and thereby known to ``Any``: what our resources embed."""

UNREADABLE = frozenset({"type.googleapis.com/xds.type.matcher.v3.IPMatcher"})
"""Types that this copy does not have at all."""


def unknown(message: betterproto2.Message) -> Iterator[str]:
    """The types, anywhere inside, in which something stands that this copy has no field for."""
    if message._unknown_fields:  # pyright: ignore[reportPrivateUsage]
        yield type(message).__name__
    if isinstance(message, protobuf.Any):
        if message.type_url in UNREADABLE:
            return
        inner = message.unpack()
        if inner is not None:
            yield from unknown(inner)
        return
    for field in dataclasses.fields(cast("Any", message)):
        for value in _members(getattr(message, field.name)):
            if isinstance(value, betterproto2.Message):
                yield from unknown(value)


def _members(value: Any) -> list[Any]:
    match value:
        case dict():
            return list(cast("dict[Any, Any]", value).values())
        case list():
            return cast("list[Any]", value)
        case _:
            return [value]


# Deprecated in 1.40; their successors are unknown to the older versions of Envoy that we keep working.
@pytest.mark.filterwarnings("ignore:Config.stat_prefix is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Cluster.(respect_)?dns_.* is deprecated:DeprecationWarning")
@pytest.mark.parametrize("kind", MESSAGES)
def test_another_copy_of_the_api_reads_every_golden_resource(kind: ResourceType) -> None:
    """No field that we write is ours alone, extensions included."""
    cases = map(goldens.compiled, ("", *goldens.sentences()))
    bodies = {body for case in cases for (of, _), body in case.bodies.items() if of is kind}
    found = {name for body in bodies for name in unknown(MESSAGES[kind].parse(body))}

    assert bodies
    assert not found


def test_what_is_no_field_is_found() -> None:
    """The search would tell: a field number that nobody has, inside an extension."""
    strange = protobuf.Any(
        type_url="type.googleapis.com/envoy.config.cluster.v3.Cluster", value=b"\xfa\xff\x0f\x01a"
    )

    assert list(unknown(strange)) == ["Cluster"]
