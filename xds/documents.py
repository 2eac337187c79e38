"""YAML and JSON text to plain values with places: bytes in, documents or a DocumentError out.

One pass over the parser's events builds the value with a bounded stack, so hostile text can
neither nest without end nor grow through aliases; this module must never do I/O, and never
build anything but dicts, lists, strings, numbers, booleans and None.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias, cast

import yaml

from xds.fields import show

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

DEPTH_MAX: Final = 64
"""Deepest nesting taken. Pods, the deepest kind that is read, stay under 16; every consumer may recurse."""

ALIASED_NODES_MAX: Final = 10_000
"""How many nodes the aliases of one text may add: hand-written manifests add dozens, a bomb adds billions."""

_CSafeLoader: Final = yaml.CSafeLoader

Value: TypeAlias = "dict[str, object] | list[object]"

_WORDS: Final[dict[str, object]] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON"), True),
    **dict.fromkeys(("false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF"), False),
}
"""YAML 1.1's words, as Kubernetes reads them (sigs.k8s.io/yaml)."""

_NUMBER_START: Final = frozenset("+-.0123456789")
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9_]*)")
_PREFIXED = re.compile(r"[-+]?0(?:x[0-9a-fA-F_]+|b[01_]+|o[0-7_]+|[0-7_]+)")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_DIGITS_MAX = 40
"""Longer integers become floats: no field takes them, and int() is quadratic."""

