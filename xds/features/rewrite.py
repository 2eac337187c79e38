"""URI and authority rewrites: what the destination sees instead of what the client asked for.

It owns Istio's HTTPRewrite; it must never decide which requests are rewritten, the match does.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from xds.grammar import check_plain, read_regex, regex_program

if TYPE_CHECKING:
    from xds.fields import Reader
    from xds.pb.envoy.config.route.v3 import route_components_pb2

SUPPORT: Final = (
    (
        "http[].rewrite.uri",
        "route.prefix_rewrite",
        "replaces the matched prefix; the whole path of an exact or regex match",
    ),
    (
        "http[].rewrite.uriRegexRewrite",
        "route.regex_rewrite",
        r"\1 to \9 are capture groups, \0 the whole match",
    ),
    ("http[].rewrite.authority", "route.host_rewrite_literal", ""),
)
"""Field, where it ends in Envoy, remark: the rows of docs/features.md."""

_REFERENCE: Final = re.compile(r"\\(.)?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Rewrite:
    """At most one of ``uri`` and ``pattern``; empty texts leave things as they are."""

    uri: str = ""
    pattern: str = ""
    substitution: str = ""
    authority: str = ""

    def patch_route(self, route: route_components_pb2.Route) -> None:
        """Write the rewrite into the route's action."""
        if self.pattern:
            route.route.regex_rewrite.pattern.regex = self.pattern
            route.route.regex_rewrite.substitution = self.substitution
        elif self.uri:
            route.route.prefix_rewrite = self.uri
        if self.authority:
            route.route.host_rewrite_literal = self.authority


def read(parent: Reader) -> Rewrite | None:
    """Return the rewrite of a rule, None where there is none."""
    reader = parent.object("rewrite")
    if reader is None:
        return None
    uri = check_plain(reader.at("uri"), reader.text("uri", ""))
    authority = check_plain(reader.at("authority"), reader.text("authority", ""))
    regex = reader.object("uriRegexRewrite")
    reader.done()
    if uri and regex is not None:
        raise reader.fail("uriRegexRewrite", "excludes uri; keep one of them")
    pattern, substitution = ("", "") if regex is None else _read_regex_rewrite(regex)
    rewrite = Rewrite(uri, pattern, substitution, authority)
    if rewrite == Rewrite():
        raise parent.fail("rewrite", "must have uri, uriRegexRewrite or authority")
    return rewrite


def _read_regex_rewrite(reader: Reader) -> tuple[str, str]:
    pattern = read_regex(reader, "match")
    substitution = check_plain(reader.at("rewrite"), reader.text("rewrite", ""))
    reader.done()
    groups = regex_program(pattern).groups
    for reference in _REFERENCE.findall(substitution):
        if reference != "\\" and not (reference.isascii() and reference.isdecimal()):
            raise reader.fail("rewrite", r"has a \ that begins no group; write \\ for a plain one")
        if reference != "\\" and int(reference) > groups:
            raise reader.fail("rewrite", f"refers to group {reference}, match has {groups}")
    return pattern, substitution
