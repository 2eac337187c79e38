"""Virtual hosts and route tables, as bytes that two independent readers agree on."""

from __future__ import annotations

import pytest

from tests.fakes.independent import route as independent
from tests.fakes.reading import reader
from xds.features import headers, load_balancer, redirect, retry
from xds.features.direct_response import DirectResponse
from xds.features.match import Match
from xds.features.mirror import Mirror
from xds.features.timeout import Timeout
from xds.grammar import MatchKind, StringMatch
from xds.ir import Destination, Forward, Route, VirtualHost
from xds.pb.envoy.config.route.v3 import route_components_pb2
from xds.pb.envoy.config.route.v3.route_pb2 import RouteConfiguration
from xds.resources import names, route

PLAIN = Route("Service/shop/orders/80", None, Forward((Destination("c", 100),)), (retry.DEFAULT,))


def host_of(*routes: Route) -> VirtualHost:
    """Return a virtual host of these routes."""
    return VirtualHost("orders:80", ("orders", "orders:80"), routes)


def table(*hosts: VirtualHost) -> RouteConfiguration:
    """Return a built table, parsed."""
    framed = [route.build_virtual_host(host) for host in hosts]
    return RouteConfiguration.FromString(route.build_table("outbound", framed))


def built(node: Route) -> route_components_pb2.Route:
    """Return one built route, parsed."""
    return table(host_of(node)).virtual_hosts[0].routes[0]


def test_table_has_name_and_hosts_in_order() -> None:
    """A table is its name and its hosts, in the order in which they are given."""
    other = VirtualHost("stock:80", ("stock",), (PLAIN,))
    found = table(host_of(PLAIN), other)

    assert (found.name, [h.name for h in found.virtual_hosts]) == ("outbound", ["orders:80", "stock:80"])


def test_empty_table() -> None:
    """A table without hosts is valid: every Host is unknown, which is 404."""
    assert list(table().virtual_hosts) == []


def test_route_to_an_unknown_cluster_is_no_error() -> None:
    """A cluster that is missing costs its own requests, never the table."""
    assert table().HasField("validate_clusters") and not table().validate_clusters.value


def test_equal_nodes_are_equal_bytes() -> None:
    """The same node gives the same bytes, which is what versions are made of."""
    faults = tuple(sorted((f"x-{i}", "a") for i in range(20)))
    node = host_of(Route("r", None, PLAIN.action, (headers.HeaderOps(headers.Edits(faults)),)))

    assert route.build_virtual_host(node) == route.build_virtual_host(node)


def test_attempt_count_reaches_the_application() -> None:
    """Applications can tell a retry from a first try."""
    assert table(host_of(PLAIN)).virtual_hosts[0].include_request_attempt_count is True


def test_route_without_a_match_takes_everything() -> None:
    """No match is the prefix /."""
    assert built(PLAIN).match == route_components_pb2.RouteMatch(prefix="/")


def test_route_has_its_provenance_as_name() -> None:
    """Access logs and metrics show which rule decided."""
    assert built(PLAIN).name == "Service/shop/orders/80"


def test_span_is_called_by_its_host() -> None:
    """A span's name holds no path, which may hold what must not be told."""
    assert built(PLAIN).decorator.operation == "orders:80/*"


def test_forward_has_no_timeout_by_default() -> None:
    """Envoy's 15 s do not apply, and a gRPC client's own timeout does."""
    action = built(PLAIN).route

    assert action.HasField("timeout") and action.timeout.ToMilliseconds() == 0
    assert action.HasField("max_grpc_timeout")


def test_timeout_of_a_rule_wins() -> None:
    """The default gives way to a feature."""
    assert built(Route("r", None, PLAIN.action, (Timeout(2000),))).route.timeout.seconds == 2


def test_one_destination_is_a_cluster() -> None:
    """The common case is the small one on the wire."""
    assert built(PLAIN).route.cluster == "c"


def test_several_destinations_share() -> None:
    """Weights are relative to their sum."""
    node = Route("r", None, Forward((Destination("a", 90), Destination("b", 10))))

    assert [(c.name, c.weight.value) for c in built(node).route.weighted_clusters.clusters] == [
        ("a", 90),
        ("b", 10),
    ]


