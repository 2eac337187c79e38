"""What was sent to whom, why, and what the proxy said: the record behind wait-until-live, status and explain.

It owns pushes (one per batch of changes), responses (one per message) and their answers; it must never decide
what is sent, and it keeps a bounded number of everything.

One mutable `Response` is shared by all resources of a message, so that recording costs the hot path one small
object per message. A `Push` counts the (stream, type) pairs that still owe an answer: it is live when none does.

    push = Ledger.begin(at, changes, causes)     the shell opens it before it marks streams
    Ledger.attach(stream) / detach(stream)       the shell, when a stream opens and ends
    Ledger.proxies() / config(proxy) / pushes()  what the admin API shows
    push.live_at                                 when the last proxy had accepted it, else None
"""

import enum
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import msgspec

from xds.snapshot import Resource, ResourceType, Version

Change = tuple[ResourceType, str]


class State(enum.Enum):
    """Where a response, or a resource in it, stands."""

    SENT = "SENT"
    """Written; the proxy has not answered."""
    ACKED = "ACKED"
    NACKED = "NACKED"
    HELD = "HELD"
    """The proxy claimed this version when it connected; nothing needed to be sent."""
    ABSENT = "ABSENT"
    """Subscribed, and told that it does not exist."""
    DENIED = "DENIED"
    """Subscribed, and not authorised: for the proxy the same as absent."""


class Answer(msgspec.Struct, frozen=True, gc=False):
    """What one proxy said to a push, and when (seconds, the caller's clock).

    Out of sight of the collector: 256 pushes to 1,000 proxies are a quarter of a million of these.
    """

    proxy: str
    at: float
    error: str = ""


class Push:
    """One batch of changes on its way to the proxies that see it."""

    __slots__ = ("answers", "at", "causes", "changes", "id", "sent", "waiting")

    def __init__(self, id: int, at: float, changes: tuple[Change, ...], causes: tuple[str, ...]) -> None:  # noqa: A002
        """Open a push; `at` is when the first of its changes was detected."""
        self.id = id
        self.at = at
        self.changes = changes
        self.causes = causes
        self.sent = 0
        self.waiting = 0
        self.answers: list[Answer] = []

    @property
    def live_at(self) -> float | None:
        """When the last concerned proxy answered; None while one has not, or if none was concerned."""
        return self.answers[-1].at if self.answers and self.waiting == 0 else None

    @property
    def nacks(self) -> tuple[Answer, ...]:
        """The answers that reject."""
        return tuple(answer for answer in self.answers if answer.error)

    def settle(self, proxy: str, at: float, error: str = "") -> None:
        """Record the answer of one stream and type."""
        self.waiting -= 1
        self.answers.append(Answer(proxy, at, error))

    def forget(self) -> None:
        """One stream and type turned out unconcerned, or is gone."""
        self.waiting -= 1


class Response:
    """One message to one proxy and its answer."""

    __slots__ = ("answered_at", "at", "error", "items", "nonce", "pushes", "size_bytes", "state", "type_url")

    def __init__(  # noqa: PLR0913 a record: every argument is one of its columns
        self,
        type_url: str,
        nonce: str,
        items: dict[str, Resource | None],
        pushes: list[Push],
        *,
        at: float,
        size_bytes: int,
    ) -> None:
        """Record a message as sent; `items` maps what it changes, None for a removal."""
        self.type_url = type_url
        self.nonce = nonce
        self.items = items
        self.pushes = pushes
        self.at = at
        self.size_bytes = size_bytes
        self.state = State.SENT
        self.answered_at = 0.0
        self.error = ""


@dataclass(frozen=True, slots=True)
class Rejection:
    """The version that a proxy refused, in its own words."""

    version: Version | None
    """None: it refused a removal."""
    nonce: str
    at: float
    error: str
    cause: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """What one proxy has of one resource; times in seconds, None where nothing was sent on this stream."""

    type_url: str
    name: str
    state: State
    version: str
    nonce: str | None
    sent_at: float | None
    answered_at: float | None
    size_bytes: int
    cause: tuple[str, ...]
    error: str = ""


