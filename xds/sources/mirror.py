"""What the API holds, as far as it could be read: last good objects, what is wrong, and what changed since last asked.

Pure. It must never take an object out of force for being unreadable: only ``gone`` does that.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import msgspec

from xds.api.core import Key
from xds.api.manifest import Object, Parsed
from xds.fields import ConfigError, Problem, Severity
from xds.sources.decoding import decode, stand_in_of
from xds.sources.envelope import Name


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind as one cluster serves it; ``path`` lists it, ``selector`` is a fieldSelector (empty: all of them)."""

    name: str
    version: str
    path: str
    selector: str = ""


class Mirror:
    """The objects in force of all kinds, and what ``settle`` has not told yet."""

    def __init__(self) -> None:
        self._live: dict[Key, Object] = {}
        self._broken: set[Key] = set()
        self._stand_ins: dict[Key, Object] = {}
        self._wrong: dict[Key, tuple[Problem, ...]] = {}
        self._problems: tuple[Problem, ...] = ()
        self._changes: defaultdict[str, dict[Key, Object | None]] = defaultdict(dict)
        self._is_stale = False

    def put(self, kind: Kind, name: Name, raw: msgspec.Raw) -> None:
        """Read an object and put it in force; one that cannot be read leaves its last good version there."""
        key = Key(kind.name, *name)
        try:
            found = decode(kind.name, kind.version, raw)
        except ConfigError as error:
            self._tell(key, (Problem(Severity.ERROR, str(key), error.path, error.reason),))
            if key not in self._live:
                self._broken.add(key)
                self._stand(key, stand_in_of(kind.name, kind.version, raw))
            return
        if not isinstance(found, Parsed):
            self.gone(kind, name)
            return
        self._broken.discard(key)
        self._tell(
            key, tuple(Problem(note.severity, str(key), note.path, note.reason) for note in found.notes)
        )
        self._stand_ins.pop(key, None)
        if self._live.get(key) != found.object:
            self._live[key] = self._changes[key.kind][key] = found.object

    def gone(self, kind: Kind, name: Name) -> None:
        """Take an object out of force that was deleted."""
        key = Key(kind.name, *name)
        self._broken.discard(key)
        self._tell(key, ())
        if self._live.pop(key, None) is not None or self._stand_ins.pop(key, None) is not None:
            self._changes[key.kind][key] = None

    def _stand(self, key: Key, found: Object | None) -> None:
        """Put in force what stands for an object that could never be read."""
        if found is not None and self._stand_ins.get(key) != found:
            self._stand_ins[key] = self._changes[key.kind][key] = found

    def gone_all(self, kind: Kind, names: Iterable[Name]) -> None:
        """Take out of force what was deleted with its kind."""
        for name in names:
            self.gone(kind, name)

    def settle(self, held: AbstractSet[str] = frozenset()) -> tuple[tuple[Key, Object | None], ...]:
        """Return what changed since the last call, by key; None: the object is gone. Held kinds wait."""
        told = [kind for kind in self._changes if kind not in held]
        changes = [change for kind in told for change in self._changes.pop(kind).items()]
        return tuple(sorted(changes, key=lambda change: change[0]))

    def broken(self) -> frozenset[Key]:
        """Return the objects that are there and could never be read: there is no last good."""
        return frozenset(self._broken)

    def problems(self) -> tuple[Problem, ...]:
        """Return everything that is wrong with the objects now; the same tuple as long as nothing changes."""
        if self._is_stale:
            self._is_stale = False
            self._problems = tuple(problem for key in sorted(self._wrong) for problem in self._wrong[key])
        return self._problems

    def _tell(self, key: Key, problems: tuple[Problem, ...]) -> None:
        if self._wrong.get(key, ()) == problems:
            return
        self._is_stale = True
        if problems:
            self._wrong[key] = problems
        else:
            del self._wrong[key]
