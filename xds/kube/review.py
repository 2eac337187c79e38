"""Who calls, by its ServiceAccount token: TokenReview, our own verification while the apiserver is away, the Pod.

Owns the deduplication, the bounds and the fall-back of reviews; it must never admit a caller on its own word,
log a token, or keep one longer than its review takes: what it keeps is a hash and an answer.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from xds import settings
from xds.identity import Identity, PodLookup, Refusal, Refused, bearer
from xds.refusals import Refusals
from xds.reviews import Bound, Keys, UnknownKey, admit, check_form, read_review, review_of
from xds.sources.transport import ApiError, Transport

log = logging.getLogger(__name__)

_REVIEWS: Final = "/apis/authentication.k8s.io/v1/tokenreviews"
_CONFIGURATION: Final = "/.well-known/openid-configuration"
_KEYS: Final = "/openid/v1/jwks"
_JWKS: Final = "application/jwk-set+json"
"""The one form in which the apiserver gives its keys: it answers 406 to a request for plain JSON."""
_TOO_MANY: Final = 429
_SERVER_ERRORS: Final = 500
_NEW_KEY_PAUSE_S: Final = 10.0
"""Shortest time between two fetches of the keys because of a key that was not among them."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """What came of a review: a binding, or why not. It keeps no exception: a traceback would hold the token."""

    outcome: Bound | tuple[Refusal, str]
    until: float
    """Monotonic seconds."""

    def give(self) -> Bound:
        if isinstance(self.outcome, Bound):
            return self.outcome
        raise Refused(*self.outcome)


class Reviewer:
    """Turns tokens into what they prove, at a bounded cost to us and to the apiserver."""

    def __init__(
        self,
        api: Transport,
        *,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`now` is the wall clock, for a token's expiry; `clock` a monotonic one, for our own pauses."""
        self._api = api
        self._now = now
        self._clock = clock
        self._keys: Keys | None = None
        self._keys_wanted = asyncio.Event()
        self._away_until = 0.0
        self._kept: OrderedDict[bytes, _Answer] = OrderedDict()
        self._pending: dict[bytes, asyncio.Task[_Answer]] = {}
        self._known = asyncio.Semaphore(settings.REVIEW_CONCURRENCY)
        self._strangers = asyncio.Semaphore(settings.REVIEW_STRANGERS)
        self._strangers_waiting = 0
        self._refusals = Refusals()
        self.keep = settings.REVIEW_KEPT
        """Answers kept at most."""
        self.counters: Counter[str] = Counter()
        """Reviews sent, answers given again, fall-backs, refusals without asking: what `/metrics` shows."""

    @property
    def kept(self) -> int:
        """How many answers are kept."""
        return len(self._kept)

    # --- the apiserver's keys ---------------------------------------------------------------

    async def load(self) -> bool:
        """Fetch the keys that sign ServiceAccount tokens; False, and the old ones stay, if that fails."""
        timeout_s = settings.REVIEW_TIMEOUT_S
        try:
            configuration = await self._api.call("GET", _CONFIGURATION, timeout_s=timeout_s)
            jwks = await self._api.call("GET", _KEYS, accept=_JWKS, timeout_s=timeout_s)
            self._keys = Keys.read(configuration, jwks)
        except (ApiError, ValueError) as error:
            self.counters["keys_not_fetched"] += 1
            log.warning("token keys not fetched", extra={"why": str(error)})
            return False
        return True

    async def run(self) -> None:
        """Keep the keys fresh, for ever: now and then, and when the apiserver accepts a key that we lack."""
        while True:
            try:
                async with asyncio.timeout(settings.ACCOUNT_KEYS_REFRESH_S):
                    await self._keys_wanted.wait()
            except TimeoutError:
                pass  # the usual case: they are due
            self._keys_wanted.clear()
            await self.load()
            await asyncio.sleep(_NEW_KEY_PAUSE_S)

    # --- reviews ----------------------------------------------------------------------------

    async def bound(self, token: str) -> Bound:
        """What a token proves; raises Refused. Equal tokens at one time are one question."""
        try:
            check_form(token)
        except Refused:
            self.counters["malformed"] += 1
            raise
        digest = hashlib.sha256(token.encode()).digest()
        kept = self._kept.get(digest)
        if kept is not None and self._clock() < kept.until:
            self.counters["reused"] += 1
            return kept.give()
        task = self._pending.get(digest)
        if task is None:
            if len(self._pending) >= settings.REVIEW_KEPT:
                raise Refused(Refusal.BUSY)
            task = asyncio.create_task(self._settle(digest, token), name="token-review")
            self._pending[digest] = task
        # A caller that goes away takes no answer away from the others that wait for it.
        return (await asyncio.shield(task)).give()

    async def _settle(self, digest: bytes, token: str) -> _Answer:
        try:
            bound = await self._judge(token)
        except Refused as refused:
            answer = _Answer((refused.reason, refused.detail), self._clock() + settings.REVIEW_REFUSED_S)
            keep = refused.reason not in {Refusal.BUSY, Refusal.REVIEW}
        else:
            life_s = min(settings.REVIEW_KEPT_S, bound.expires_at - self._now())
            answer, keep = _Answer(bound, self._clock() + life_s), True
        finally:
            del self._pending[digest]
        if keep:
            self._kept[digest] = answer
            self._kept.move_to_end(digest)
            while len(self._kept) > self.keep:
                self._kept.popitem(last=False)
        return answer

    async def _judge(self, token: str) -> Bound:
        """Ask the apiserver about a token that may be genuine; what is surely not costs it nothing."""
        if self._keys is None:
            async with self._known:
                return await self._ask(token, None)
        try:
            verified = self._keys.verify(token, self._now())
        except UnknownKey:
            return await self._ask_for_stranger(token)
        except Refused:
            self.counters["refused_here"] += 1
            raise
        async with self._known:
            reviewed = await self._ask(token, verified)
        if reviewed != verified:
            raise Refused(Refusal.SUBJECT, "the TokenReview and the token's claims differ")
        return reviewed

    async def _ask_for_stranger(self, token: str) -> Bound:
        if self._strangers_waiting >= settings.REVIEW_STRANGERS_WAITING:
            self.counters["strangers_turned_away"] += 1
            raise Refused(Refusal.BUSY)
        self._strangers_waiting += 1
        try:
            async with self._strangers:
                bound = await self._ask(token, None)
        finally:
            self._strangers_waiting -= 1
        self._keys_wanted.set()  # the apiserver knows a key that we do not
        return bound

    async def _ask(self, token: str, verified: Bound | None) -> Bound:
        """One TokenReview; while the apiserver is away, what our own verification has found."""
        if self._clock() < self._away_until:
            return self._fall_back(verified)
        self.counters["reviews"] += 1
        try:
            answer = await self._api.call(
                "POST", _REVIEWS, body=review_of(token), timeout_s=settings.REVIEW_TIMEOUT_S
            )
        except ApiError as error:
            if not (error.status in {0, _TOO_MANY} or error.status >= _SERVER_ERRORS):
                unsaid = self._refusals.take(error.status, self._clock())
                if unsaid is not None:
                    said = {"status": error.status, "why": error.message, "unsaid": unsaid}
                    log.error("token review refused", extra=said)  # noqa: TRY400  # no stack: it is an answer
                raise Refused(Refusal.REVIEW, f"the apiserver answered {error.status}") from None
            self._away_until = self._clock() + (error.retry_after_s or settings.REVIEW_RETRY_S)
            log.warning("token review unanswered", extra={"status": error.status, "why": error.message})
            return self._fall_back(verified)
        return read_review(answer, token)

    def _fall_back(self, verified: Bound | None) -> Bound:
        if verified is None:
            raise Refused(Refusal.REVIEW, "the apiserver is away, and its keys do not know the token")
        self.counters["fall_backs"] += 1
        return verified


