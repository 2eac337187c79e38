"""Typed readers over raw JSON: the one place where users' input turns into values.

Every reader names the field it refuses (``spec.http[0].retries.attempts``) and what it
would have taken. It must never return a value that it has not checked, and never raise
anything but ConfigError.
"""

from __future__ import annotations

import difflib
import enum
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar, cast

E = TypeVar("E", bound=enum.Enum)

MAX_TEXT = 1024
"""Longest string taken where no field says otherwise; Istio caps regexes at 1,024 characters as well
(istio/istio pkg/config/validation)."""

MAX_ITEMS = 10_000
"""Most elements taken of one list or map: bounds what a single object can make the compiler do."""

_DURATION = re.compile(r"(?:(\d{1,9}(?:\.\d{1,9})?)(h|m(?!s)|s|ms|us|ns))")
_UNIT_MS = {"h": 3_600_000.0, "m": 60_000.0, "s": 1000.0, "ms": 1.0, "us": 1e-3, "ns": 1e-6}


class Severity(enum.Enum):
    """How much a problem matters: an ERROR keeps the object out, the others do not."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


class ConfigError(Exception):
    """Input refused: ``path`` is the field, ``reason`` says what is wrong and what would be right."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}" if path else reason)
        self.path = path
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Note:
    """A remark that does not keep the object out."""

    severity: Severity
    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Problem:
    """What a user must be told of one object; ``where`` is ``file:line:column`` where a file is known."""

    severity: Severity
    subject: str
    path: str
    reason: str
    where: str = ""

    def __str__(self) -> str:
        """One line: where, severity, object, field and reason."""
        place = f"{self.where}: " if self.where else ""
        field = f"{self.path}: " if self.path else ""
        return f"{place}{self.severity.value}: {self.subject}: {field}{self.reason}"

    def at(self, where: str) -> Problem:
        """Return the same problem with its place in a file."""
        return replace(self, where=where)


