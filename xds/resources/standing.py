"""Filters of an inbound port for an Envoy that takes none from routes: they stand in the listener, which routes set up.

It owns which part of a port's rules stands where (docs/adr/0036); it must never let a request pass where route and
listener disagree about tokens or about who is asked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from xxhash import xxh3_64_hexdigest

from xds.features import rate_limit, shared_limit
from xds.pb.envoy.config.route.v3 import route_components_pb2
from xds.pb.envoy.extensions.filters.http.jwt_authn.v3 import config_pb2
from xds.pb.envoy.extensions.filters.http.local_ratelimit.v3 import local_rate_limit_pb2
from xds.pb.envoy.extensions.filters.http.rbac.v3 import rbac_pb2
from xds.resources import access
from xds.resources.filters import http_filter
from xds.resources.parts import pack, serialise

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from google.protobuf.message import Message

    from xds.pb.envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
    from xds.resources.access import Part

_OFF: Final = pack(route_components_pb2.FilterConfig(disabled=True))


def generation(parts: Iterable[Part]) -> str:
    """Return what names the parts that no route can bring: equal for equal tokens and equal ones who are asked.

    The listener's token filter knows its own generation only, and refuses a route that wants another one. So a
    connection whose listener is older than the rules is refused until it is drained, and never let through unasked.
    """
    held = [
        f"{name} {serialise(config).hex()}"
        for name, config in parts
        if name == access.TOKENS or name.startswith(access.ASKED)
    ]
    return f"generation-{xxh3_64_hexdigest(' '.join(held).encode())}"


def filters(parts: list[Part], stat_prefix: str) -> Iterator[http_connection_manager_pb2.HttpFilter]:
    """Yield the filters of a listener, in order: those that every route may configure, and those that hold for all.

    Without a route's word nobody passes.
    """
    named = dict(parts)
    asked = [part for part in parts if part[0] not in _STANDING]
    idle = rate_limit.idle(stat_prefix)
    shared = named.get(shared_limit.FILTER)
    yield http_filter(access.UNVERIFIED, rbac_pb2.RBAC())
    yield http_filter(access.TOKENS, _verified(named.get(access.TOKENS), generation(parts)))
    for name, config in asked:
        yield http_filter(name, rbac_pb2.RBAC() if isinstance(config, rbac_pb2.RBAC) else config)
    yield http_filter(access.AUDIT, rbac_pb2.RBAC())
    yield http_filter(access.DENY, rbac_pb2.RBAC())
    yield http_filter(access.ALLOW, access.nobody())
    yield http_filter(rate_limit.FILTER, idle)
    if shared is not None:
        yield http_filter(shared_limit.FILTER, shared)


_STANDING: Final = frozenset(
    {
        access.UNVERIFIED,
        access.TOKENS,
        access.AUDIT,
        access.DENY,
        access.ALLOW,
        rate_limit.FILTER,
        shared_limit.FILTER,
    }
)
"""Filters with a place of their own; the others are pairs of a rule and of who is asked where it matches."""


def configure(route: route_components_pb2.Route, parts: Iterable[Part], wanted: str) -> None:
    """Put into a route what a request on it passes; ``wanted`` is the generation of its tokens, empty for none."""
    tokens = config_pb2.PerRouteConfig(requirement_name=wanted)
    if not wanted:
        tokens = config_pb2.PerRouteConfig(disabled=True)
    found = {access.TOKENS: pack(tokens), shared_limit.FILTER: _OFF}
    for name, config in parts:
        match config:
            case rbac_pb2.RBAC():
                found[name] = pack(rbac_pb2.RBACPerRoute(rbac=config))
            case local_rate_limit_pb2.LocalRateLimit():
                found[name] = pack(config)
            case _ if name == shared_limit.FILTER:
                del found[name]
            case _:  # stands in the listener
                pass
    for name, packed in found.items():
        route.typed_per_filter_config[name].CopyFrom(packed)


def _verified(config: Message | None, wanted: str) -> config_pb2.JwtAuthentication:
    """Return the token filter that verifies what routes of one generation want, and refuses those of others."""
    found = config_pb2.JwtAuthentication()
    requirement = config_pb2.JwtRequirement()
    if isinstance(config, config_pb2.JwtAuthentication):
        found.CopyFrom(config)
        (rule,) = config.rules
        requirement.CopyFrom(rule.requires)
        del found.rules[:]
    found.requirement_map[wanted].CopyFrom(requirement)
    return found
