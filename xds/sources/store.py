"""The objects in force, by key: what a source tells becomes a Change, or nothing at all.

Both sources fill it, a directory and Kubernetes. It must never do I/O and never judge an object;
an object that equals the stored one stops here (DESIGN: equal ⇒ stop).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar, cast

import msgspec

from xds.api.core import EndpointSlice, Key
from xds.api.manifest import Object
from xds.slices import share

T = TypeVar("T")


class Change(msgspec.Struct, frozen=True):
    """One object before and after; None stands for absent, and the two always differ."""

    key: Key
    old: Object | None
    new: Object | None


class Store:
    """Objects by key, and by kind."""

    __slots__ = ("_objects", "_of_type")

    def __init__(self) -> None:
        self._objects: dict[Key, Object] = {}
        self._of_type: dict[type[object], dict[Key, Object]] = {}

    def __len__(self) -> int:
        """Return how many objects are in force."""
        return len(self._objects)

    def __contains__(self, key: Key) -> bool:
        """Tell whether an object is in force."""
        return key in self._objects

    def get(self, key: Key) -> Object | None:
        """Return the object in force."""
        return self._objects.get(key)

    def of_type(self, kind: type[T]) -> Iterator[T]:
        """Yield the objects of one type, in no order that may be relied on."""
        return iter(cast("Iterable[T]", self._of_type.get(kind, {}).values()))

    def apply(self, key: Key, new: Object | None) -> Change | None:
        """Put an object in force, or out of it (None); return what changed, None for nothing."""
        old = self._objects.get(key)
        if isinstance(old, EndpointSlice) and isinstance(new, EndpointSlice):
            new = share(old, new)
        if old == new:
            return None
        if old is not None and type(new) is not type(old):
            del self._of_type[type(old)][key]
        if new is None:
            del self._objects[key]
        else:
            self._objects[key] = new
            self._of_type.setdefault(type(new), {})[key] = new
        return Change(key, old, new)

    def apply_all(self, batch: Iterable[tuple[Key, Object | None]]) -> tuple[Change, ...]:
        """Apply a batch in its order and return what changed; a batch is one step for those who read it."""
        changes = [self.apply(key, new) for key, new in batch]
        return tuple([change for change in changes if change is not None])
