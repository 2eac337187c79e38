"""Readers of traffic kinds raise nothing but ConfigError, and what they accept can always be built."""

from __future__ import annotations

import contextlib

import hypothesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.props.strategies import DESTINATION_RULE, FAULT, JSON, RATE_LIMIT, VIRTUAL_SERVICE, broken
from xds import ir
from xds.api.core import Meta
from xds.api.fault import read_fault
from xds.api.istio_traffic import (
    DestinationRule,
    TrafficPolicy,
    VirtualService,
    read_destination_rule,
    read_virtual_service,
)
from xds.api.rate_limit import RateLimit, read_rate_limit
from xds.features import rate_limit as limits
from xds.features import shared_limit
from xds.fields import ConfigError, Note, Reader
from xds.pb.envoy.config.cluster.v3 import cluster_pb2
from xds.pb.envoy.config.route.v3 import route_pb2
from xds.pb.envoy.extensions.filters.http.local_ratelimit.v3 import local_rate_limit_pb2
from xds.resources import names, route

META = Meta("shop", "orders")
SLOW_INPUTS = settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)


def virtual_service(spec: object) -> VirtualService | None:
    """Return what is accepted, None for what is refused."""
    try:
        return read_virtual_service(Reader(spec, "spec", []), META)
    except ConfigError:
        return None


def destination_rule(spec: object) -> DestinationRule | None:
    """Return what is accepted, None for what is refused."""
    try:
        return read_destination_rule(Reader(spec, "spec", []), META)
    except ConfigError:
        return None


def rate_limit(spec: object) -> RateLimit | None:
    """Return what is accepted, None for what is refused."""
    try:
        return read_rate_limit(Reader(spec, "spec", []), META)
    except ConfigError:
        return None


def routes_of(service: VirtualService) -> ir.VirtualHost:
    """Compile rules in the simplest way: every host is its own cluster."""
    routes: list[ir.Route] = []
    for rule in service.http:
        destinations = tuple(
            ir.Destination(d.destination.host, d.weight, d.headers) for d in rule.destinations
        )
        name = names.rule_route("shop", "orders", rule.name or rule.path)
        features = (*rule.features, *rule.mirrors) if rule.action is None else rule.features
        match = rule.matches[0].match if rule.matches else None
        routes.append(ir.Route(name, match, rule.action or ir.Forward(destinations), features))
    return ir.VirtualHost("orders:80", service.hosts, tuple(routes))


@given(JSON)
def test_virtual_service_of_any_json(spec: object) -> None:
    """Any JSON is a VirtualService or a ConfigError."""
    virtual_service(spec)


@given(JSON)
def test_destination_rule_of_any_json(spec: object) -> None:
    """Any JSON is a DestinationRule or a ConfigError."""
    destination_rule(spec)


@given(JSON)
def test_rate_limit_of_any_json(spec: object) -> None:
    """Any JSON is a RateLimit or a ConfigError."""
    rate_limit(spec)


@given(
    st.text(max_size=40) | st.from_regex(r"[0-9]{1,3}/[smhd]( burst [0-9]+)?( by (caller|header [a-z]+))?;?")
)
def test_rate_limit_of_any_text(text: str) -> None:
    """Any annotation is limits or a ConfigError."""
    with contextlib.suppress(ConfigError):
        hash(limits.read_text(text, "a"))


@given(JSON | broken(FAULT))
def test_fault_of_any_json(spec: object) -> None:
    """Any JSON is a Fault whose end is a number, or a ConfigError."""
    with contextlib.suppress(ConfigError):
        assert isinstance(read_fault(Reader(spec, "spec", []), META).expires_at, float)


@SLOW_INPUTS
@given(broken(RATE_LIMIT))
def test_a_rate_limit_that_is_nearly_right(spec: object) -> None:
    """What is accepted can be built; each rule has a bucket that Envoy takes and that is described."""
    found = rate_limit(spec)
    if found is not None and found.ceiling.shared is not None:
        at = shared_limit.Service("a", "shop", 20, fail_open=True)
        shared_limit.asking(at, found.ceiling.shared.descriptors).SerializeToString()
    if found is None or not found.ceiling.rules:
        return
    config = limits.local("a", [(f"a/{i}", rule) for i, rule in enumerate(found.ceiling.rules)])
    assert local_rate_limit_pb2.LocalRateLimit.FromString(config.SerializeToString()) == config
    for descriptor in config.descriptors:
        assert 0 < descriptor.token_bucket.max_tokens < 2**32
        assert descriptor.token_bucket.fill_interval.ToMilliseconds() >= 50
        described = {
            action.WhichOneof("action_specifier") for r in config.rate_limits for action in r.actions
        }
        assert described


