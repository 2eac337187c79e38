"""Spans as collectors tell them, and the tree that they make.

It owns what every collector says of a span; it must never know how one is asked.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import Protocol


class Span(Protocol):
    """What every collector says of a span; ids are hexadecimal."""

    @property
    def trace(self) -> str:
        """The trace's id."""
        ...

    @property
    def id(self) -> str:
        """Its own."""
        ...

    @property
    def parent(self) -> str:
        """Its parent's, empty for none."""
        ...

    @property
    def kind(self) -> str:
        """CLIENT or SERVER."""
        ...

    @property
    def service(self) -> str:
        """The workload that reports it."""
        ...


def started() -> tuple[str, str, dict[str, str]]:
    """Return a trace's id, its caller's span, and the W3C header that says so."""
    trace, span = secrets.token_hex(16), secrets.token_hex(8)
    return trace, span, {"traceparent": f"00-{trace}-{span}-01"}


def chain(spans: Iterable[Span], root: str) -> list[tuple[str, str]]:
    """Return kind and service of each span under a root, each under the one before."""
    by_parent = {span.parent: span for span in spans}
    found: list[tuple[str, str]] = []
    while root in by_parent:
        span = by_parent[root]
        found.append((span.kind, span.service))
        root = span.id
    return found
