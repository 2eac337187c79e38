"""How the requests to one cluster are spread over its endpoints."""

from __future__ import annotations

import pytest

from tests.fakes.reading import cluster, notes, present, reader, refusal, route
from xds.features import load_balancer
from xds.features.load_balancer import ConsistentHash
from xds.pb.envoy.config.cluster.v3.cluster_pb2 import Cluster
from xds.pb.envoy.config.route.v3.route_components_pb2 import RouteAction


def balanced(text: str) -> Cluster:
    """Return a cluster with this load balancer."""
    message = cluster()
    present(load_balancer.read(reader(f"loadBalancer: {text}"))).patch_cluster(message)
    return message


@pytest.mark.parametrize(
    ("simple", "policy"),
    [
        ("ROUND_ROBIN", Cluster.ROUND_ROBIN),
        ("RANDOM", Cluster.RANDOM),
        ("LEAST_REQUEST", Cluster.LEAST_REQUEST),
        ("LEAST_CONN", Cluster.LEAST_REQUEST),
        ("UNSPECIFIED", Cluster.LEAST_REQUEST),
    ],
)
def test_simple_balancer(simple: str, policy: int) -> None:
    """Istio's names for balancers, the deprecated one and its default included."""
    assert balanced(f"{{simple: {simple}}}").lb_policy == policy


def test_ring() -> None:
    """A consistent hash is a ring of Istio's size by default."""
    message = balanced("{consistentHash: {httpHeaderName: X-User}}")

    assert (message.lb_policy, message.ring_hash_lb_config.minimum_ring_size.value) == (
        Cluster.RING_HASH,
        1024,
    )


@pytest.mark.parametrize("size", ["minimumRingSize: 64", "ringHash: {minimumRingSize: 64}"])
def test_ring_size(size: str) -> None:
    """The ring's size can be given in the new field and in the old one."""
    message = balanced(f"{{consistentHash: {{useSourceIp: true, {size}}}}}")

    assert message.ring_hash_lb_config.minimum_ring_size.value == 64


def test_maglev() -> None:
    """A consistent hash can be a Maglev table."""
    message = balanced("{consistentHash: {useSourceIp: true, maglev: {}}}")

    assert (message.lb_policy, message.maglev_lb_config.table_size.value) == (Cluster.MAGLEV, 65_537)


def hashed(text: str) -> RouteAction.HashPolicy:
    """Return the hash policy of a route to such a cluster."""
    found = load_balancer.read(reader(f"loadBalancer: {{consistentHash: {text}}}"))
    message = route()

    assert isinstance(found, ConsistentHash)
    found.patch_route(message)
    return message.route.hash_policy[0]


def test_hash_of_a_header() -> None:
    """The route says which header is hashed."""
    assert hashed("{httpHeaderName: X-User}").header.header_name == "x-user"


def test_hash_of_a_query_parameter() -> None:
    """The route says which query parameter is hashed."""
    assert hashed("{httpQueryParameterName: user}").query_parameter.name == "user"


@pytest.mark.parametrize("text", ["{useSourceIp: true}"])
def test_hash_of_the_source_address(text: str) -> None:
    """The route says that the caller's address is hashed."""
    assert hashed(text).connection_properties.source_ip is True


def test_hash_of_a_cookie_that_envoy_sets() -> None:
    """A TTL, 0 included, makes Envoy set a missing cookie."""
    cookie = hashed("{httpCookie: {name: u, path: /, ttl: 0s}}").cookie

    assert (cookie.name, cookie.path, cookie.HasField("ttl")) == ("u", "/", True)


def test_hash_of_a_cookie_that_the_application_sets() -> None:
    """Without a TTL the cookie is only read."""
    assert not hashed("{httpCookie: {name: u}}").cookie.HasField("ttl")


def test_unused_key_does_not_count() -> None:
    """useSourceIp: false beside another key is how generated YAML looks."""
    assert hashed("{httpHeaderName: a, useSourceIp: false}").header.header_name == "a"