def test_headers_of_one_destination() -> None:
    """A single destination's header operations are its own, not the route's."""
    ops = headers.HeaderOps(headers.Edits(remove=("x-a",)))
    share = built(Route("r", None, Forward((Destination("a", 100, ops),)))).route.weighted_clusters.clusters[
        0
    ]

    assert (share.name, list(share.request_headers_to_remove)) == ("a", ["x-a"])


def test_destination_headers_come_after_the_routes() -> None:
    """Where both set a header the destination wins, as in Istio."""
    assert table().most_specific_header_mutations_wins is True


def test_match() -> None:
    """A route's match is the rule's."""
    match = Match(uri=StringMatch(MatchKind.PREFIX, "/a"))

    assert built(Route("r", match, PLAIN.action)).match.prefix == "/a"


def test_redirect_is_no_forward() -> None:
    """A route that answers itself has no destination and no timeout."""
    found = built(Route("r", None, redirect.Redirect(uri="/b")))

    assert found.WhichOneof("action") == "redirect"


def test_direct_response_with_a_body_that_the_table_allows() -> None:
    """The largest body that is read is one that the table allows."""
    found = table(host_of(Route("r", None, DirectResponse(200, b"a"))))

    assert found.virtual_hosts[0].routes[0].direct_response.body.inline_bytes == b"a"
    assert found.max_direct_response_body_size_bytes.value == 1 << 20


def test_mirror_is_a_feature_like_any_other() -> None:
    """Features are applied in order, mirrors among them."""
    node = Route("r", None, PLAIN.action, (Mirror("a", cluster="m"),))

    assert built(node).route.request_mirror_policies[0].cluster == "m"


@pytest.mark.parametrize("is_first", [True, False])
def test_hash_and_avoiding_hosts_exclude_each_other(*, is_first: bool) -> None:
    """A retry of a hashed request goes where it belongs, in whatever order the features come."""
    hashing = load_balancer.ConsistentHash(load_balancer.HashKey.SOURCE_IP)
    features = (hashing, retry.DEFAULT) if is_first else (retry.DEFAULT, hashing)
    action = built(Route("r", None, PLAIN.action, features)).route

    assert len(action.hash_policy) == 1 and not action.retry_policy.retry_host_predicate


def test_hash_without_retries_brings_none() -> None:
    """A hash policy does not make an empty retry policy appear, which would be no retries."""
    hashing = load_balancer.ConsistentHash(load_balancer.HashKey.SOURCE_IP)

    assert not built(Route("r", None, PLAIN.action, (hashing,))).route.HasField("retry_policy")


def test_an_independent_reader_agrees() -> None:
    """Classes generated by another compiler from the same API read the same values."""
    ops = headers.read(reader("headers: {request: {set: {x-a: '%REQ(b)%'}}}"))
    features = (retry.DEFAULT, Timeout(1500), Mirror("a", percent=0.5, cluster="m"), *((ops,) if ops else ()))
    node = Route(
        "r",
        Match(uri=StringMatch(MatchKind.REGEX, "/a.*")),
        Forward((Destination("a", 1), Destination("b", 2))),
        features,
    )
    found = independent.RouteConfiguration.parse(
        route.build_table("outbound", [route.build_virtual_host(host_of(node))])
    )
    action = found.virtual_hosts[0].routes[0].route

    assert action is not None and action.weighted_clusters is not None and action.retry_policy is not None
    assert [c.name for c in action.weighted_clusters.clusters] == ["a", "b"]
    assert action.retry_policy.retry_on == ",".join(retry.DEFAULT.safe)
    assert RouteConfiguration.FromString(bytes(found)) == table(host_of(node))


@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        ("VirtualService/shop/orders/0", ("VirtualService", "shop", "orders", "0")),
        ("VirtualService/shop/orders/a/b", ("VirtualService", "shop", "orders", "a/b")),
        ("Service/shop/orders/80", ("Service", "shop", "orders", "80")),
        ("Gateway/shop/orders/80", None),
        ("Service/shop", None),
    ],
)
def test_route_names_come_back(name: str, parsed: tuple[str, ...] | None) -> None:
    """A route's name says which object and which of its rules it comes from."""
    assert names.parse_route(name) == parsed
