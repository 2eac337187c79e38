"""Rules for Envoys that compare a repeated header as one text, its lines joined with commas.

There ``x-role: user`` and ``x-role: admin`` together are no ``admin``, and pass a rule that denies it (CVE-2026-26308).
It owns the comparisons that see each line; it must never let anything through that the rules themselves would not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import re2

from xds.pb.envoy.config.rbac.v3 import rbac_pb2
from xds.pb.envoy.type.matcher.v3 import regex_pb2, string_pb2

if TYPE_CHECKING:
    from xds.pb.envoy.config.route.v3 import route_components_pb2

_BEFORE: Final = r"(?:.*,)?[ \t]*"
_BEHIND: Final = r"[ \t]*(?:,.*)?"


def widen(rules: rbac_pb2.RBAC) -> None:
    """Let what denies match where one line does; what allows keeps asking for the whole, so that it allows less.

    A comma within one line counts as the end of it: that denies more than today's Envoys, never less.
    """
    denies = rules.action != rbac_pb2.RBAC.ALLOW
    for policy in rules.policies.values():
        for principal in policy.principals:
            _widen(principal, denies=denies)


def _widen(principal: rbac_pb2.Principal, *, denies: bool) -> None:
    match principal.WhichOneof("identifier"):
        case "and_ids":
            for each in principal.and_ids.ids:
                _widen(each, denies=denies)
        case "or_ids":
            for each in principal.or_ids.ids:
                _widen(each, denies=denies)
        case "not_id":
            _widen(principal.not_id, denies=not denies)
        case "header" if denies:
            _line(principal.header)
        case _:
            pass


def _line(header: route_components_pb2.HeaderMatcher) -> None:
    pattern = _pattern(header.string_match)
    if pattern:
        regex = f"(?s){_BEFORE}(?:{pattern}){_BEHIND}"
        header.string_match.CopyFrom(string_pb2.StringMatcher(safe_regex=regex_pb2.RegexMatcher(regex=regex)))


def _pattern(compared: string_pb2.StringMatcher) -> str:
    """Return the regex of one line, empty where the joined text says the same."""
    match compared.WhichOneof("match_pattern"):
        case "exact":
            return _quoted(compared.exact)
        case "prefix":
            return f"{_quoted(compared.prefix)}.*"
        case "suffix":
            return f".*{_quoted(compared.suffix)}"
        case "safe_regex":
            return compared.safe_regex.regex
        case _:
            return ""


def _quoted(text: str) -> str:
    return str(re2.escape(text))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]  # untyped