@pytest.mark.parametrize("field", ["warmup: {duration: 30s}", "warmupDurationSecs: 30s"])
def test_warmup(field: str) -> None:
    """New endpoints get their share slowly."""
    config = balanced(f"{{simple: ROUND_ROBIN, {field}}}").round_robin_lb_config.slow_start_config

    assert (config.slow_start_window.seconds, config.min_weight_percent.value) == (30, 10.0)


def test_warmup_of_the_default_balancer() -> None:
    """Warmup alone keeps the default balancer."""
    config = balanced("{warmup: {duration: 30s, aggression: 2, minimumPercent: 5}}").least_request_lb_config

    assert config.slow_start_config.aggression.default_value == 2.0
    assert config.slow_start_config.min_weight_percent.value == 5.0


@pytest.mark.parametrize(
    ("text", "start"),
    [
        (
            "{simple: RANDOM, warmup: {duration: 1s}}",
            "warning: x.loadBalancer.warmup: has an effect only with",
        ),
        (
            "{localityLbSetting: {enabled: true}}",
            "warning: x.loadBalancer.localityLbSetting: is not supported yet and was left",
        ),
        (
            "{consistentHash: {httpCookie: {name: a, attributes: [{name: b}]}}}",
            "warning: x.loadBalancer.consistentHash.httpCookie.attributes: is not supported yet",
        ),
    ],
)
def test_balancer_fields_without_effect_are_told(text: str, start: str) -> None:
    """What is left out cannot misroute, and the user is told."""
    assert notes(load_balancer.read, f"loadBalancer: {text}")[0].startswith(start)


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("{simple: PASSTHROUGH}", "x.loadBalancer.simple: PASSTHROUGH is not supported yet"),
        ("{simple: FASTEST}", "x.loadBalancer.simple: must be one of UNSPECIFIED, LEAST_REQUEST"),
        (
            "{simple: RANDOM, consistentHash: {useSourceIp: true}}",
            "x.loadBalancer.consistentHash: excludes simple",
        ),
        ("{consistentHash: {}}", "x.loadBalancer.consistentHash.httpHeaderName: must stand alone"),
        (
            "{consistentHash: {useSourceIp: false}}",
            "x.loadBalancer.consistentHash.httpHeaderName: must stand alone",
        ),
        (
            "{consistentHash: {useSourceIp: true, httpHeaderName: a}}",
            "x.loadBalancer.consistentHash.httpHeaderName: must",
        ),
        (
            "{consistentHash: {httpHeaderName: ':path'}}",
            'x.loadBalancer.consistentHash.httpHeaderName: ":path" is not',
        ),
        (
            "{consistentHash: {httpQueryParameterName: ''}}",
            "x.loadBalancer.consistentHash.httpQueryParameterName: must not",
        ),
        ("{consistentHash: {httpCookie: {}}}", "x.loadBalancer.consistentHash.httpCookie.name: is required"),
        (
            "{consistentHash: {httpCookie: {name: 'a=b'}}}",
            "x.loadBalancer.consistentHash.httpCookie.name: must be a cookie",
        ),
        (
            "{consistentHash: {httpCookie: {name: a, path: 'a;b'}}}",
            "x.loadBalancer.consistentHash.httpCookie.path: must be",
        ),
        (
            "{consistentHash: {useSourceIp: true, minimumRingSize: 8388609}}",
            "x.loadBalancer.consistentHash.minimumRingSize",
        ),
        (
            "{consistentHash: {useSourceIp: true, maglev: {tableSize: 100}}}",
            "x.loadBalancer.consistentHash.maglev.tableSize: must be a prime",
        ),
        (
            "{consistentHash: {useSourceIp: true, maglev: {}, ringHash: {}}}",
            "x.loadBalancer.consistentHash.maglev: ringHash",
        ),
        ("{warmup: {}}", "x.loadBalancer.warmup.duration: is required"),
        (
            "{warmup: {duration: 1s}, warmupDurationSecs: 1s}",
            "x.loadBalancer.warmupDurationSecs: excludes warmup",
        ),
    ],
)
def test_refused_balancer(text: str, start: str) -> None:
    """Balancers that would send requests elsewhere than the user thinks are refused."""
    assert refusal(load_balancer.read, f"loadBalancer: {text}").startswith(start)
