"""One kind's mirror of the API as a state machine: paged list, watch, bookmark, 410, relist, and when to wait.

It is told what arrived and what time it is, and says what to do next and which objects changed. It must never
take an object out because something could not be read: only a DELETED event or a complete list does.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from xds import settings
from xds.sources.envelope import Failure, Item, MalformedError, Name, open_line, open_page
from xds.sources.transport import NO_ANSWER, TOO_LARGE, ApiError

_GONE = 410
_TOO_MANY = 429
_SERVER_ERRORS = 500
_ABOUT_US = frozenset({NO_ANSWER, 401, 403, 404, 408, _TOO_MANY})
"""Answers that say nothing about the resourceVersion: a watch goes on where it was. So do all 5xx."""

_TOKEN_REFUSED = frozenset({400, 404, _GONE})
"""Answers to a later page after which its token is worth nothing: the list begins again."""

_FUTURE_VERSION = "Too large resource version"
"""How an apiserver says that it has not seen a resourceVersion that we have (apimachinery pkg/api/errors)."""


@dataclass(frozen=True, slots=True)
class ListPage:
    """Ask for a page; ``token`` is empty for the first one."""

    token: str
    limit: int

    @property
    def query(self) -> dict[str, str]:
        """The parameters of the request; no resourceVersion: what is listed is never older than what we know."""
        return {"limit": str(self.limit), **({"continue": self.token} if self.token else {})}


@dataclass(frozen=True, slots=True)
class Watch:
    """Open a watch that the server ends after ``timeout_s``."""

    resource_version: int
    timeout_s: int

    @property
    def query(self) -> dict[str, str]:
        """The parameters of the request."""
        return {
            "watch": "1",
            "resourceVersion": str(self.resource_version),
            "timeoutSeconds": str(self.timeout_s),
            "allowWatchBookmarks": "true",
        }


@dataclass(frozen=True, slots=True)
class Wait:
    """Do nothing until then, in seconds of the caller's monotonic clock."""

    until: float


Action: TypeAlias = ListPage | Watch | Wait


@dataclass(frozen=True, slots=True)
class Put:
    """An object is there, in a version not seen before; ``raw`` is its JSON."""

    name: Name
    raw: msgspec.Raw


@dataclass(frozen=True, slots=True)
class Gone:
    """An object that was there is deleted."""

    name: Name


Delta: TypeAlias = Put | Gone


class Phase(enum.Enum):
    """What a reflector is at."""

    LISTING = "listing"
    WATCHING = "watching"


class Backoff:
    """client-go's reflector backoff: 0.8 s doubling to 30 s, each up to twice as long, forgotten after 2 min."""

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self._delay_s = settings.KUBE_BACKOFF_MIN_S
        self._asked_at: float | None = None

    def next_s(self, now: float) -> float:
        """Return how long to wait after a failure at ``now``."""
        if self._asked_at is not None and now - self._asked_at > settings.KUBE_BACKOFF_RESET_S:
            self.reset()
        self._asked_at = now
        delay_s = self._delay_s
        self._delay_s = min(2 * delay_s, settings.KUBE_BACKOFF_MAX_S)
        return delay_s * (1 + self._random() * settings.KUBE_BACKOFF_JITTER)

    def reset(self) -> None:
        """Begin again with the shortest wait."""
        self._delay_s = settings.KUBE_BACKOFF_MIN_S


