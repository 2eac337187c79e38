"""Paths as a connection manager hands them on, by what the mesh settings say of their form.

It owns what Envoy makes of a path; it must never compare one.
"""

from __future__ import annotations

import re
from typing import Final

from xds.api.mesh import PathNormalization

_ESCAPED: Final = re.compile(r"%([0-9a-fA-F]{2})")
_UNRESERVED: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
"""RFC 3986 section 2.3: an escape of one of these means the same as itself."""

_ESCAPED_SLASH: Final = re.compile(r"%(2[fF]|5[cC])")
_SLASHES: Final = re.compile(r"/{2,}")
_DOTS_WITH_PARAMETERS: Final = re.compile(r"(?<=[/\\])(\.{1,2});[^/\\]*")
"""A dot segment with parameters, which Envoy takes for the dot segment alone where its dots are not escaped."""

_NO_PATH: Final = re.compile(r'["<>^`{|}]')
"""What a path does not hold as it is (RFC 3986 section 3.3); Envoy escapes it."""


def written(path: str, form: PathNormalization) -> str:
    """Return a path, query and all, in a form."""
    if form is PathNormalization.NONE:
        return path
    head, mark, query = path.partition("?")
    if form is PathNormalization.DECODE_AND_MERGE_SLASHES:
        head = _ESCAPED_SLASH.sub(lambda found: "/" if found.group(1)[0] == "2" else "\\", head)
    head = _normalised(head)
    if form is not PathNormalization.BASE:
        head = _SLASHES.sub("/", head)
    return head + mark + query


def _normalised(head: str) -> str:
    """Return a path without dot segments and needless escapes; a backslash is a slash (RFC 3986 section 6.2.2)."""
    plain = _ESCAPED.sub(_unescape, _DOTS_WITH_PARAMETERS.sub(r"\1", head)).replace("\\", "/")
    plain = _NO_PATH.sub(lambda found: f"%{ord(found[0]):02X}", plain)
    out: list[str] = []
    segments = plain.split("/")[1:]
    for position, segment in enumerate(segments):
        is_last = position == len(segments) - 1
        if segment == "..":
            out = out[:-1]
        elif segment != ".":
            out.append(segment)
            continue
        if is_last:
            out.append("")
    return "/" + "/".join(out)


def _unescape(found: re.Match[str]) -> str:
    char = chr(int(found.group(1), 16))
    return char if char in _UNRESERVED else found.group(0)