class Admission:
    """Decides about calls: the token, then our own view of its Pod, for which it waits a moment."""

    def __init__(
        self,
        reviewer: Reviewer,
        pods: PodLookup,
        trust_domain: Callable[[], str],
        *,
        now: Callable[[], float] = time.time,
        wait_s: float = settings.POD_WAIT_S,
    ) -> None:
        self._reviewer = reviewer
        self._pods = pods
        self._trust_domain = trust_domain
        self._now = now
        self._wait_s = wait_s
        self._waiting = 0

    async def admit(self, authorization: str, node_id: str | None) -> Identity:
        """Return who calls; raises Refused. `node_id` is None for calls, or moments, that have none."""
        bound = await self._reviewer.bound(bearer(authorization))
        if node_id in {None, bound.node_id}:
            await self._wait_for(bound)
        return admit(
            bound, node_id=node_id, now=self._now(), pods=self._pods, trust_domain=self._trust_domain()
        )

    async def _wait_for(self, bound: Bound) -> None:
        """Wait, a bounded time, for a Pod that the apiserver knows and our watch has not shown yet."""
        if self._has(bound):
            return
        if self._waiting >= settings.POD_WAITING:
            raise Refused(Refusal.BUSY, "too many callers wait for their Pods")
        self._waiting += 1
        try:
            async with asyncio.timeout(self._wait_s):
                while not self._has(bound):  # noqa: ASYNC110  # the cache tells nobody of one Pod
                    await asyncio.sleep(settings.POD_WAIT_STEP_S)
        except TimeoutError:
            return  # the decision says what is missing
        finally:
            self._waiting -= 1

    def _has(self, bound: Bound) -> bool:
        facts = self._pods(bound.namespace, bound.pod)
        return facts is not None and facts.uid == bound.uid