_PLAIN_TAGS: Final = frozenset({"!", "tag:yaml.org,2002:str"})
_TAGS: Final = {
    "tag:yaml.org,2002:int",
    "tag:yaml.org,2002:float",
    "tag:yaml.org,2002:bool",
    "tag:yaml.org,2002:null",
}
_CONTAINER_TAGS: Final = frozenset({None, "!", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"})
_MERGE: Final = "<<"


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands in a text; both count from 1, columns in characters."""

    line: int
    column: int

    def __str__(self) -> str:
        """Return ``line:column``."""
        return f"{self.line}:{self.column}"


class DocumentError(Exception):
    """Text that cannot be taken: ``place`` and ``reason``."""

    def __init__(self, place: Place, reason: str) -> None:
        super().__init__(f"{place}: {reason}")
        self.place = place
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a text: its value, or the error that keeps it out."""

    place: Place
    value: object
    error: DocumentError | None = None


def parse_yaml(text: str) -> Iterator[Document]:
    """Yield the documents of a YAML text; raise DocumentError where the text stops being YAML.

    A document with a duplicate key, too deep a nesting or too many aliases carries its error,
    and the next one is read.
    """
    return _Builder(text).documents()


def parse_json(text: str) -> Document:
    """Return the value of a JSON text; its place is always the start."""
    start = Place(1, 1)
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=float, parse_int=_integer)
    except json.JSONDecodeError as error:
        raise DocumentError(Place(error.lineno, error.colno), f"is not JSON: {error.msg}") from None
    except RecursionError:
        raise DocumentError(start, _TOO_DEEP) from None
    except ValueError as error:
        raise DocumentError(start, str(error)) from None
    if _deeper(value, DEPTH_MAX):
        raise DocumentError(start, _TOO_DEEP)
    return Document(start, value)


def locate(text: str, wanted: Iterable[tuple[int, str]]) -> dict[tuple[int, str], Place]:
    """Return where fields stand in a text; each is a document's ordinal and a path (``spec.http[0].retries``).

    Where the path itself is absent (a missing field), the nearest field around it answers; what
    lies behind the end of readable YAML is left out. One pass for all, and only for what is to
    be reported.
    """
    paths: dict[int, set[str]] = {}
    for ordinal, path in wanted:
        paths.setdefault(ordinal, set()).add(path)
    builder = _Builder(text, marks={})
    found: dict[tuple[int, str], Place] = {}
    try:
        for ordinal, _ in enumerate(builder.documents()):
            marks = builder.marks or {}
            found.update(((ordinal, path), _nearest(marks, path)) for path in paths.get(ordinal, ()))
            builder.marks = {}
    except DocumentError:
        return found
    return found


def _nearest(marks: Mapping[str, Place], path: str) -> Place:
    while path and path not in marks:
        parent = _PARENT.sub("", path)
        path = parent if parent != path else ""
    return marks.get(path, Place(1, 1))


_PARENT = re.compile(r"(?:\[[^\]]*\]|\.[^.\[]*|^[^.\[]*)$")
"""The last step of a path: a field, an index, or a key in brackets (``annotations[proa.dev/upstreams]``)."""

_TOO_DEEP = f"is nested deeper than {DEPTH_MAX} levels"


@dataclass(slots=True)
class _Frame:
    """A list or mapping that is being read: ``nodes`` below it, ``height`` of what is complete."""

    value: dict[str, object] | list[object]
    path: str
    anchor: str | None
    key: str | None = None
    key_event: yaml.Event | None = None
    is_merge: bool = False
    merged: list[dict[str, object]] = field(default_factory=list[dict[str, object]])
    nodes: int = 1
    height: int = 0


@dataclass(frozen=True, slots=True)
class _Anchor:
    value: object
    nodes: int
    height: int


class _Builder:
    """Builds plain values from parser events; with ``marks`` it records every field's place as well."""

    def __init__(self, text: str, marks: dict[str, Place] | None = None) -> None:
        self._text = text
        self.marks = marks
        self._stack: list[_Frame] = []
        self._anchors: dict[str, _Anchor] = {}
        self._aliased = 0
        self._root: object = None

    def documents(self) -> Iterator[Document]:
        """Yield the documents; see parse_yaml."""
        events = self._events()
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                document = self._document(events)
                if document is not None:
                    yield document

    def _events(self) -> Iterator[yaml.Event]:
        try:
            yield from yaml.parse(self._text, Loader=_CSafeLoader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            place = Place(mark.line + 1, mark.column + 1) if mark else Place(1, 1)
            reason = ", ".join(part for part in (error.problem, error.context) if part)
            raise self._explained(DocumentError(place, f"is not YAML: {reason}")) from None
        except yaml.YAMLError as error:
            raise DocumentError(
                self._place_of(error), f"is not YAML: {getattr(error, 'reason', error)}"
            ) from None

    def _explained(self, error: DocumentError) -> DocumentError:
        """Return the error with what people do to get it: a template that nobody rendered, a tab that indents."""
        line = self._text.split("\n")[error.place.line - 1 : error.place.line]
        if any("{{" in text for text in line):
            return DocumentError(
                error.place, "is a template ({{ … }}): render it first, as `helm template` does"
            )
        if any("\t" in text[: len(text) - len(text.lstrip())] for text in line):
            return DocumentError(error.place, "is not YAML: a tab indents this line; use spaces")
        return error

    def _place_of(self, error: yaml.YAMLError) -> Place:
        """Return the place of a reader's error, which knows only its offset into the UTF-8 bytes."""
        before = self._text.encode()[: getattr(error, "position", 0)].decode(errors="ignore")
        return Place(before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1)

    def _document(self, events: Iterator[yaml.Event]) -> Document | None:
        """Read up to the end of the document; None for an empty one (only comments)."""
        self._stack, self._anchors, self._root = [], {}, None
        place: Place | None = None
        failed: DocumentError | None = None
        empty = False
        for event in events:
            if isinstance(event, yaml.DocumentEndEvent):
                break
            if place is None:
                place = _start(event)
                empty = isinstance(event, yaml.ScalarEvent) and event.value == ""
            if failed is None:
                try:
                    self._take(event)
                except DocumentError as error:
                    failed = self._explained(error)
        if place is None or (empty and self._root is None):
            return None
        return Document(place, None if failed else self._root, failed)

    def _take(self, event: yaml.Event) -> None:
        if isinstance(event, yaml.ScalarEvent):
            self._scalar(event)
        elif isinstance(event, yaml.MappingStartEvent):
            self._open(event, {})
        elif isinstance(event, yaml.SequenceStartEvent):
            self._open(event, [])
        elif isinstance(event, yaml.AliasEvent):
            self._alias(event)
        else:
            self._close(event)

    def _scalar(self, event: yaml.ScalarEvent) -> None:
        top = self._stack[-1] if self._stack else None
        if top is not None and isinstance(top.value, dict) and top.key is None:
            self._key(top, event)
            return
        value = _scalar_value(event)
        if event.anchor:
            self._anchors[event.anchor] = _Anchor(value, 1, 0)
        self._put(event, value, nodes=1, height=0)

    def _key(self, top: _Frame, event: yaml.ScalarEvent) -> None:
        """Take a key by its text: Kubernetes turns numbers and booleans as keys into strings as well."""
        key = event.value
        if key in top.value:
            first = f" (first at {self.marks[_join(top.path, key)]})" if self.marks else ""
            raise DocumentError(_start(event), f"key {show(key)} appears twice{first}")
        top.key = key
        top.is_merge = key == _MERGE and event.implicit[0]
        top.key_event = event
        if event.anchor:
            self._anchors[event.anchor] = _Anchor(key, 1, 0)

    def _open(self, event: yaml.MappingStartEvent | yaml.SequenceStartEvent, value: Value) -> None:
        if event.tag not in _CONTAINER_TAGS:
            raise DocumentError(_start(event), f"tag {show(str(event.tag))} is not taken: write plain YAML")
        if len(self._stack) >= DEPTH_MAX:
            raise DocumentError(_start(event), _TOO_DEEP)
        path = self._path_of_next(event)
        if path is None:
            raise DocumentError(_start(event), "a key must be a string, not a list or an object")
        self._stack.append(_Frame(value, path, event.anchor))

    def _path_of_next(self, event: yaml.Event) -> str | None:
        """Return the path of the value that starts here (recording its place), None where a key should stand."""
        top = self._stack[-1] if self._stack else None
        if top is not None and top.key is None and isinstance(top.value, dict):
            return None
        if self.marks is None:
            return ""
        path, marked = "", event
        if top is not None and isinstance(top.value, list):
            path = f"{top.path}[{len(top.value)}]"
        elif top is not None:
            path, marked = _join(top.path, top.key or ""), top.key_event or event
        self.marks[path] = _start(marked)
        return path

    def _close(self, event: yaml.Event) -> None:
        frame = self._stack.pop()
        value: object = frame.value
        if frame.merged:
            value = {}
            for source in (*reversed(frame.merged), cast("dict[str, object]", frame.value)):
                value.update(source)
        if frame.anchor:
            self._anchors[frame.anchor] = _Anchor(value, frame.nodes, frame.height + 1)
        self._attach(event, value, frame.nodes, frame.height + 1)

    def _alias(self, event: yaml.AliasEvent) -> None:
        anchor = self._anchors.get(cast("str", event.anchor))
        if anchor is None:
            raise DocumentError(
                _start(event), f"alias {show(str(event.anchor))} stands inside or before its anchor"
            )
        self._aliased += anchor.nodes
        if self._aliased > ALIASED_NODES_MAX:
            raise DocumentError(
                _start(event), f"aliases add more than {ALIASED_NODES_MAX} nodes: write them out"
            )
        if len(self._stack) + anchor.height > DEPTH_MAX:
            raise DocumentError(_start(event), _TOO_DEEP)
        self._put(event, anchor.value, nodes=anchor.nodes, height=anchor.height)

    def _put(self, event: yaml.Event, value: object, *, nodes: int, height: int) -> None:
        if self._path_of_next(event) is None:
            raise DocumentError(_start(event), "an alias as a key is not taken: write the key out")
        self._attach(event, value, nodes, height)

    def _attach(self, event: yaml.Event, value: object, nodes: int, height: int) -> None:
        """Hang a complete value into the frame around it."""
        if not self._stack:
            self._root = value
            return
        top = self._stack[-1]
        top.nodes += nodes
        top.height = max(top.height, height)
        if isinstance(top.value, list):
            top.value.append(value)
            return
        key = cast("str", top.key)
        top.key = None
        if top.is_merge:
            top.merged.extend(_merge_sources(event, value))
        else:
            top.value[key] = value


def _merge_sources(event: yaml.Event, value: object) -> list[dict[str, object]]:
    """Return the mappings of a merge key, the most important first (yaml.org/type/merge)."""
    sources = cast("list[object]", value) if isinstance(value, list) else [value]
    if not all(isinstance(source, dict) for source in sources):
        raise DocumentError(_start(event), "'<<' must name an object or a list of objects")
    return cast("list[dict[str, object]]", sources)


def _scalar_value(event: yaml.ScalarEvent) -> object:
    text = event.value
    tag = event.tag
    if tag in _PLAIN_TAGS or (tag is None and not event.implicit[0]):
        return text
    if tag is not None and tag not in _TAGS:
        raise DocumentError(_start(event), f"tag {show(tag)} is not taken: write plain YAML")
    return _plain(text)


def _plain(text: str) -> object:
    """Return what an unquoted scalar means; dates and ``12:30`` stay text, as in JSON."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in _NUMBER_START:
        return text
    if _INTEGER.fullmatch(text):
        return _integer(text.replace("_", ""))
    if _PREFIXED.fullmatch(text):
        return _prefixed(text.replace("_", ""))
    if _NOT_FINITE.fullmatch(text):
        # Kept as a number, as 1e999 is: the field's own reader refuses it by name.
        return float(text.replace(".", ""))
    return float(text) if _FLOAT.fullmatch(text) else text


def _prefixed(text: str) -> object:
    """Return 0x, 0b, 0o and YAML 1.1's leading-zero octal as an integer."""
    digits = text.lstrip("+-")
    sign = -1 if text.startswith("-") else 1
    bare = digits[1:].lower()
    if len(digits) > _DIGITS_MAX or bare in {"x", "b", "o", ""}:
        return text
    return sign * int(f"0{bare}" if bare[0] in "xbo" else f"0o{bare}", 0)


def _integer(text: str) -> int | float:
    return int(text) if len(text) <= _DIGITS_MAX else float(text)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"key {show(key)} appears twice")
            seen.add(key)
    return value


def _deeper(value: object, limit: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    if limit == 0:
        return True
    inner = (
        cast("dict[str, object]", value).values() if isinstance(value, dict) else cast("list[object]", value)
    )
    return any(_deeper(item, limit - 1) for item in inner)


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _start(event: yaml.Event) -> Place:
    mark = event.start_mark
    if mark is None:  # the parser sets it; only hand-made events lack one
        return Place(1, 1)
    return Place(mark.line + 1, mark.column + 1)