@dataclass(frozen=True, slots=True)
class Tally:
    """How many resources of one type a stream has, by where they stand; the rows of a type, counted."""

    type_url: str
    accepted: int
    unanswered: int
    rejected: int


@dataclass(frozen=True, slots=True)
class ProxySummary:
    """One connected proxy; tallies are those of all its streams."""

    id: str
    streams: int
    connected_at: float
    version: str
    """What it says of itself, as ``1.40.0``; empty for a client that names none."""
    tallies: tuple[Tally, ...]

    @property
    def synced(self) -> bool:
        """Whether everything that was sent has been accepted."""
        return not any(tally.unanswered or tally.rejected for tally in self.tallies)


class Recorded(Protocol):
    """A stream, as the ledger sees it."""

    @property
    def proxy(self) -> str:
        """The node ID."""
        ...

    @property
    def connected_at(self) -> float:
        """When it opened, in seconds."""
        ...

    @property
    def version(self) -> str:
        """The version that the node names, empty for none."""
        ...

    def rows(self) -> Iterable[Row]:
        """Yield one row per resource."""
        ...

    def tallies(self) -> Iterable[Tally]:
        """Yield the count of each type, without making its rows."""
        ...


PUSHES_KEPT = 256
"""Pushes that stay readable. 256 edits are more than anyone scrolls; with 1,000 proxies ≈ 20 MiB at worst."""


class Ledger:
    """The records of one control plane."""

    def __init__(self, pushes_kept: int = PUSHES_KEPT) -> None:
        """Start empty."""
        self._pushes: deque[Push] = deque(maxlen=pushes_kept)
        self._last_id = 0
        self._streams: dict[str, list[Recorded]] = {}

    @property
    def connected(self) -> int:
        """How many proxies are connected, at no cost: metrics ask for it at every scrape."""
        return len(self._streams)

    def begin(self, at: float, changes: Iterable[Change], causes: tuple[str, ...] = ()) -> Push:
        """Open a push for a batch that was detected at `at` (seconds)."""
        self._last_id += 1
        push = Push(self._last_id, at, tuple(changes), causes)
        self._pushes.append(push)
        return push

    def attach(self, stream: Recorded) -> None:
        """A stream whose proxy is known has opened."""
        self._streams.setdefault(stream.proxy, []).append(stream)

    def detach(self, stream: Recorded) -> None:
        """A stream has ended; unknown streams are ignored."""
        streams = self._streams.get(stream.proxy, [])
        if stream in streams:
            streams.remove(stream)
        if not streams:
            self._streams.pop(stream.proxy, None)

    def pushes(self) -> tuple[Push, ...]:
        """Return the pushes that are kept, newest first."""
        return tuple(reversed(self._pushes))

    def proxies(self) -> tuple[ProxySummary, ...]:
        """Return every connected proxy by ID."""
        return tuple(self._summary(proxy) for proxy in sorted(self._streams))

    def is_connected(self, proxy: str) -> bool:
        """Tell whether a proxy has a stream."""
        return proxy in self._streams

    def config(self, proxy: str) -> tuple[Row, ...]:
        """Return what one proxy has of each resource, by type and name; empty if it is not connected."""
        rows = [row for stream in self._streams.get(proxy, ()) for row in stream.rows()]
        return tuple(sorted(rows, key=lambda row: (row.type_url, row.name)))

    def _summary(self, proxy: str) -> ProxySummary:
        streams = self._streams[proxy]
        return ProxySummary(
            id=proxy,
            streams=len(streams),
            connected_at=min(stream.connected_at for stream in streams),
            version=streams[-1].version,
            tallies=tuple(tally for stream in streams for tally in stream.tallies()),
        )