class Reader:
    """One JSON object and the path that leads to it; it remembers which fields were asked for.

    ``notes`` is shared by all readers of one user object and collects warnings.
    Call ``done()`` after the last field: a field that nobody asked for is an error.
    """

    __slots__ = ("_asked", "_raw", "notes", "path")

    def __init__(self, raw: object, path: str, notes: list[Note]) -> None:
        if not isinstance(raw, dict):
            raise ConfigError(path, f"must be an object, got {_kind(raw)}")
        self._raw = cast("dict[object, object]", raw)
        self._asked: set[str] = set()
        self.path = path
        self.notes = notes

    def at(self, name: str) -> str:
        """Return the path of a field of this object."""
        return f"{self.path}.{name}" if self.path else name

    def fail(self, name: str, reason: str) -> ConfigError:
        """Return the error for a field of this object, to be raised by the caller."""
        return ConfigError(self.at(name), reason)

    def has(self, name: str) -> bool:
        """Tell whether the field is present and not null; null means absent, as in Kubernetes."""
        return self._raw.get(name) is not None

    def present(self) -> frozenset[str]:
        """Return the names of all fields that are set."""
        return frozenset(str(name) for name, value in self._raw.items() if value is not None)

    def raw(self, name: str) -> object:
        """Return the unread value (None: absent) and count the field as asked for."""
        self._asked.add(name)
        return self._raw.get(name)

    def need(self, name: str) -> None:
        """Raise when the field is absent."""
        if not self.has(name):
            raise self.fail(name, "is required")

    def text(self, name: str, default: str | None = None, *, limit: int = MAX_TEXT) -> str:
        """Return a string; without a default the field is required."""
        self._asked.add(name)
        value = self._raw.get(name)
        if value is None:
            if default is None:
                raise self.fail(name, "is required")
            return default
        # Most of what is read is short text without anything odd; the rest is judged, and named, in full.
        if isinstance(value, str) and len(value) <= limit and value.isascii() and "\x00" not in value:
            return value
        return _text(value, self.at(name), limit)

    def texts(self, name: str) -> tuple[str, ...]:
        """Return a list of strings, empty when absent."""
        return tuple(_text(v, f"{self.at(name)}[{i}]", MAX_TEXT) for i, v in enumerate(self._list(name)))

    def boolean(self, name: str, *, default: bool = False) -> bool:
        """Return true or false; strings are refused."""
        value = self.raw(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.fail(name, f"must be true or false, got {show(value)}")
        return value

    def integer(self, name: str, default: int | None = None, *, low: int, high: int) -> int:
        """Return an integer within ``low..high`` (both included); without a default it is required."""
        value = self.raw(name)
        if value is None:
            if default is None:
                raise self.fail(name, "is required")
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.fail(name, f"must be {low}..{high}, got {show(value)}")
        return value

    def number(self, name: str, default: float | None = None, *, low: float, high: float) -> float:
        """Return a finite number within ``low..high``; NaN and infinities are refused."""
        value = self.raw(name)
        if value is None:
            if default is None:
                raise self.fail(name, "is required")
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.fail(name, f"must be {low:g}..{high:g}, got {show(value)}")
        if not low <= value <= high:
            raise self.fail(name, f"must be {low:g}..{high:g}, got {show(value)}")
        return float(value)

    def duration_ms(self, name: str, default: float | None = None, *, low_ms: float = 0) -> float | None:
        """Return a Go or protobuf duration (``1.5s``, ``250ms``, ``1h30m``) in milliseconds."""
        value = self.raw(name)
        if value is None:
            return default
        return read_duration_ms(value, self.at(name), low_ms=low_ms)

    def choice(self, name: str, options: type[E], default: E | None = None) -> E:
        """Return the enum member whose value is the field's text; without a default it is required."""
        value = self.text(name, None if default is None else str(default.value))
        try:
            return options(value)
        except ValueError:
            known = ", ".join(str(option.value) for option in options)
            raise self.fail(name, f"must be one of {known}, got {show(value)}") from None

    def labels(self, name: str) -> tuple[tuple[str, str], ...]:
        """Return a map of strings as pairs sorted by key, empty when absent."""
        value = self.raw(name)
        if value is None:
            return ()
        if not isinstance(value, dict):
            raise self.fail(name, f"must be an object of strings, got {_kind(value)}")
        items = cast("dict[object, object]", value)
        if len(items) > MAX_ITEMS:
            raise self.fail(name, f"must have at most {MAX_ITEMS} entries, got {len(items)}")
        at = self.at(name)
        return tuple(
            sorted((_text(k, at, MAX_TEXT), _text(v, f"{at}.{k}", MAX_TEXT * 256)) for k, v in items.items())
        )

    def object(self, name: str) -> Reader | None:
        """Return a reader of the object in this field, None when absent."""
        value = self.raw(name)
        return None if value is None else Reader(value, self.at(name), self.notes)

    def objects(self, name: str) -> tuple[Reader, ...]:
        """Return a reader for each object of a list, empty when absent."""
        at = self.at(name)
        return tuple(Reader(value, f"{at}[{i}]", self.notes) for i, value in enumerate(self._list(name)))

    def warn(self, name: str, reason: str) -> None:
        """Note a warning on a field of this object."""
        self.notes.append(Note(Severity.WARNING, self.at(name), reason))

    def info(self, name: str, reason: str) -> None:
        """Note an information on a field of this object."""
        self.notes.append(Note(Severity.INFO, self.at(name), reason))

    def leave(self, name: str, effect: str) -> None:
        """Take note of a field that Istio has and Proa has not yet: warned about, and left out."""
        self._asked.add(name)
        if self.has(name):
            self.warn(name, f"is not supported yet and was left out: {effect}")

    def refuse(self, name: str, effect: str, *, mend: str = "remove it") -> None:
        """Refuse a field that Istio has and Proa has not yet, where leaving it out could misroute or widen."""
        self._asked.add(name)
        if self.has(name):
            raise self.fail(name, f"is not supported yet, and without it {effect}; {mend}")

    def done(self) -> None:
        """Raise for the first field that nobody asked for, with the nearest known name."""
        for name in self._raw:
            if not isinstance(name, str):
                raise ConfigError(self.path, f"has a field name that is not a string: {show(name)}")
            if name not in self._asked:
                near = difflib.get_close_matches(name, sorted(self._asked), n=1)
                hint = f"; did you mean {near[0]}?" if near else f"; known: {', '.join(sorted(self._asked))}"
                raise self.fail(name, f"unknown field{hint}")

    def _list(self, name: str) -> Sequence[object]:
        value = self.raw(name)
        if value is None:
            return ()
        if not isinstance(value, list):
            raise self.fail(name, f"must be a list, got {_kind(value)}")
        items = cast("list[object]", value)
        if len(items) > MAX_ITEMS:
            raise self.fail(name, f"must have at most {MAX_ITEMS} items, got {len(items)}")
        return items


def read_duration_ms(value: object, path: str, *, low_ms: float = 0) -> float:
    """Return a duration text in milliseconds (at least ``low_ms``, at most ten years)."""
    if not isinstance(value, str):
        raise ConfigError(path, f"must be a duration such as 500ms or 1.5s, got {_kind(value)} {show(value)}")
    text = _text(value, path, 64)
    matches = list(_DURATION.finditer(text))
    if not matches or "".join(m.group(0) for m in matches) != text:
        raise ConfigError(path, f"must be a duration such as 500ms or 1.5s, got {show(text)}")
    total = sum(float(m.group(1)) * _UNIT_MS[m.group(2)] for m in matches)
    if total < low_ms or total > 10 * 365 * 24 * 3_600_000.0:
        raise ConfigError(path, f"must be at least {low_ms:g}ms and at most ten years, got {show(text)}")
    return total


def show(value: object) -> str:
    """Return a short, printable form of a refused value: control characters escaped, at most 60 characters."""
    text = value if isinstance(value, str) else repr(value)
    text = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text[:60])
    return f'"{text}"' if isinstance(value, str) else text


def _text(value: object, path: str, limit: int) -> str:
    if not isinstance(value, str):
        raise ConfigError(path, f"must be a string, got {_kind(value)} {show(value)}")
    if len(value) > limit:
        raise ConfigError(path, f"must be at most {limit} characters, got {len(value)}")
    if "\x00" in value:
        raise ConfigError(path, "must not hold a NUL character")
    if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
        raise ConfigError(path, "must not hold half of a surrogate pair: that is JSON, but no text")
    return value


def _kind(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case Mapping():
            return "an object"
        case list():
            return "a list"
        case _:
            return type(value).__name__
