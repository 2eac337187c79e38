"""Which requests a route takes: Istio's HTTPMatchRequest, as far as the proxy itself decides it.

A value holds only what a request can show; where a caller runs (sourceLabels, port, gateways)
must never be in here, because the compiler decides that before a proxy hears of the route.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from xds.grammar import (
    PRESENT,
    MatchKind,
    StringMatch,
    check_header_name,
    read_string_match,
    read_string_matches,
    undotted,
)

if TYPE_CHECKING:
    from xds.fields import Reader
    from xds.pb.envoy.config.route.v3 import route_components_pb2
    from xds.pb.envoy.type.matcher.v3 import string_pb2

SUPPORT: Final = (
    ("http[].match[].uri", "match.path, prefix, safe_regex", "a prefix is not cut at slashes, as in Istio"),
    ("http[].match[].ignoreUriCase", "match.case_sensitive", "has no effect on a regex"),
    ("http[].match[].scheme", "match.headers[:scheme]", ""),
    ("http[].match[].method", "match.headers[:method]", ""),
    ("http[].match[].authority", "match.headers[:authority]", "with the port, where the client sends one"),
    ("http[].match[].headers", "match.headers", "{} and regex * mean: present"),
    ("http[].match[].withoutHeaders", "match.headers, inverted", "a missing header counts as empty"),
    ("http[].match[].queryParams", "match.query_parameters", "{} means: present"),
)
"""Field, where it ends in Envoy, remark: the rows of docs/features.md."""


@dataclass(frozen=True, slots=True)
class Match:
    """Conditions that must all hold; names in the tuples are sorted, header names are in lower case."""

    uri: StringMatch | None = None
    ignore_uri_case: bool = False
    scheme: StringMatch | None = None
    method: StringMatch | None = None
    authority: StringMatch | None = None
    headers: tuple[tuple[str, StringMatch], ...] = ()
    without_headers: tuple[tuple[str, StringMatch], ...] = ()
    query_params: tuple[tuple[str, StringMatch], ...] = ()

    def patch_route(self, route: route_components_pb2.Route) -> None:
        """Write the conditions into ``route.match``; no uri means every path."""
        match = route.match
        self._patch_path(match)
        for name, wanted in self.headers:
            _patch_header(match.headers.add(name=name), wanted)
        for name, unwanted in self.without_headers:
            header = match.headers.add(name=name, invert_match=True)
            _patch_header(header, unwanted)
            # Envoy's inverted comparison never holds for a missing header unless told so; with a
            # presence test the two exclude each other.
            header.treat_missing_header_as_empty = unwanted != PRESENT
        for name, pseudo in (
            (":method", self.method),
            (":authority", self.authority),
            (":scheme", self.scheme),
        ):
            if pseudo is not None:
                _patch_header(match.headers.add(name=name), pseudo)
        for name, wanted in self.query_params:
            parameter = match.query_parameters.add(name=name)
            if wanted == PRESENT:
                parameter.present_match = True
            else:
                _patch_string(parameter.string_match, wanted)

    def _patch_path(self, match: route_components_pb2.RouteMatch) -> None:
        if self.uri is None:
            match.prefix = "/"
            return
        match self.uri.kind:
            case MatchKind.EXACT:
                match.path = self.uri.value
            case MatchKind.PREFIX:
                match.prefix = self.uri.value
            case MatchKind.REGEX:
                match.safe_regex.regex = self.uri.value
            case MatchKind.PRESENT:
                match.prefix = "/"
        if self.ignore_uri_case:
            match.case_sensitive.value = False


def read(reader: Reader) -> Match | None:
    """Return the conditions on the request, None where there are none."""
    match = Match(
        uri=_uri(reader),
        ignore_uri_case=reader.boolean("ignoreUriCase"),
        scheme=_optional(reader, "scheme"),
        method=_optional(reader, "method"),
        authority=_authority(reader),
        headers=_headers(reader, "headers"),
        without_headers=_headers(reader, "withoutHeaders"),
        query_params=read_string_matches(reader, "queryParams"),
    )
    if match.ignore_uri_case and (match.uri is None or match.uri.kind is MatchKind.REGEX):
        reader.warn(
            "ignoreUriCase", "has an effect only on uri.exact and uri.prefix; begin a regex with (?i)"
        )
    return None if match == Match(ignore_uri_case=match.ignore_uri_case) else match


def _uri(reader: Reader) -> StringMatch | None:
    """Return the comparison with the path; an empty prefix is none (Istio takes it for uri alone)."""
    value = reader.object("uri")
    if value is None or (tuple(value.present()) == ("prefix",) and value.raw("prefix") == ""):
        return None
    return read_string_match(value)


def _authority(reader: Reader) -> StringMatch | None:
    """Return the comparison with the Host, which has lost its last dot by then."""
    found = _optional(reader, "authority")
    if found is None or found.kind is not MatchKind.EXACT:
        return found
    return replace(found, value=undotted(found.value))


def _optional(reader: Reader, name: str) -> StringMatch | None:
    value = reader.object(name)
    return None if value is None else read_string_match(value)


def _headers(reader: Reader, name: str) -> tuple[tuple[str, StringMatch], ...]:
    path = reader.at(name)
    pairs = read_string_matches(reader, name)
    return tuple(sorted((check_header_name(f"{path}.{key}", key), match) for key, match in pairs))


def _patch_header(header: route_components_pb2.HeaderMatcher, wanted: StringMatch) -> None:
    if wanted == PRESENT:
        header.present_match = True
    else:
        _patch_string(header.string_match, wanted)


def _patch_string(matcher: string_pb2.StringMatcher, wanted: StringMatch) -> None:
    match wanted.kind:
        case MatchKind.EXACT:
            matcher.exact = wanted.value
        case MatchKind.PREFIX:
            matcher.prefix = wanted.value
        case MatchKind.REGEX:
            matcher.safe_regex.regex = wanted.value
        case MatchKind.PRESENT:
            raise ValueError("a presence test is not a comparison")
