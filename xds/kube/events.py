"""Kubernetes Events from problems and rejections: a bounded queue and one writer.

Owns the queue, the lookup of uids and the writes; it must never make anybody wait, nor decide what is worth saying.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import msgspec

from xds import settings
from xds.api.manifest import BUILT_IN, CUSTOM
from xds.fields import Problem, Severity
from xds.lease import micro_time
from xds.notices import Correlator, Notice, Reference, Saying, blamed, document, reference, series
from xds.sources.transport import ApiError, Transport

log = logging.getLogger(__name__)

CONTROLLER: Final = "proa.dev/proa"
_CONFLICT: Final = 409
_NOT_FOUND: Final = 404
_PARTIAL: Final = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
_REASONS: Final = {Severity.ERROR: "Refused", Severity.WARNING: "Doubtful"}
"""What `kubectl describe` shows. Remarks of the lowest severity make no Event."""


class Events:
    """What this process says as Events; run it as a task of its own."""

    def __init__(
        self,
        api: Transport,
        instance: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`instance` is this replica's name."""
        self._api = api
        self._instance = instance[:128]
        self._clock = clock
        self._wall = wall
        self._queue: asyncio.Queue[Notice] = asyncio.Queue(settings.EVENT_QUEUE)
        self._correlator = Correlator()
        self._standing: dict[Notice, float] = {}
        self.counters: Counter[str] = Counter()
        """Events written, dropped and failed: what `/metrics` shows."""

    @property
    def waiting(self) -> int:
        """How many notices wait to be written."""
        return self._queue.qsize()

    # --- what is said; none of these waits ------------------------------------------------------

    def say(self, notice: Notice) -> None:
        """Queue a notice; a full queue drops it, and counts."""
        try:
            self._queue.put_nowait(notice)
        except asyncio.QueueFull:
            self.counters["events_dropped"] += 1

    def problems(self, found: Iterable[Problem], *, leads: bool) -> None:
        """Say the problems of the world: each when it appears, and again while it stays. Only the leader's count.

        Call it at every batch and every few minutes.
        """
        if not leads:
            self._standing.clear()  # whoever leads next says them
            return
        now = self._clock()
        notices = dict.fromkeys(filter(None, map(_notice_of, found)))
        for notice in notices:
            said = self._standing.get(notice)
            if said is None or now >= said + settings.EVENT_REPEAT_S:
                self._standing[notice] = now
                self.say(notice)
        for notice in self._standing.keys() - notices.keys():
            del self._standing[notice]

    def rejected(self, type_name: str, error: str, causes: Mapping[str, Iterable[str]]) -> None:
        """Say on each object behind a rejected response what Envoy said; `causes` by resource name."""
        for about in blamed(causes, error):
            self.say(Notice(about, "Rejected", f"Envoy rejected {type_name}: {error}"))

    # --- the writer -----------------------------------------------------------------------------

    async def run(self) -> None:
        """Write what is queued, for ever."""
        while True:
            notice = await self._queue.get()
            saying = self._correlator.take(notice, self._clock())
            if saying is None:
                self.counters["events_counted"] += 1
                continue
            await self._write(saying)
            await asyncio.sleep(settings.EVENT_PAUSE_S)

    async def _write(self, saying: Saying) -> None:
        try:
            if saying.count == 1:
                await self._create(saying)
            else:
                await self._count(saying)
        except ApiError as error:
            self._correlator.forget(saying.notice)
            self.counters["events_failed"] += 1
            log.warning(
                "event not written", extra={"about": str(saying.notice.about[:3]), "why": error.message}
            )
            return
        self.counters["events_written"] += 1

    async def _create(self, saying: Saying) -> None:
        about = await self._complete(saying.notice.about)
        known = Notice(about, saying.notice.reason, saying.notice.note, saying.notice.is_warning)
        stamp = micro_time(self._wall())
        body = document(
            Saying(known, saying.event, 1), controller=CONTROLLER, instance=self._instance, stamp=stamp
        )
        path = f"/apis/events.k8s.io/v1/namespaces/{about.namespace or 'default'}/events"
        try:
            await self._api.call("POST", path, body=body, timeout_s=settings.EVENT_CALL_S)
        except ApiError as error:
            if error.status != _CONFLICT:  # our own, of an attempt whose answer was lost
                raise

    async def _count(self, saying: Saying) -> None:
        namespace = saying.notice.about.namespace or "default"
        path = f"/apis/events.k8s.io/v1/namespaces/{namespace}/events/{saying.event}"
        await self._api.call(
            "PATCH",
            path,
            body=series(saying, micro_time(self._wall())),
            content_type="application/merge-patch+json",
            timeout_s=settings.EVENT_CALL_S,
        )

    async def _complete(self, about: Reference) -> Reference:
        """Add the object's uid, without which `kubectl describe` does not show the Event; as it is if there is none.

        By a list of one name: that is a right which following the kind needs in any case.
        """
        version = about.api_version or _version_of(about.kind)
        if about.uid or not version:
            return about._replace(api_version=version)
        group = f"/apis/{version}" if "/" in version else f"/api/{version}"
        within = f"/namespaces/{about.namespace}" if about.namespace else ""
        try:
            answer = await self._api.call(
                "GET",
                f"{group}{within}/{plural(about.kind)}",
                query={"fieldSelector": f"metadata.name={about.name}"},
                accept=_PARTIAL,
                timeout_s=settings.EVENT_CALL_S,
            )
            found = msgspec.json.decode(answer, type=_Items).items
        except (ApiError, msgspec.MsgspecError):
            found = []
        return about._replace(api_version=version, uid=found[0].metadata.uid if found else "")


class _Metadata(msgspec.Struct, frozen=True):
    uid: str = ""


class _Item(msgspec.Struct, frozen=True):
    metadata: _Metadata


class _Items(msgspec.Struct, frozen=True):
    items: list[_Item] = []


def plural(kind: str) -> str:
    """The resource of a kind that we know, as Kubernetes and Istio name theirs."""
    word = kind.lower()
    return f"{word[:-1]}ies" if word.endswith("ry") else f"{word}s"


def _version_of(kind: str) -> str:
    if kind == "ConfigMap":
        return "v1"
    return next(iter(BUILT_IN.get(kind) or CUSTOM.get(kind) or ()), "")


def _notice_of(problem: Problem) -> Notice | None:
    reason, about = _REASONS.get(problem.severity), reference(problem.subject)
    if reason is None or about is None:
        return None
    return Notice(about, reason, f"{problem.path}: {problem.reason}" if problem.path else problem.reason)
