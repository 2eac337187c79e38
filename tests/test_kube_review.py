"""Reviews at the apiserver: deduplicated, bounded, and what serves while it is away.

Owns the facts about xds.kube.review; it must never open a socket.
"""

from __future__ import annotations

import asyncio
import json
import logging
import tracemalloc
from typing import Any

import pytest

from tests.fakes.accounts import (
    BOUND,
    CONFIGURATION,
    EC,
    FACTS,
    NOW,
    RSA,
    UID,
    claims,
    jwks,
    signed,
)
from tests.fakes.answers import Answers, Asked
from xds import settings
from xds.identity import PodFacts, Refusal, Refused
from xds.kube.review import Admission, Reviewer
from xds.reviews import POD_NAME, POD_UID
from xds.sources.transport import ApiError

AWAY = ApiError(0, "Refused", "connection refused")


def yes(pod: str = "web-1", uid: str = UID) -> bytes:
    """An answer that accepts the token of a Pod."""
    user = {"username": "system:serviceaccount:shop:web", "extra": {POD_NAME: [pod], POD_UID: [uid]}}
    status = {"authenticated": True, "audiences": [settings.JOIN_TOKEN_AUDIENCE], "user": user}
    return json.dumps({"status": status}).encode()


class Cluster:
    """An apiserver with its keys, and a clock that a test moves."""

    def __init__(self, review: bytes | ApiError | None = None) -> None:
        self.review: bytes | ApiError = yes() if review is None else review
        self.jwks: bytes | ApiError = jwks()
        self.api = Answers(self._answer)
        self.seconds = 0.0
        self.reviewer = Reviewer(self.api, now=lambda: NOW + self.seconds, clock=lambda: self.seconds)

    def _answer(self, asked: Asked) -> bytes | ApiError:
        match asked.path:
            case "/.well-known/openid-configuration":
                return CONFIGURATION
            case "/openid/v1/jwks":
                return self.jwks
            case _:
                return self.review

    @property
    def reviews(self) -> int:
        """How many TokenReviews were sent."""
        return sum(asked.path.endswith("/tokenreviews") for asked in self.api.asked)

    async def refusal(self, token: str) -> Refusal:
        """Why a token was refused."""
        with pytest.raises(Refused) as caught:
            await self.reviewer.bound(token)
        return caught.value.reason


async def loaded(review: bytes | ApiError | None = None) -> Cluster:
    """A cluster whose keys we have."""
    cluster = Cluster(review)
    assert await cluster.reviewer.load()
    return cluster


async def test_equal_tokens_at_one_time_are_one_review() -> None:
    """A proxy opens two streams, and comes back after a restart of ours."""
    cluster = await loaded()
    cluster.api.open.clear()
    token = signed()
    tasks = [asyncio.create_task(cluster.reviewer.bound(token)) for _ in range(50)]
    await asyncio.sleep(0)
    cluster.api.open.set()

    assert await asyncio.gather(*tasks) == [BOUND] * 50
    assert cluster.reviews == 1


