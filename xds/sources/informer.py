"""One kind followed: requests as its reflector wants them, and what came of them handed on.

Owns the sockets' side of a reflector, its deadlines and its log lines; it must never decide what a reflector decides.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from xds import settings
from xds.sources.envelope import Name
from xds.sources.mirror import Kind
from xds.sources.reflector import Delta, ListPage, Reflector, Wait, Watch
from xds.sources.transport import NO_ANSWER, ApiError, Transport

log = logging.getLogger("xds.kubernetes")

METADATA_ONLY = "application/json;as={kind};g=meta.k8s.io;v=v1"
"""How the API is asked for objects without spec and status (metav1.PartialObjectMetadata)."""


@dataclass(frozen=True, slots=True)
class Status:
    """How one kind is doing; times are seconds since the epoch, 0 for never."""

    kind: str
    is_synced: bool
    lists: int
    """Lists begun: the first pages asked for."""
    watches: int
    failures: int
    failure: str
    """Why the last request failed; empty once one has succeeded."""
    heard_at: float
    """When the last list, event or bookmark arrived."""


class Informer:
    """Follows one kind; ``take`` gets what changed and when it arrived, and an empty first list as nothing."""

    def __init__(
        self,
        transport: Transport,
        kind: Kind,
        take: Callable[[Informer, Iterable[Delta], float], None],
        *,
        known: Iterable[Name] = (),
        is_metadata_only: bool = False,
    ) -> None:
        self.kind = kind
        self._transport = transport
        self._take = take
        self._reflector = Reflector(random.random, known)
        self._is_metadata_only = is_metadata_only
        self._wake = asyncio.Event()
        self._was_synced = False
        self._lists = self._watches = self._failures = 0
        self._heard_at = 0.0
        self._has_failed = False
        self._attempt: asyncio.Timeout | None = None
        self._is_hurried = False

    @property
    def is_synced(self) -> bool:
        """A complete list has been read and handed on."""
        return self._reflector.is_synced

    @property
    def is_cut_off(self) -> bool:
        """The API did not answer the last request."""
        return self._reflector.is_cut_off

    @property
    def failure(self) -> str:
        """Why the last request failed; empty once one has succeeded."""
        return self._reflector.failure

    def names(self) -> tuple[Name, ...]:
        """Return the objects that are there."""
        return self._reflector.names()

    def status(self) -> Status:
        """Return how this kind is doing."""
        return Status(
            kind=self.kind.name,
            is_synced=self.is_synced,
            lists=self._lists,
            watches=self._watches,
            failures=self._failures,
            failure=self.failure,
            heard_at=self._heard_at,
        )

    def reachable(self) -> None:
        """Stop waiting for the API: it answers; a request from before may hang in a connection that is dead."""
        if not self.is_cut_off:
            return
        if self._attempt is None:
            if self._reflector.reachable(_now()):
                self._wake.set()
        elif not (self._is_hurried or self._attempt.expired()):
            # Once: an API under load answers late, and must not be asked for ever anew.
            self._is_hurried = True
            self._attempt.reschedule(_now())

    async def run(self) -> None:
        """Follow the kind until this is cancelled."""
        while True:
            match self._reflector.next(_now()):
                case Wait(until):
                    await self._wait(until)
                case ListPage() as page:
                    await self._list(page)
                case Watch() as watch:
                    await self._watch(watch)
            self._note()

    async def _wait(self, until: float) -> None:
        self._wake.clear()
        try:
            async with asyncio.timeout(max(0.0, until - _now())):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _list(self, page: ListPage) -> None:
        self._lists += not page.token
        try:
            async with asyncio.timeout(settings.KUBE_LIST_TIMEOUT_S) as self._attempt:
                body = await self._transport.call(
                    "GET",
                    self.kind.path,
                    query=self._query(page.query),
                    accept=self._accept("PartialObjectMetadataList"),
                    timeout_s=settings.KUBE_LIST_TIMEOUT_S,
                )
        except (ApiError, TimeoutError) as error:
            self._fail(error, "the list")
        else:
            self._succeed()
            self._hand_on(self._reflector.page(body, _now()))

    async def _watch(self, watch: Watch) -> None:
        self._watches += 1
        limit_s = watch.timeout_s + settings.KUBE_WATCH_MARGIN_S
        try:
            async with (
                asyncio.timeout(limit_s) as self._attempt,
                self._transport.lines(
                    self.kind.path,
                    query=self._query(watch.query),
                    read_timeout_s=limit_s,
                    accept=self._accept("PartialObjectMetadata"),
                ) as lines,
            ):
                self._succeed()
                self._reflector.opened()
                self._note()
                async for line in lines:
                    self._hand_on(self._reflector.line(line, _now()))
                    if self.failure:
                        return
        except (ApiError, TimeoutError) as error:
            self._fail(error, "the watch")
        else:
            self._reflector.ended(_now())

    def _succeed(self) -> None:
        self._attempt = None
        self._is_hurried = False

    def _fail(self, error: ApiError | TimeoutError, what: str) -> None:
        """Tell the reflector; who was stopped because the API answers asks again at once."""
        was_hurried = self._attempt is not None and self._is_hurried and isinstance(error, TimeoutError)
        self._attempt = None
        if isinstance(error, TimeoutError):
            error = ApiError(NO_ANSWER, "Timeout", f"{what} was not over in time")
        self._reflector.failed(error, _now())
        if was_hurried:
            self._reflector.reachable(_now())

    def _query(self, query: dict[str, str]) -> dict[str, str]:
        return query | ({"fieldSelector": self.kind.selector} if self.kind.selector else {})

    def _accept(self, partial: str) -> str:
        return METADATA_ONLY.format(kind=partial) if self._is_metadata_only else "application/json"

    def _hand_on(self, deltas: tuple[Delta, ...]) -> None:
        arrived_at = time.time()
        if not self.failure:
            self._heard_at = arrived_at
        is_first_complete = self.is_synced and not self._was_synced
        self._was_synced = self.is_synced
        if deltas or is_first_complete:
            self._take(self, deltas, arrived_at)

    def _note(self) -> None:
        """Count failures, and log the first of a row and its end."""
        failure = self.failure
        self._failures += bool(failure)
        if failure and not self._has_failed:
            log.warning("kind not followed: kind=%s reason=%s", self.kind.name, failure)
        elif self._has_failed and not failure:
            log.info("kind followed again: kind=%s", self.kind.name)
        self._has_failed = bool(failure)


def _now() -> float:
    return asyncio.get_running_loop().time()
