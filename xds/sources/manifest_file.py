"""One file of manifests: its bytes to typed objects, each with its place, or to Problems with theirs.

Pure: it is given bytes and a name to report. It must never raise for anything that a file can
hold, and never let one broken object hide the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import cast

from xds.api.core import Key
from xds.api.manifest import Ignored, Object, key_of, read, stand_in
from xds.documents import Document, DocumentError, Place, locate, parse_json, parse_yaml
from xds.fields import ConfigError, Problem, Severity

SUFFIXES = (".yaml", ".yml", ".json")
"""What counts as a file of manifests."""

OBJECTS_MAX = 20_000
"""Most objects read of one file, about what 8 MiB of real ones hold. Without it, 8 MiB of `---` would be a million
problems to keep and to show."""


@dataclass(frozen=True, slots=True)
class Spot:
    """Where an object stands in a file: the document's ordinal and the path to it (``items[3]`` in a List)."""

    ordinal: int
    path: str = ""

    def of(self, field: str) -> tuple[int, str]:
        """Return what ``documents.locate`` asks for a field of the object."""
        return self.ordinal, f"{self.path}.{field}" if self.path and field else self.path or field


@dataclass(frozen=True, slots=True)
class Entry:
    """An object that the file holds; None where it holds it, but broken, and what then stands for it."""

    key: Key
    object: Object | None
    spot: Spot
    stand_in: Object | None = None


@dataclass(frozen=True, slots=True)
class FileContent:
    """What a file says. Incomplete: some of it could not even be named, so that no absence may be read from it."""

    entries: tuple[Entry, ...] = ()
    problems: tuple[Problem, ...] = ()
    is_complete: bool = True


def unreadable(name: str, reason: str) -> FileContent:
    """Return the content of a file that could not be read at all."""
    return FileContent((), (Problem(Severity.ERROR, name, "", reason, f"{name}:1:1"),), is_complete=False)


def read_file(name: str, content: bytes) -> FileContent:
    """Return what a file holds; ``name`` is the path to report, and its suffix decides between YAML and JSON."""
    if not content:
        # `helm template … > all.yaml` empties the file seconds before it writes: nobody meant to delete.
        reason = "is empty: its last objects stay; delete the file to remove them"
        empty = Problem(Severity.WARNING, name, "", reason, f"{name}:1:1")
        return FileContent((), (empty,), is_complete=False)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        place = _end_of(content[: error.start].decode())
        return _broken(name, place, f"is not UTF-8: {error.reason}; save the file as UTF-8")
    return _Reading(name, text).content()


def place(name: str, text: str, problems: Iterable[tuple[Spot, Problem]]) -> tuple[Problem, ...]:
    """Return the problems with ``where`` set to the place of their field in the file's text."""
    listed = tuple(problems)
    places = locate(text, (spot.of(problem.path) for spot, problem in listed))
    start = Place(1, 1)
    return tuple(p.at(f"{name}:{places.get(spot.of(p.path), start)}") for spot, p in listed)


class _Reading:
    """One pass over a file; what must be placed is collected and placed at the end, in one more pass."""

    def __init__(self, name: str, text: str) -> None:
        self._name = name
        self._text = text
        self._entries: list[Entry] = []
        self._placed: list[Problem] = []
        self._unplaced: list[tuple[Spot, Problem]] = []
        self._is_complete = True

    def content(self) -> FileContent:
        """Return all that the file says, its problems in the order of their places."""
        for count, (spot, raw) in enumerate(self._objects()):
            if count == OBJECTS_MAX:
                self._stop(spot)
                break
            self._read(spot, raw)
        problems = [*self._placed, *place(self._name, self._text, self._unplaced)]
        return FileContent(tuple(self._entries), tuple(problems), self._is_complete)

    def _objects(self) -> Iterator[tuple[Spot, object]]:
        try:
            for ordinal, document in enumerate(self._documents()):
                if document.error is not None:
                    self._fail(document.error)
                else:
                    yield from _items(ordinal, document.value)
        except DocumentError as error:
            self._fail(error)

    def _documents(self) -> Iterable[Document]:
        return (parse_json(self._text),) if self._name.endswith(".json") else parse_yaml(self._text)

    def _fail(self, error: DocumentError) -> None:
        self._placed.extend(_broken(self._name, error.place, error.reason).problems)
        self._is_complete = False

    def _stop(self, spot: Spot) -> None:
        reason = f"holds more than {OBJECTS_MAX} objects, and the rest was not read; split it"
        self._unplaced.append((spot, Problem(Severity.ERROR, self._name, "", reason)))
        self._is_complete = False

    def _read(self, spot: Spot, raw: object) -> None:
        try:
            found = read(raw)
        except ConfigError as error:
            self._read_broken(spot, raw, error)
            return
        if isinstance(found, Ignored):
            self._unplaced.append((spot, Problem(Severity.INFO, found.subject, "", found.reason)))
            return
        self._entries.append(Entry(found.key, found.object, spot))
        for note in found.notes:
            self._unplaced.append((spot, Problem(note.severity, str(found.key), note.path, note.reason)))

    def _read_broken(self, spot: Spot, raw: object, error: ConfigError) -> None:
        key = key_of(raw)
        if key is None:
            self._is_complete = False
        else:
            self._entries.append(Entry(key, None, spot, stand_in(raw)))
        subject = self._name if key is None else str(key)
        self._unplaced.append((spot, Problem(Severity.ERROR, subject, error.path, error.reason)))


def _items(ordinal: int, value: object) -> Iterator[tuple[Spot, object]]:
    """Yield the objects of a document: itself, or the items of a List (as ``kubectl get -o yaml`` writes it)."""
    if not isinstance(value, dict):
        yield Spot(ordinal), value
        return
    fields = cast("dict[str, object]", value)
    items = fields.get("items")
    if str(fields.get("kind", "")).endswith("List") and isinstance(items, list):
        for index, item in enumerate(cast("list[object]", items)):
            yield Spot(ordinal, f"items[{index}]"), item
    else:
        yield Spot(ordinal), fields


def _broken(name: str, place: Place, reason: str) -> FileContent:
    problem = unreadable(name, reason).problems[0]
    return FileContent((), (replace(problem, where=f"{name}:{place}"),), is_complete=False)


def _end_of(text: str) -> Place:
    return Place(text.count("\n") + 1, len(text) - (text.rfind("\n") + 1) + 1)