async def test_a_caller_that_goes_away_takes_nobodys_answer() -> None:
    """The review belongs to all who wait for it."""
    cluster = await loaded()
    cluster.api.open.clear()
    token = signed()
    first, second = (asyncio.create_task(cluster.reviewer.bound(token)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    cluster.api.open.set()

    assert await second == BOUND


async def test_a_yes_serves_again_for_five_minutes() -> None:
    """A proxy's metrics come every few seconds, each with its token; the Pod is looked at every time."""
    cluster = await loaded()
    token = signed()
    for seconds in (0.0, settings.REVIEW_KEPT_S - 0.1, settings.REVIEW_KEPT_S + 0.1):
        cluster.seconds = seconds
        await cluster.reviewer.bound(token)

    assert cluster.reviews == 2


async def test_a_no_serves_again_for_ten_seconds() -> None:
    """Then the apiserver is asked anew: what was wrong may be mended."""
    cluster = await loaded(b'{"status":{}}')
    token = signed()
    for seconds in (0.0, settings.REVIEW_REFUSED_S - 0.1, settings.REVIEW_REFUSED_S + 0.1):
        cluster.seconds = seconds
        assert await cluster.refusal(token) is Refusal.UNVERIFIED

    assert cluster.reviews == 2


async def test_an_answer_does_not_outlive_its_token() -> None:
    """Three seconds of life are three seconds of answer."""
    cluster = await loaded()
    token = signed(claims(exp=int(NOW) + 3))
    await cluster.reviewer.bound(token)
    cluster.seconds = 4.0

    assert await cluster.refusal(token) is Refusal.EXPIRED


@pytest.mark.parametrize(
    "error", [AWAY, ApiError(503, "Unavailable", ""), ApiError(500, "", ""), ApiError(429, "", "", 1.0)]
)
async def test_while_the_apiserver_is_away_its_keys_decide(error: ApiError) -> None:
    """A proxy that reconnects during an outage is let in on its signature."""
    cluster = await loaded(error)

    assert await cluster.reviewer.bound(signed()) == BOUND
    assert await cluster.refusal(signed(claims(aud=["x"]))) is Refusal.AUDIENCE
    assert await cluster.refusal(signed(claims(exp=1))) is Refusal.EXPIRED


async def test_an_outage_costs_one_timeout_not_one_for_each_proxy() -> None:
    """After an unanswered review the next ones do not wait for the apiserver."""
    cluster = await loaded(AWAY)
    for number in range(100):
        await cluster.reviewer.bound(signed(claims(jti=str(number))))
    during = cluster.reviews
    cluster.seconds = settings.REVIEW_RETRY_S + 0.1
    cluster.review = yes()
    await cluster.reviewer.bound(signed(claims(jti="after")))

    assert (during, cluster.reviews) == (1, 2)


async def test_without_keys_an_outage_lets_nobody_in() -> None:
    """Every fall-back denies."""
    cluster = Cluster(AWAY)

    assert await cluster.refusal(signed()) is Refusal.REVIEW


async def test_an_unknown_key_during_an_outage_lets_nobody_in() -> None:
    """Nobody can say whose it is."""
    cluster = await loaded(AWAY)

    assert await cluster.refusal(signed(kid="new")) is Refusal.REVIEW


async def test_a_refusal_by_the_apiserver_is_no_outage() -> None:
    """403 means that we may not ask: our own word is not better then."""
    cluster = await loaded(ApiError(403, "Forbidden", "no rights"))

    assert await cluster.refusal(signed()) is Refusal.REVIEW


async def test_a_review_that_contradicts_the_token_is_refused() -> None:
    """The apiserver speaks of another Pod than the claims that it has signed."""
    cluster = await loaded(yes(pod="web-2"))

    assert await cluster.refusal(signed()) is Refusal.SUBJECT


async def test_a_new_key_of_the_apiservers_is_fetched() -> None:
    """The first token under it is reviewed; the next one can be verified here."""
    cluster = Cluster()
    cluster.jwks = json.dumps({"keys": json.loads(jwks())["keys"][:1]}).encode()
    await cluster.reviewer.load()
    cluster.jwks = jwks()
    running = asyncio.create_task(cluster.reviewer.run())
    await cluster.reviewer.bound(signed(None, EC, "e", "ES256"))
    async with asyncio.timeout(5):
        while sum(asked.path.endswith("jwks") for asked in cluster.api.asked) < 2:  # noqa: ASYNC110  # a fake's
            await asyncio.sleep(0)
    running.cancel()
    cluster.review = AWAY

    assert await cluster.reviewer.bound(signed(claims(jti="b"), EC, "e", "ES256")) == BOUND


async def test_keys_that_cannot_be_fetched_leave_the_old_ones() -> None:
    """An outage of the discovery endpoint is no loss of what we know."""
    cluster = await loaded(AWAY)
    cluster.jwks = ApiError(503, "", "")

    assert not await cluster.reviewer.load()
    assert await cluster.reviewer.bound(signed()) == BOUND


async def test_strangers_cannot_keep_the_apiserver_busy() -> None:
    """Tokens under an unknown key: two at a time, 64 in all, the others refused at once; a real one passes."""
    cluster = await loaded(b'{"status":{}}')
    cluster.api.open.clear()
    strangers = [
        asyncio.create_task(cluster.refusal(signed(claims(jti=str(number)), kid="new")))
        for number in range(500)
    ]
    for _ in range(5):
        await asyncio.sleep(0)
    waiting = cluster.api.under_way
    turned_away = cluster.reviewer.counters["strangers_turned_away"]
    real = asyncio.create_task(cluster.reviewer.bound(signed()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    under_way = cluster.api.under_way
    cluster.review = yes()
    cluster.api.open.set()

    assert await real == BOUND
    assert (waiting, under_way) == (settings.REVIEW_STRANGERS, settings.REVIEW_STRANGERS + 1)
    assert turned_away == 500 - settings.REVIEW_STRANGERS_WAITING
    await asyncio.gather(*strangers, return_exceptions=True)


async def test_forged_tokens_never_reach_the_apiserver() -> None:
    """A known key's name under a wrong signature, no signature, `null`, a megabyte: judged here."""
    cluster = await loaded()
    genuine = signed()
    for token in (
        genuine[:-8] + "AAAAAAAA",
        genuine.rpartition(".")[0] + ".",
        "null",
        ".bnVsbA.",
        "x" * 1_000_000,
    ):
        assert await cluster.refusal(token) is Refusal.UNVERIFIED

    assert cluster.reviews == 0


async def test_a_storm_of_tokens_is_reviewed_a_few_at_a_time() -> None:
    """500 proxies come back at once: all are let in, 16 reviews under way."""
    cluster = await loaded()
    tokens = [signed(claims(jti=str(number)), EC, "e", "ES256") for number in range(500)]
    cluster.api.open.clear()
    storm = asyncio.gather(*map(cluster.reviewer.bound, tokens))
    for _ in range(5):
        await asyncio.sleep(0)
    cluster.api.open.set()

    assert await storm == [BOUND] * 500
    assert cluster.api.most_under_way == settings.REVIEW_CONCURRENCY


async def test_bad_tokens_leave_little_behind() -> None:
    """2,000 different ones: what is kept is bounded, and none of it is a token."""
    cluster = await loaded()
    cluster.reviewer.keep = 200
    canary = "Y2FuYXJ5" * 300
    tracemalloc.start()
    try:
        for number in range(2_000):
            with pytest.raises(Refused):
                await cluster.reviewer.bound(f"eyJhbGciOiJSUzI1NiIsImtpZCI6InIifQ.{canary}.{number}")
        size_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert cluster.reviewer.kept == 200
    assert size_bytes < 1 << 20


async def test_no_token_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Neither a good one nor a bad one, in whatever way the review ends."""
    caplog.set_level(logging.DEBUG)
    tokens = [signed(), signed(kid="new"), signed(None, RSA, "e")]
    for review in (yes(), AWAY, ApiError(403, "Forbidden", "no"), b"null"):
        cluster = await loaded(review)
        for token in tokens:
            try:
                await cluster.reviewer.bound(token)
            except Refused as refused:
                assert token[-40:] not in f"{refused} {refused.why}"  # noqa: PT017

    said = " ".join(f"{record.getMessage()} {vars(record)}" for record in caplog.records)
    assert caplog.records
    assert not any(token[-40:] in said for token in tokens)


# --- the Pod ----------------------------------------------------------------------------------


async def admitted(pods: dict[tuple[str, str], PodFacts], **changes: Any) -> Any:
    """Admit the caller of a good token against these Pods."""
    cluster = await loaded()
    admission = Admission(
        cluster.reviewer,
        lambda namespace, pod: pods.get((namespace, pod)),
        lambda: "cluster.local",
        now=lambda: NOW,
        **changes,
    )
    return await admission.admit(f"Bearer {signed()}", "web-1.shop")


async def test_a_pod_that_the_watch_shows_late_is_waited_for() -> None:
    """The kubelet starts a sidecar before our watch has said so: a moment's patience saves it a backoff."""
    pods: dict[tuple[str, str], PodFacts] = {}
    task = asyncio.create_task(admitted(pods))
    for _ in range(5):
        await asyncio.sleep(0)
    pods["shop", "web-1"] = FACTS

    assert (await task).node_id == "web-1.shop"


@pytest.mark.parametrize("facts", [None, PodFacts("web", "web", "old-uid")])
async def test_the_wait_for_a_pod_is_bounded(facts: PodFacts | None) -> None:
    """Also where a predecessor of the same name is still what we see."""
    pods = {} if facts is None else {("shop", "web-1"): facts}

    with pytest.raises(Refused) as caught:
        await admitted(pods, wait_s=0.05)

    assert caught.value.reason is Refusal.POD


async def test_no_token_is_no_caller() -> None:
    """Every form that is not `Bearer TOKEN` ends before anything is asked."""
    cluster = await loaded()
    admission = Admission(cluster.reviewer, lambda _namespace, _pod: FACTS, lambda: "cluster.local")

    for header in ("", "Bearer", "Bearer ", "Basic eA==", signed()):
        with pytest.raises(Refused):
            await admission.admit(header, None)
    assert cluster.reviews == 0
