"""What becomes a Kubernetes Event: said once, then counted, and never so often that it is a load.

Owns what a notice is and when it may be said again; it must never read a clock or talk to the apiserver.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from xds import settings

_K = TypeVar("_K")
_V = TypeVar("_V")


class Reference(NamedTuple):
    """The object that an Event is about; apiVersion and uid are looked up where they are not known."""

    kind: str
    namespace: str
    name: str
    api_version: str = ""
    uid: str = ""


@dataclass(frozen=True, slots=True)
class Notice:
    """One thing to say about one object."""

    about: Reference
    reason: str
    """One word in CamelCase, as `kubectl describe` shows it."""
    note: str
    is_warning: bool = True


@dataclass(frozen=True, slots=True)
class Saying:
    """What to write: a new Event, or the count of one that was written before."""

    notice: Notice
    event: str
    """Name of the Event."""
    count: int
    """1: it is new."""


def reference(text: str) -> Reference | None:
    """Read the object that a problem's subject or a resource's cause begins with: ``Kind namespace/name …``."""
    kind, _, rest = text.partition(" ")
    where = rest.partition(" ")[0]
    namespace, _, name = where.rpartition("/")
    if not kind.isalnum() or not name or "/" in namespace:
        return None
    return Reference(kind, namespace, name)


def blamed(causes: Mapping[str, Iterable[str]], error: str) -> tuple[Reference, ...]:
    """Return the objects behind a rejection: causes by resource name, as far as Envoy's own words name a resource.

    A response with one resource needs no name. Of several, those that the error does not name are not blamed.
    """
    named = [found for name, found in causes.items() if len(causes) == 1 or name in error]
    objects = (reference(cause) for found in named for cause in found)
    return tuple(dict.fromkeys(found for found in objects if found is not None))


@dataclass(slots=True)
class _Said:
    event: str
    count: int
    last: float
    written: float


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


class Correlator:
    """What was said when; bounded, the oldest is forgotten first."""

    def __init__(self, kept: int = settings.EVENT_NOTES_KEPT) -> None:
        self._kept = kept
        self._said: OrderedDict[Notice, _Said] = OrderedDict()
        self._buckets: OrderedDict[tuple[str, str, str], _Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._said)

    def take(self, notice: Notice, now: float) -> Saying | None:
        """What to write for a notice at this time (seconds), None for nothing: it only counts, or is too much."""
        said = self._said.get(notice)
        if said is not None and now < said.last + settings.EVENT_SERIES_S:
            self._said.move_to_end(notice)
            said.count += 1
            said.last = now
            if now < said.written + settings.EVENT_COUNT_S:
                return None
            said.written = now
            return Saying(notice, said.event, said.count)
        if not self._may_say(notice.about, now):
            return None
        said = _Said(_event_name(notice, now), 1, now, now)
        self._said[notice] = said
        self._said.move_to_end(notice)
        _trim(self._said, self._kept)
        return Saying(notice, said.event, 1)

    def forget(self, notice: Notice) -> None:
        """It could not be written: the next time it is new."""
        self._said.pop(notice, None)

    def _may_say(self, about: Reference, now: float) -> bool:
        key = (about.kind, about.namespace, about.name)
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = _Bucket(settings.EVENT_BURST, now)
            _trim(self._buckets, self._kept)
        refilled = bucket.tokens + (now - bucket.at) / settings.EVENT_REFILL_S
        bucket.tokens, bucket.at = min(refilled, settings.EVENT_BURST), now
        self._buckets.move_to_end(key)
        if bucket.tokens < 1:
            return False
        bucket.tokens -= 1
        return True


def document(saying: Saying, *, controller: str, instance: str, stamp: str) -> dict[str, object]:
    """The events.k8s.io/v1 Event of a new saying; `stamp` is a MicroTime."""
    notice, about = saying.notice, saying.notice.about
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        # The API wants the object's namespace, and `default` for objects that have none.
        "metadata": {"name": saying.event, "namespace": about.namespace or "default"},
        "eventTime": stamp,
        "reportingController": controller,
        "reportingInstance": instance,
        "action": "Configure",
        "reason": notice.reason,
        "type": "Warning" if notice.is_warning else "Normal",
        "note": shorten(notice.note),
        "regarding": {
            "apiVersion": about.api_version,
            "kind": about.kind,
            "namespace": about.namespace,
            "name": about.name,
            **({"uid": about.uid} if about.uid else {}),
        },
    }


def series(saying: Saying, stamp: str) -> dict[str, object]:
    """The merge patch that counts a saying."""
    return {"series": {"count": saying.count, "lastObservedTime": stamp}}


def shorten(note: str) -> str:
    """A note within the API's limit, of printable characters and line ends alone."""
    clean = "".join(char if char.isprintable() or char == "\n" else " " for char in note)
    octets = clean.encode()
    if len(octets) <= settings.EVENT_NOTE_MAX_BYTES:
        return clean
    return octets[: settings.EVENT_NOTE_MAX_BYTES - 3].decode(errors="ignore") + "…"


def _event_name(notice: Notice, now: float) -> str:
    """A name of its own, as client-go makes it: the object's and a part that differs."""
    text = "\n".join((*notice.about, notice.reason, notice.note, repr(now)))
    return f"{notice.about.name[:200]}.{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _trim(found: OrderedDict[_K, _V], kept: int) -> None:
    while len(found) > kept:
        found.popitem(last=False)
