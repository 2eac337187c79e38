"""Header operations: what is set, added and removed on requests and responses, per route and per destination.

It owns Istio's Headers message; it must never touch a pseudo-header other than the authority,
which has a field of its own because Envoy rewrites it elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from xds.grammar import check_header_name, check_header_value, check_plain
from xds.pb.envoy.config.core.v3 import base_pb2

if TYPE_CHECKING:
    from google.protobuf.internal.containers import RepeatedCompositeFieldContainer

    from xds.fields import Reader
    from xds.pb.envoy.config.route.v3 import route_components_pb2

SUPPORT: Final = (
    ("http[].headers.request.set, add, remove", "route.request_headers_to_add, _to_remove", ""),
    ("http[].headers.response.set, add, remove", "route.response_headers_to_add, _to_remove", ""),
    ("http[].route[].headers", "weighted_clusters.clusters[]", "applied after the route's own"),
    ("http[].headers.request.set[:authority]", "route.host_rewrite_literal", "host is the same"),
)
"""Field, where it ends in Envoy, remark: the rows of docs/features.md."""

MAX_EDITS: Final = 1000
"""Most headers that Envoy lets one route add (route_components.proto)."""

_AUTHORITY: Final = frozenset({":authority", "host"})

_REPLACE: Final = base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
_APPEND: Final = base_pb2.HeaderValueOption.APPEND_IF_EXISTS_OR_ADD

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Edits:
    """What happens to the headers of one direction; pairs are sorted by name."""

    replace: Pairs = ()
    append: Pairs = ()
    remove: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HeaderOps:
    """Edits to requests and responses; ``authority`` replaces the request's Host where it is not empty."""

    request: Edits = Edits()
    response: Edits = Edits()
    authority: str = ""

    def patch_route(self, route: route_components_pb2.Route) -> None:
        """Write the operations into the route itself."""
        self._patch(route)
        if self.authority and route.WhichOneof("action") == "route":
            route.route.host_rewrite_literal = self.authority

    def patch_destination(self, destination: route_components_pb2.WeightedCluster.ClusterWeight) -> None:
        """Write the operations into one of several destinations."""
        self._patch(destination)
        if self.authority:
            destination.host_rewrite_literal = self.authority

    def _patch(
        self, target: route_components_pb2.Route | route_components_pb2.WeightedCluster.ClusterWeight
    ) -> None:
        _patch_values(target.request_headers_to_add, self.request)
        _patch_values(target.response_headers_to_add, self.response)
        target.request_headers_to_remove.extend(self.request.remove)
        target.response_headers_to_remove.extend(self.response.remove)


def read(parent: Reader, name: str = "headers") -> HeaderOps | None:
    """Return the operations in a field of a route or destination, None where the field is absent or empty."""
    reader = parent.object(name)
    if reader is None:
        return None
    request = reader.object("request")
    response = reader.object("response")
    reader.done()
    authority = "" if request is None else _authority(request)
    ops = HeaderOps(
        _edits(request, may_set_authority=True), _edits(response, may_set_authority=False), authority
    )
    return None if ops == HeaderOps() else ops


def _authority(request: Reader) -> str:
    found = [
        (f"{request.at(name)}.{key}", value)
        for name in ("set", "add")
        for key, value in request.labels(name)
        if key.lower() in _AUTHORITY
    ]
    if len(found) > 1:
        raise request.fail("set", "must set the authority once; it is in set or add more than once")
    for path, value in found:
        if "%" in value:
            raise request.fail(
                "set", f"{path} must be plain text: Envoy does not substitute in the authority"
            )
        return check_plain(path, value)
    return ""


def _edits(reader: Reader | None, *, may_set_authority: bool) -> Edits:
    if reader is None:
        return Edits()
    ignored = _AUTHORITY if may_set_authority else frozenset[str]()
    edits = Edits(_pairs(reader, "set", ignored), _pairs(reader, "add", ignored), _removed(reader))
    reader.done()
    if len(edits.replace) + len(edits.append) > MAX_EDITS:
        raise reader.fail("set", f"and add must hold at most {MAX_EDITS} headers together")
    return edits


def _pairs(reader: Reader, name: str, ignored: frozenset[str]) -> Pairs:
    out: dict[str, str] = {}
    for key, value in reader.labels(name):
        path = f"{reader.at(name)}.{key}"
        if key.lower() in ignored:
            continue
        header = check_header_name(path, key)
        if header in out:
            raise reader.fail(name, f"has {header} twice; header names do not tell upper from lower case")
        out[header] = check_header_value(path, value)
    return tuple(sorted(out.items()))


def _removed(reader: Reader) -> tuple[str, ...]:
    names = reader.texts("remove")
    return tuple(check_header_name(f"{reader.at('remove')}[{i}]", name) for i, name in enumerate(names))


def _patch_values(target: RepeatedCompositeFieldContainer[base_pb2.HeaderValueOption], edits: Edits) -> None:
    for pairs, action in ((edits.replace, _REPLACE), (edits.append, _APPEND)):
        for key, value in pairs:
            target.add(
                header=base_pb2.HeaderValue(key=key, value=value), append_action=action, keep_empty_value=True
            )
