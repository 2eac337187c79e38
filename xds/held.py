"""What a client may hold under a name: a resource, a version that it claims, or the word that there is none.

It is vocabulary; it must never decide anything.
"""

from collections.abc import Callable
from dataclasses import dataclass

from xds.snapshot import Resource

Items = dict[str, Resource | None]
"""What a message says, by name; None is a removal."""

Lookup = Callable[[str], Resource | None]
"""Finds what a name means to one client, None if nothing or nothing that it may have."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """A client that reconnected says that it holds this version; this server may not have those bytes."""

    version: str


class Absent:
    """The client was told that a name does not exist."""

    version = None


ABSENT = Absent()
"""The only one; compared by identity."""

Held = Resource | Claimed | Absent
