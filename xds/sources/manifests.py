"""All files of a directory together: which object each key has, and what is kept when a file breaks.

Pure. The result depends on the files alone, not on the order in which they were read; the one
exception is the point of it: an object that broke keeps its last good version. It must never
take an object out of force because something could not be read.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from xds.api.core import Key
from xds.api.manifest import Object
from xds.fields import Problem, Severity
from xds.sources.manifest_file import Entry, FileContent, Spot


@dataclass(frozen=True, slots=True, order=True)
class _Claim:
    """A file's claim to a key; the least one wins: said now before kept from before, then by path and place."""

    is_kept: bool
    name: str
    ordinal: int
    path: str


class Manifests:
    """The objects in force of a set of files."""

    def __init__(self) -> None:
        self._problems: dict[str, tuple[Problem, ...]] = {}
        self._claims: dict[Key, dict[_Claim, Entry]] = {}
        self._claimed: dict[str, tuple[tuple[_Claim, Entry], ...]] = {}
        self._live: dict[Key, Object] = {}
        self._broken: set[Key] = set()
        self._stand_ins: dict[Key, Object] = {}
        self._contested: set[Key] = set()
        self._touched: set[Key] = set()

    def names(self) -> AbstractSet[str]:
        """Return the names of all files, as a view."""
        return self._claimed.keys()

    def put(self, name: str, content: FileContent) -> None:
        """Take in what a file says now; what it no longer names is kept as long as it is incomplete."""
        claimed = [
            (_Claim(is_kept=False, name=name, ordinal=entry.spot.ordinal, path=_sortable(entry.spot)), entry)
            for entry in content.entries
        ]
        if not content.is_complete:
            named = {entry.key for entry in content.entries}
            claimed += [
                (_Claim(is_kept=True, name=name, ordinal=claim.ordinal, path=claim.path), entry)
                for claim, entry in self._claimed.get(name, ())
                if entry.key not in named
            ]
        self._release(name)
        if content.problems:
            self._problems[name] = content.problems
        self._claimed[name] = tuple(claimed)
        for claim, entry in claimed:
            self._claims.setdefault(entry.key, {})[claim] = entry
            self._touched.add(entry.key)

    def drop(self, name: str) -> None:
        """Forget a file that is gone."""
        self._release(name)

    def settle(self) -> tuple[tuple[Key, Object | None], ...]:
        """Return what changed since the last call, by key; None: the object is gone."""
        changes: list[tuple[Key, Object | None]] = []
        for key in sorted(self._touched):
            old = self._live.get(key) or self._stand_ins.pop(key, None)
            new = self._decide(key)
            if new != old:
                changes.append((key, new))
        self._touched.clear()
        return tuple(changes)

    def broken(self) -> frozenset[Key]:
        """Return the objects that some file holds and that could never be read: there is no last good."""
        return frozenset(self._broken)

    def spot(self, key: Key) -> tuple[str, Spot] | None:
        """Return the file that decides over an object, and where it stands there."""
        claims = self._claims.get(key)
        if not claims:
            return None
        claim = min(claims)
        return claim.name, claims[claim].spot

    def problems(self) -> Iterator[Problem]:
        """Yield the problems of all files, in no order."""
        for problems in self._problems.values():
            yield from problems

    def duplicates(self) -> Iterator[tuple[str, Spot, Key]]:
        """Yield each object that loses its key to another: its file, its spot and the key."""
        for key in sorted(self._contested):
            claims = sorted(self._claims.get(key, {}))
            for claim in claims[1:]:
                if not claim.is_kept:
                    yield claim.name, self._claims[key][claim].spot, key

    def _release(self, name: str) -> None:
        self._problems.pop(name, None)
        for claim, entry in self._claimed.pop(name, ()):
            self._claims[entry.key].pop(claim, None)
            self._touched.add(entry.key)

    def _decide(self, key: Key) -> Object | None:
        """Put the winner's object in force, or leave the last good one where the winner is broken.

        Where there is none, what stands for it is in force until it can be read.
        """
        claims = self._claims.get(key)
        self._broken.discard(key)
        self._contested.discard(key)
        if not claims:
            self._claims.pop(key, None)
            self._live.pop(key, None)
            return None
        if len(claims) > 1:
            self._contested.add(key)
        found = claims[min(claims)]
        if found.object is not None:
            self._live[key] = found.object
        elif key not in self._live:
            self._broken.add(key)
            if found.stand_in is not None:
                self._stand_ins[key] = found.stand_in
        return self._live.get(key) or self._stand_ins.get(key)


def duplicate(key: Key, first: str) -> Problem:
    """Return the problem of an object that stands in two places; ``first`` is ``file:line:column``."""
    reason = f"is defined at {first} already, and that one counts; remove one of the two"
    return Problem(Severity.ERROR, str(key), "", reason)


def _sortable(spot: Spot) -> str:
    """Return a List item's path so that items[10] comes after items[9]."""
    return f"{len(spot.path):04}{spot.path}"