def test_the_valid_specs_are_valid() -> None:
    """The objects that the other properties break are accepted as they stand, without a warning."""
    notes: list[Note] = []
    read_virtual_service(Reader(VIRTUAL_SERVICE, "spec", notes), META)
    read_destination_rule(Reader(DESTINATION_RULE, "spec", notes), META)
    read_rate_limit(Reader(RATE_LIMIT, "spec", notes), META)
    read_fault(Reader(FAULT, "spec", notes), META)

    assert notes == []


@SLOW_INPUTS
@given(broken(VIRTUAL_SERVICE))
def test_accepted_virtual_service_can_be_built(spec: object) -> None:
    """What is accepted is hashable and becomes bytes that Envoy's own schema reads back."""
    service = virtual_service(spec)
    hypothesis.event("accepted" if service else "refused")
    if service is None:
        return
    hash(service)
    table = route.build_table("outbound", [route.build_virtual_host(routes_of(service))])

    parsed = route_pb2.RouteConfiguration.FromString(table)
    assert len(parsed.virtual_hosts[0].routes) == len(service.http)


@SLOW_INPUTS
@given(broken(DESTINATION_RULE))
def test_accepted_destination_rule_can_be_built(spec: object) -> None:
    """What is accepted is hashable and can be patched into a cluster."""
    rule = destination_rule(spec)
    hypothesis.event("accepted" if rule else "refused")
    if rule is None:
        return
    hash(rule)
    for policy in policies(rule):
        cluster = cluster_pb2.Cluster()
        for feature in policy.features:
            feature.patch_cluster(cluster)
        cluster.SerializeToString()


def policies(rule: DestinationRule) -> list[TrafficPolicy]:
    """Return every policy of a rule, ports and subsets included."""
    found = [rule.policy, *(subset.policy for subset in rule.subsets)]
    return [*found, *(policy for outer in found for _, policy in outer.ports)]


@SLOW_INPUTS
@given(st.lists(broken(VIRTUAL_SERVICE), max_size=3))
def test_table_is_the_join_of_its_hosts(specs: list[object]) -> None:
    """A table joined from framed hosts is the message that protobuf builds from the same hosts at once."""
    services = [service for service in map(virtual_service, specs) if service is not None]
    framed = [route.build_virtual_host(routes_of(service)) for service in services]
    hosts = [route_pb2.RouteConfiguration.FromString(piece).virtual_hosts[0] for piece in framed]
    scratch = route_pb2.RouteConfiguration.FromString(route.build_table("outbound", []))
    scratch.virtual_hosts.extend(hosts)

    assert route_pb2.RouteConfiguration.FromString(route.build_table("outbound", framed)) == scratch


@given(st.integers(0, 65_535), st.text("abc-", max_size=5), st.text("abc.-", min_size=1, max_size=20))
def test_cluster_names_come_back(port: int, subset: str, host: str) -> None:
    """A cluster's name can be taken apart into what it was made of."""
    assert names.parse_cluster(names.cluster(port, subset, host)) == (port, subset, host)


@given(st.text())
def test_a_name_is_taken_apart_only_if_it_could_be_made(name: str) -> None:
    """What is read from a name makes the same name again, so no two names mean one thing."""
    if (found := names.parse_cluster(name)) is not None:
        assert names.cluster(*found) == name
    if (port := names.parse_inbound_cluster(name)) is not None:
        assert names.inbound_cluster(port) == name
    if (port := names.parse_inbound_listener(name)) is not None:
        assert names.inbound_listener(port) == name
    if (address := names.parse_tcp_listener(name)) is not None:
        assert names.tcp_listener(*address) == name


@given(
    st.sampled_from(
        [
            "inbound|80||",
            "inbound|080||",
            "inbound|8|",
            "tcp|::1:80",
            "tcp|:80",
            "outbound|1|a|b|c",
            "tcp|a:٣",
        ]
    )
)
def test_odd_names_obey_the_same_rule(name: str) -> None:
    """Leading zeros, foreign digits and missing parts are no names."""
    for parse, make in (
        (names.parse_inbound_cluster, names.inbound_cluster),
        (names.parse_inbound_listener, names.inbound_listener),
    ):
        port = parse(name)
        assert port is None or make(port) == name
    address = names.parse_tcp_listener(name)
    assert address is None or names.tcp_listener(*address) == name
