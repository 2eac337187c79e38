"""Ports of Envoys that take no filters from routes: what stands in the listener, and what a route may change."""

from __future__ import annotations

from dataclasses import replace

from xds import ir
from xds.access import Access, Asked, Issuer, Named
from xds.api.core import Protocol
from xds.api.istio_authorization import Rule
from xds.api.istio_jwt import JwtRule
from xds.api.provider_fields import ProviderService
from xds.api.providers import ExtAuthzGrpc
from xds.pb.envoy.config.listener.v3 import listener_pb2
from xds.pb.envoy.config.route.v3 import route_components_pb2, route_pb2
from xds.pb.envoy.extensions.filters.http.jwt_authn.v3 import config_pb2
from xds.pb.envoy.extensions.filters.http.rbac.v3 import rbac_pb2
from xds.pb.envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from xds.resources import inbound_routes, listener

NOBODY = Access(allow=())
DENIED = Access(deny=(Named("AuthorizationPolicy/shop/p/0", Rule()),))
TOKENS = Access(
    issuers=(Issuer("RequestAuthentication/shop/a/0", JwtRule("https://issuer.example", jwks="{}")),)
)
PROVIDER = ExtAuthzGrpc("judge", ProviderService("judge.shop.svc.cluster.local", 9000))
ASKED = Access(asked=(Asked(PROVIDER, "provider|judge", (Named("AuthorizationPolicy/shop/c/0", Rule()),)),))

WORKLOAD = ir.Workload("orders", "shop", "orders", "orders", "v1", "cluster.local")
PORT = ir.Inbound(
    "inbound|8080",
    "10.0.0.1",
    8080,
    Protocol.HTTP,
    ir.MtlsMode.STRICT,
    "inbound|8080||",
    WORKLOAD,
    is_older=True,
)


def filters(access: Access | None) -> dict[str, bytes]:
    """The HTTP filters of the port's listener, in order."""
    message = listener_pb2.Listener.FromString(listener.build(replace(PORT, access=access)))
    manager = http_connection_manager_pb2.HttpConnectionManager()
    message.filter_chains[0].filters[-1].typed_config.Unpack(manager)
    return {found.name: found.typed_config.value for found in manager.http_filters}


def routes(access: Access | None) -> list[route_components_pb2.Route]:
    """The routes of the port."""
    body = inbound_routes.build(ir.InboundRoutes("inbound|8080", replace(PORT, access=access)))
    (host,) = route_pb2.RouteConfiguration.FromString(body).virtual_hosts
    return list(host.routes)


def token_word(route: route_components_pb2.Route) -> config_pb2.PerRouteConfig:
    """What a route tells the token filter."""
    found = config_pb2.PerRouteConfig()
    assert route.typed_per_filter_config["tokens"].Unpack(found)
    return found


def requirement(access: Access | None) -> str:
    """What the port's main route wants of the token filter."""
    return token_word(routes(access)[-1]).requirement_name


def known(access: Access | None) -> set[str]:
    """What the listener's token filter knows."""
    return set(config_pb2.JwtAuthentication.FromString(filters(access)["tokens"]).requirement_map)


def test_rules_change_no_listener() -> None:
    """They come with the routes, for the next request of open connections."""
    assert filters(None) == filters(NOBODY) == filters(DENIED)
    assert routes(None) != routes(NOBODY) != routes(DENIED)


def test_without_a_word_of_the_route_nobody_passes() -> None:
    """A listener alone opens nothing."""
    closed = rbac_pb2.RBAC.FromString(filters(None)["allow"])

    assert closed.HasField("rules")
    assert not closed.rules.policies


def test_listener_and_route_know_each_other() -> None:
    """What no route can bring has a name that both hold; of another generation each refuses the other."""
    cases = (None, TOKENS, ASKED, replace(TOKENS, asked=ASKED.asked))

    assert [known(access) for access in cases] == [{requirement(access)} for access in cases]
    assert len({requirement(access) for access in cases}) == len(cases)


def test_the_ways_around_policies_ask_for_no_token() -> None:
    """An answer that no policy concerns is given whoever asks."""
    two_hosts = routes(TOKENS)[0]

    assert two_hosts.name == "two-hosts"
    assert token_word(two_hosts).disabled


def test_who_is_asked_stands_behind_the_rule_that_asks() -> None:
    """In the order of today's chain, and before what denies and allows."""
    assert list(filters(replace(TOKENS, asked=ASKED.asked))) == [
        "unverified",
        "tokens",
        "custom-0",
        "asked-0",
        "audit",
        "deny",
        "allow",
        "envoy.filters.http.local_ratelimit",
        "envoy.filters.http.router",
    ]
