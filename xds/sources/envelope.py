"""What the API wraps objects in: lines of a watch and pages of a list, opened as far as name and version.

Owns Kubernetes' names for these; it must never look into an object's spec, and never fail on one object's depth.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeVar

import msgspec

T = TypeVar("T")

DEPTH_MAX: Final = 200
"""Deepest nesting that is kept. Nothing that Proa reads is 20 deep; msgspec gives up at Python's recursion limit
(1,000), the apiserver at 10,000, and one such object must not stop the watch of all."""

_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', re.DOTALL)


class MalformedError(Exception):
    """What arrived is not what the API is specified to send."""


class Name(NamedTuple):
    """What names an object within its kind; the namespace is empty for kinds that have none."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class Item:
    """One object: its name, its version, and all of it as JSON."""

    name: Name
    version: int
    raw: msgspec.Raw


@dataclass(frozen=True, slots=True)
class Event:
    """A line of a watch: ADDED, MODIFIED, DELETED or BOOKMARK (whose item has no name)."""

    type: str
    item: Item


@dataclass(frozen=True, slots=True)
class Failure:
    """An ERROR event: what the API says in the middle of a watch."""

    code: int
    reason: str
    message: str
    retry_after_s: float | None


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a list; the token is empty on the last one."""

    version: int
    token: str
    items: tuple[Item, ...]


class _Meta(msgspec.Struct, gc=False):
    name: str = ""
    namespace: str = ""
    version: str = msgspec.field(default="", name="resourceVersion")


class _Head(msgspec.Struct, gc=False):
    metadata: _Meta


class _Line(msgspec.Struct, gc=False):
    type: str
    object: msgspec.Raw


class _ListMeta(msgspec.Struct, gc=False):
    version: str = msgspec.field(default="", name="resourceVersion")
    token: str = msgspec.field(default="", name="continue")


class _List(msgspec.Struct, gc=False):
    metadata: _ListMeta
    items: list[msgspec.Raw] | None = None


class _Details(msgspec.Struct, gc=False):
    retry_after_s: float | None = msgspec.field(default=None, name="retryAfterSeconds")


class _Status(msgspec.Struct, gc=False):
    code: int = 0
    reason: str = ""
    message: str = ""
    details: _Details | None = None


_LINE = msgspec.json.Decoder(_Line)
_HEAD = msgspec.json.Decoder(_Head)
_LIST = msgspec.json.Decoder(_List)
_STATUS = msgspec.json.Decoder(_Status)


def open_line(line: bytes) -> Event | Failure:
    """Return what a line of a watch says; raise MalformedError."""
    try:
        found = _decode(_LINE.decode, line)
        if found.type == "ERROR":
            status = _STATUS.decode(found.object)
            wait_s = status.details.retry_after_s if status.details else None
            return Failure(status.code, status.reason, status.message, wait_s)
        item = _item(found.object)
    except msgspec.DecodeError as error:
        raise MalformedError(f"the watch cannot be read: {error}") from None
    if not item.name.name and found.type != "BOOKMARK":
        raise MalformedError(f"an event of type {found.type[:40]!r} has no name")
    return Event(found.type, item)


def open_page(body: bytes) -> Page:
    """Return a page of a list; raise MalformedError."""
    try:
        found = _decode(_LIST.decode, body)
        items = tuple(map(_item, found.items or ()))
    except msgspec.DecodeError as error:
        raise MalformedError(f"the list cannot be read: {error}") from None
    if not all(item.name.name for item in items):
        raise MalformedError("an object of the list has no name")
    return Page(_number(found.metadata.version), found.metadata.token, items)


def shallow(text: bytes) -> bytes:
    """Return JSON with null in place of every value that is nested deeper than ``DEPTH_MAX``.

    Whatever reads the object finds something of the wrong type long before, and says so.
    """
    parts: list[bytes] = []
    depth, kept = 0, 0
    for token in _TOKEN.finditer(text):
        match token.group()[:1]:
            case b"[" | b"{":
                depth += 1
                if depth == DEPTH_MAX + 1:
                    parts += (text[kept : token.start()], b"null")
            case b"]" | b"}":
                depth -= 1
                if depth == DEPTH_MAX:
                    kept = token.end()
            case _:
                pass
    return b"".join((*parts, text[kept:]))


def _decode(decode: Callable[[bytes], T], text: bytes) -> T:
    try:
        return decode(text)
    except RecursionError:
        return decode(shallow(text))


def _item(raw: msgspec.Raw) -> Item:
    meta = _HEAD.decode(raw).metadata
    return Item(Name(meta.namespace, meta.name), _number(meta.version), raw)


def _number(version: str) -> int:
    """Return a resourceVersion as the number that Kubernetes has promised it to be since 1.35 (KEP-5504)."""
    if not (version.isascii() and version.isdigit() and len(version) < 20):
        raise MalformedError(f"resourceVersion {version[:40]!r} is not a number")
    return int(version)