class Reflector:
    """One kind; ``random`` gives numbers in [0, 1), ``known`` are objects of which an earlier one has told.

    An object's versions are compared as numbers, as Kubernetes has promised since 1.35 (KEP-5504) and etcd has
    always had them: what is not newer than what was told is a duplicate, or late, and is passed over.
    """

    def __init__(self, random: Callable[[], float], known: Iterable[Name] = ()) -> None:
        self._random = random
        self._backoff = Backoff(random)
        self._known: dict[Name, int] = dict.fromkeys(known, -1)
        self._deleted: dict[Name, int] = {}
        self._version = 0
        self._floor = 0
        self._listed: set[Name] = set()
        self._list_version = 0
        self._is_restored = False
        self._token = ""
        self._limit = settings.KUBE_PAGE_ITEMS
        self._wait_until = 0.0
        self._began_at = 0.0
        self._has_watched = True
        self._has_returned = False
        self.phase = Phase.LISTING
        self.is_synced = False
        """A complete list has been read, once."""
        self.is_cut_off = False
        """A request got no answer, and nothing has succeeded since: ``reachable`` would end the wait."""
        self.failure = ""
        """Why the last request failed; empty once one has succeeded."""

    def names(self) -> tuple[Name, ...]:
        """Return the objects that are there."""
        return tuple(self._known)

    def next(self, now: float) -> Action:
        """Return what to do now."""
        if now < self._wait_until:
            return Wait(self._wait_until)
        if self.phase is Phase.LISTING:
            return ListPage(self._token, self._limit)
        self._began_at = now
        # A new watch brings what is newer than this and nothing else: older deletions need not be remembered.
        self._settle(self._version)
        spread_s = settings.KUBE_WATCH_MAX_S - settings.KUBE_WATCH_MIN_S
        return Watch(self._version, settings.KUBE_WATCH_MIN_S + round(self._random() * spread_s))

    # -- what arrived ----------------------------------------------------------------------

    def page(self, body: bytes, now: float) -> tuple[Delta, ...]:
        """Take a page; what the complete list no longer holds is gone with its last page, and not before."""
        try:
            page = open_page(body)
        except MalformedError as error:
            self._retry(now, str(error))
            return ()
        if not self._token:
            # An API restored from a backup counts from an earlier number: then nothing can be compared.
            self._list_version, self._is_restored = page.version, page.version < self._version
        deltas: list[Delta] = []
        for item in page.items:
            self._listed.add(item.name)
            if self._is_restored or self._known.get(item.name) != item.version:
                self._known[item.name] = item.version
                deltas.append(Put(item.name, item.raw))
        self._succeed()
        self._token = page.token
        return tuple(deltas) if self._token else (*deltas, *self._complete())

    def opened(self) -> None:
        """The watch was answered; its first line may be half a minute away."""
        self._succeed()

    def line(self, line: bytes, now: float) -> tuple[Delta, ...]:
        """Take a line of the watch; when ``failure`` is set afterwards, the watch is worth no more."""
        try:
            event = open_line(line)
        except MalformedError as error:
            self._retry(now, str(error))
            return ()
        if isinstance(event, Failure):
            code = event.code or _SERVER_ERRORS
            self.failed(ApiError(code, event.reason, event.message, event.retry_after_s), now)
            return ()
        self._succeed()
        self._has_watched = True
        match event.type:
            case "ADDED" | "MODIFIED":
                return self._put(event.item)
            case "DELETED":
                return self._delete(event.item)
            case "BOOKMARK":
                self._version = max(self._version, event.item.version)
                self._settle(event.item.version)
            case _:
                self._retry(now, f"the watch holds an event of type {event.type[:40]!r}")
        return ()

    def ended(self, now: float) -> None:
        """The server has ended the watch in good order; one that ends at once is asked for again later."""
        self._has_watched = True
        if now - self._began_at < settings.KUBE_WATCH_SHORT_S:
            self._wait_until = now + self._backoff.next_s(now)

    def failed(self, error: ApiError, now: float) -> None:
        """A list or watch was refused, or broke: wait, and list again where that is the only way on."""
        status = error.status
        if self.phase is Phase.LISTING:
            if self._token and status in _TOKEN_REFUSED:
                self._start_list()
            elif error.reason == TOO_LARGE:
                self._limit = max(1, self._limit // 4)
        elif _FUTURE_VERSION in error.message or not (status in _ABOUT_US or status >= _SERVER_ERRORS):
            self._start_list()
        # Nobody is overloaded: history was compacted, or the apiserver has restarted, and asks for a list. Who is
        # asked again before the watch has brought anything waits.
        is_asked_first = status == _GONE and self._has_watched
        self._has_watched = self._has_watched and not is_asked_first
        wait_s = self._random() * settings.KUBE_RETURN_SPREAD_S if is_asked_first else None
        # Until an apiserver that has just started has read its roles, it refuses everybody (403): whoever is refused
        # after an outage has waited long and would wait longer, and is asked to come back like the others.
        is_cut_off = self.is_cut_off and not self._has_returned
        self._retry(now, str(error), error.retry_after_s, wait_s)
        if status == NO_ANSWER or status >= _SERVER_ERRORS:
            self._has_returned, is_cut_off = False, True
        self.is_cut_off = is_cut_off

    def reachable(self, now: float) -> bool:
        """The API answers again: end a wait for it, spread over a moment; return whether there was one.

        What it refuses from now on is meant.
        """
        if not self.is_cut_off or self._wait_until <= now:
            return False
        self._has_returned = True
        self._backoff.reset()
        self._wait_until = min(self._wait_until, now + self._random() * settings.KUBE_RETURN_SPREAD_S)
        return True

    # -- steps -----------------------------------------------------------------------------

    def _succeed(self) -> None:
        self.failure = ""
        self.is_cut_off = self._has_returned = False

    def _retry(
        self, now: float, failure: str, retry_after_s: float | None = None, wait_s: float | None = None
    ) -> None:
        """Wait as long as the server asks for, else ``wait_s``, else as long as backoff says."""
        self.failure = failure
        self.is_cut_off = False
        if retry_after_s is not None:
            wait_s = min(retry_after_s, settings.KUBE_RETRY_AFTER_MAX_S) + self._random()
        elif wait_s is None:
            wait_s = self._backoff.next_s(now)
        self._wait_until = now + wait_s

    def _start_list(self) -> None:
        self.phase = Phase.LISTING
        self._token = ""
        self._listed.clear()

    def _complete(self) -> list[Delta]:
        gone = [name for name in self._known if name not in self._listed]
        for name in gone:
            del self._known[name]
        self._listed.clear()
        self._deleted.clear()
        self._version = self._floor = self._list_version
        self.phase = Phase.WATCHING
        self.is_synced = True
        return [Gone(name) for name in gone]

    def _put(self, item: Item) -> tuple[Delta, ...]:
        newest = max(self._floor, self._known.get(item.name, 0), self._deleted.get(item.name, 0))
        if item.version <= newest:
            return ()
        self._deleted.pop(item.name, None)
        self._known[item.name] = item.version
        self._version = max(self._version, item.version)
        return (Put(item.name, item.raw),)

    def _delete(self, item: Item) -> tuple[Delta, ...]:
        if item.version <= self._floor or item.version < self._known.get(item.name, 0):
            return ()
        self._deleted[item.name] = max(item.version, self._deleted.get(item.name, 0))
        self._version = max(self._version, item.version)
        return (Gone(item.name),) if self._known.pop(item.name, None) is not None else ()

    def _settle(self, version: int) -> None:
        """Everything up to a version has been told: what comes later and is older is late."""
        self._floor = max(self._floor, version)
        self._deleted = {name: at for name, at in self._deleted.items() if at > self._floor}
