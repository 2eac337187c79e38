"""The route table of a listener in which the dialled destination decides: a join of framed rules.

It owns what happens to a request whose destination has no rule; it must never know which destinations exist.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xds.features import retry, timeout
from xds.pb.envoy.config.route.v3 import route_components_pb2, route_pb2
from xds.pb.envoy.type.matcher.v3 import http_inputs_pb2
from xds.pb.xds.core.v3 import extension_pb2
from xds.pb.xds.type.matcher.v3 import matcher_pb2
from xds.resources.outbound import DESTINATION
from xds.resources.parts import pack, serialise
from xds.resources.route import route, table
from xds.wire import field

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.protobuf.message import Message

    from xds.ir import Rules

_Matcher = matcher_pb2.Matcher
_Host = route_components_pb2.VirtualHost
_MAP = _Matcher.MatcherTree.EXACT_MATCH_MAP_FIELD_NUMBER
_TREE = _Matcher.MATCHER_TREE_FIELD_NUMBER
_MATCHER = _Host.MATCHER_FIELD_NUMBER
_HOSTS = route_pb2.RouteConfiguration.VIRTUAL_HOSTS_FIELD_NUMBER


def build_rules(rules: Rules) -> bytes:
    """Return one destination's routes framed as an entry of the table's map, ready to be joined with others.

    A request that none of the routes matches is answered 404, as by the virtual host of a Service.
    """
    routes = route_components_pb2.RouteList(routes=[route(found, rules.host) for found in rules.routes])
    entry = _Matcher.MatcherTree.MatchMap()
    entry.map[rules.name].action.CopyFrom(_extension("rules", routes))
    return serialise(entry)


def build_destinations(name: str, framed_rules: Sequence[bytes]) -> bytes:
    """Return the RouteConfiguration of framed rules.

    Protobuf lets a message be cut between its fields and joined again; so each wrapper around the rules is what
    stands beside them, followed by them as one more field.
    """
    matcher = _Matcher(on_no_match=matcher_pb2.Matcher.OnMatch(action=_extension("any", _anywhere())))
    tree = _Matcher.MatcherTree(input=_extension("destination", _by_header()))
    body = serialise(matcher)
    if framed_rules:
        # An empty map is refused.
        body += field(_TREE, serialise(tree) + field(_MAP, b"".join(framed_rules)))
    host = _Host(name=name, domains=["*"], include_request_attempt_count=True)
    message = table(name)
    message.request_headers_to_remove.append(DESTINATION)
    return serialise(message) + field(_HOSTS, serialise(host) + field(_MATCHER, body))


def _by_header() -> http_inputs_pb2.HttpRequestHeaderMatchInput:
    return http_inputs_pb2.HttpRequestHeaderMatchInput(header_name=DESTINATION)


def _anywhere() -> route_components_pb2.Route:
    """Return the route of every destination without rules: to the cluster of its name.

    Without a decorator: who answers then names the operation at both ends, and Envoy the caller's by the request's
    host where nobody does.
    """
    message = route_components_pb2.Route(name="any")
    message.match.prefix = "/"
    message.route.cluster_header = DESTINATION
    timeout.NONE.patch_route(message)
    retry.DEFAULT.patch_route(message)
    return message


def _extension(name: str, config: Message) -> extension_pb2.TypedExtensionConfig:
    return extension_pb2.TypedExtensionConfig(name=name, typed_config=pack(config))
