"""The request as a destination gets it: rewritten path and authority, edited headers.

It owns what Envoy makes of a route's rewrites; it must never choose the route.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final, cast

import re2

from xds.explain.match import Request, without_query
from xds.features.headers import HeaderOps
from xds.features.match import Match
from xds.features.rewrite import Rewrite
from xds.grammar import MatchKind

_sub: Final = cast("Callable[[str, str, str], str]", getattr(re2, "sub"))  # noqa: B009 -- untyped

_REFERENCE: Final = re.compile(r"\\(\d|\\)")


def rewritten(match: Match | None, ops: Iterable[HeaderOps | Rewrite], request: Request) -> Request:
    """Return the request after the edits of a route and of its destination, in their order."""
    for one in ops:
        match one:
            case Rewrite():
                request = replace(
                    request,
                    path=_path(match, one, request.path),
                    authority=one.authority or request.authority,
                )
            case HeaderOps():
                request = _edited(one, request)
    return request


def _path(match: Match | None, one: Rewrite, path: str) -> str:
    plain = without_query(path)
    query = path[len(plain) :]
    if one.pattern:
        return (
            _sub(one.pattern, _REFERENCE.sub(lambda found: _group(found.group(1)), one.substitution), plain)
            + query
        )
    if not one.uri:
        return path
    if match is None or match.uri is None or match.uri.kind is MatchKind.PRESENT:
        # Without a condition the route's prefix is the slash.
        return one.uri + plain[1:] + query
    if match.uri.kind is MatchKind.PREFIX:
        return one.uri + plain[len(match.uri.value) :] + query
    return one.uri + query


def _group(reference: str) -> str:
    return r"\\" if reference == "\\" else rf"\g<{reference}>"


def _edited(ops: HeaderOps, request: Request) -> Request:
    """Apply edits; a value with a substitution stays as it is written, since only the proxy knows it."""
    edits = ops.request
    replaced = {name for name, _ in edits.replace}
    gone = replaced | set(edits.remove)
    kept = [pair for pair in request.headers if pair[0] not in gone]
    kept += [pair for pair in (*edits.replace, *edits.append) if pair[0] not in edits.remove]
    return replace(request, headers=tuple(kept), authority=ops.authority or request.authority)
