"""Whether a route's conditions hold for a request, and if not, which one fails: as Envoy decides it.

It owns an evaluator of `features.match.Match`, checked against a real Envoy; it must never read what a user wrote.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, cast

import re2

from xds.features.match import Match
from xds.grammar import PRESENT, MatchKind, StringMatch

_fullmatch: Final = cast("Callable[[str, str], object]", getattr(re2, "fullmatch"))  # noqa: B009 -- untyped


@dataclass(frozen=True, slots=True)
class Request:
    """What a proxy has before it when it looks for a route; header names are in lower case, values as sent."""

    method: str
    path: str
    authority: str
    headers: tuple[tuple[str, str], ...] = ()
    scheme: str = "http"

    def header(self, name: str) -> list[str]:
        """Return every value of a header, one for each line of it; Envoy compares each for itself."""
        return [value for key, value in self.headers if key == name]


def failing(match: Match | None, request: Request) -> str:
    """Return the first condition that does not hold, in words; empty: the route takes the request."""
    if match is None:
        return ""
    for name, wanted, value in (
        ("uri", match.uri, without_query(request.path)),
        ("method", match.method, request.method),
        ("authority", match.authority, request.authority),
        ("scheme", match.scheme, request.scheme),
    ):
        is_folded = name == "uri" and match.ignore_uri_case
        if wanted is not None and not _holds(wanted, value, is_folded=is_folded):
            return f"{name} {value} is not {said(wanted)}"
    return _headers(match, request) or _query(match, request)


def said(wanted: StringMatch) -> str:
    """Return a comparison in words."""
    return "present" if wanted == PRESENT else f"{wanted.kind.value} {wanted.value}"


def described(match: Match | None) -> str:
    """Return all conditions of a route in words."""
    if match is None:
        return "every request"
    parts = [
        f"{name} {said(wanted)}"
        for name, wanted in (
            ("uri", match.uri),
            ("method", match.method),
            ("authority", match.authority),
            ("scheme", match.scheme),
        )
        if wanted is not None
    ]
    parts += [f"header {name} {said(wanted)}" for name, wanted in match.headers]
    parts += [f"header {name} not {said(wanted)}" for name, wanted in match.without_headers]
    parts += [f"query {name} {said(wanted)}" for name, wanted in match.query_params]
    return ", ".join(parts)


def without_query(path: str) -> str:
    """Return a path without query and fragment."""
    return path.partition("?")[0].partition("#")[0]


def _headers(match: Match, request: Request) -> str:
    for name, wanted in match.headers:
        values = request.header(name)
        if not values:
            return f"header {name} is absent"
        if not any(_holds(wanted, value) for value in values):
            return f"header {name} {', '.join(values)} is not {said(wanted)}"
    for name, unwanted in match.without_headers:
        values = request.header(name)
        # A missing header is compared as empty, but for the question whether it is there.
        compared = values if unwanted == PRESENT else values or [""]
        if any(_holds(unwanted, value) for value in compared):
            return f"header {name} is {said(unwanted)}"
    return ""


def _query(match: Match, request: Request) -> str:
    first: dict[str, str] = {}
    for pair in request.path.partition("?")[2].partition("#")[0].split("&"):
        name, _, value = pair.partition("=")
        first.setdefault(name, value)
    for name, wanted in match.query_params:
        if name not in first:
            return f"query parameter {name} is absent"
        if not _holds(wanted, first[name]):
            return f"query parameter {name} is not {said(wanted)}"
    return ""


def _holds(wanted: StringMatch, value: str, *, is_folded: bool = False) -> bool:
    text = wanted.value
    if is_folded and wanted.kind is not MatchKind.REGEX:
        text, value = text.lower(), value.lower()
    match wanted.kind:
        case MatchKind.EXACT:
            return value == text
        case MatchKind.PREFIX:
            return value.startswith(text)
        case MatchKind.REGEX:
            return _fullmatch(text, value) is not None
        case MatchKind.PRESENT:
            return True
