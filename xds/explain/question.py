"""The question: who asks, for which destination, with which request.

It owns the forms in which people write one; it must never know what exists.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

import msgspec

from xds.fields import ConfigError, show
from xds.grammar import check_header_name, undotted

MAX_TEXT: Final = 8192
"""Longest word of a question: Envoy takes 60 KiB of headers, nobody types as much."""

_METHOD: Final = re.compile(r"[A-Z][A-Z-]{0,31}")
_PORT: Final = re.compile(r"(.*[^:]):(\d{1,5})")
_BRACKETS: Final = re.compile(r"\[([0-9a-fA-F:.]+)\](?::(\d{1,5}))?")


class Question(msgspec.Struct, frozen=True):
    """One request; ``path`` holds the query, header names are in lower case, ``authority`` is the Host as sent."""

    source: str
    destination: str
    method: str = "GET"
    path: str = "/"
    headers: tuple[tuple[str, str], ...] = ()
    authority: str = ""


def read_question(source: str, destination: str, request: str = "", headers: Iterable[str] = ()) -> Question:
    """Return the question of four texts as people type them; ``request`` is ``METHOD /path``, either may be left out.

    Raises ConfigError. A header ``Host: x`` is the authority, which is the destination where none is given.
    """
    for name, text in (("source", source), ("destination", destination), ("request", request)):
        _check(name, text)
    if not source or not destination:
        raise ConfigError(
            "destination" if source else "source", "is missing: ask SOURCE DESTINATION 'METHOD /path'"
        )
    method, path = _request(request)
    pairs = [_header(text) for text in headers]
    # A sidecar does the same before it looks at anything.
    destination = undotted(destination)
    authority = undotted(next((value for name, value in pairs if name == "host"), "") or destination)
    split_port(destination)
    kept = tuple((name, value) for name, value in pairs if name != "host")
    return Question(source, destination, method, path, kept, authority)


def split_port(text: str) -> tuple[str, int]:
    """Return host and port of ``HOST``, ``HOST:PORT`` or ``[IPv6]:PORT``; 0: none is given."""
    found = _BRACKETS.fullmatch(text) or (_PORT.fullmatch(text) if text.count(":") == 1 else None)
    if found is None:
        return text, 0
    port = int(found.group(2) or 0)
    if found.group(2) and not 0 < port < 65_536:
        raise ConfigError("destination", f"port must be 1..65535, got {port}")
    return found.group(1), port


def _request(text: str) -> tuple[str, str]:
    words = text.split()
    if len(words) > 2:
        raise ConfigError("request", f"must be 'METHOD /path', got {show(text)}")
    method = words[0] if words and not words[0].startswith("/") else "GET"
    path = words[-1] if words and words[-1].startswith("/") else "/"
    if len(words) == 2 and path != words[1]:
        raise ConfigError("request", f"path must begin with /, got {show(words[1])}")
    if not _METHOD.fullmatch(method):
        raise ConfigError("request", f"method must be in capital letters, got {show(method)}")
    if "#" in path:
        raise ConfigError("request", "path must not hold a #: no client sends that part")
    if "%00" in path:
        raise ConfigError("request", "path must not hold %00: every sidecar answers 400")
    return method, path


def _header(text: str) -> tuple[str, str]:
    _check("header", text)
    name, colon, value = text.partition(":")
    if not colon:
        raise ConfigError("header", f"must be 'name: value', got {show(text)}")
    if name.strip().lower() == "host":
        return "host", value.strip()
    return check_header_name("header", name.strip()), value.strip()


def _check(name: str, text: str) -> None:
    if len(text) > MAX_TEXT:
        raise ConfigError(name, f"must be at most {MAX_TEXT} characters, got {len(text)}")
    if not text.isprintable():
        raise ConfigError(name, f"must hold no control characters, got {show(text)}")
