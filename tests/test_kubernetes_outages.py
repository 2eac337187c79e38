"""A cluster whose API does not answer for a while: nothing is deleted, and all comes back."""

from __future__ import annotations

import asyncio

import pytest

from tests.fakes import objects
from tests.fakes.cluster import DEADLINE_S, FORBIDDEN, SERVICES, api, apply, following, keys, loaded
from xds import settings
from xds.sources.transport import NO_ANSWER, ApiError

REFUSED = ApiError(NO_ANSWER, "ClientConnectorError", "refused")


async def test_an_outage_deletes_nothing_and_costs_no_list() -> None:
    """After it, what was written meanwhile comes; the watches go on where they were."""
    found = api()
    apply(found, SERVICES, objects.service())
    async with loaded(found) as (followed, _):
        lists = {status.kind: status.lists for status in followed.source.statuses()}
        found.outage = REFUSED
        await followed.quiet()
        apply(found, SERVICES, objects.service("web"))
        found.outage = None
        batch = await followed.next()
        assert keys(batch) == {"Service shop/web": True}
        assert {status.kind: status.lists for status in followed.source.statuses()} == lists


async def test_after_a_compaction_each_kind_is_listed_once() -> None:
    """Deletions that nobody saw are told by the list's end."""
    found = api()
    apply(found, SERVICES, objects.service())
    apply(found, SERVICES, objects.service("web"))
    async with loaded(found) as (followed, _):
        found.outage = REFUSED
        await followed.quiet()
        found.collections[SERVICES].delete(("shop", "orders"))
        for collection in found.collections.values():
            collection.compact()
        found.outage = None
        assert keys(await followed.next()) == {"Service shop/orders": False}
        assert {status.lists for status in followed.source.statuses() if status.kind == "Service"} == {2}


async def test_a_start_during_an_outage_waits_and_succeeds() -> None:
    """The discovery asks again as soon as the API answers."""
    found = api()
    found.outage = REFUSED
    async with following(found) as followed:
        loading = asyncio.create_task(followed.load())
        await asyncio.sleep(0.1)  # what must not happen: a load without an answer
        assert not loading.done()
        found.outage = None
        assert (await loading).changes == ()


async def test_a_kind_that_a_starting_api_refuses_is_back_when_that_is_ready(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Until it has read its roles it refuses everybody, the question whether it is ready too."""
    monkeypatch.setattr(settings, "KUBE_PROBE_S", 0.01)
    monkeypatch.setattr(settings, "KUBE_PROBE_REFUSALS", 1_000)
    monkeypatch.setattr(settings, "KUBE_BACKOFF_MIN_S", 0.05)
    found = api()
    async with loaded(found) as (followed, _):

        def is_refused() -> bool:
            return any("403" in status.failure for status in followed.source.statuses())

        found.outage = REFUSED
        await followed.quiet()
        monkeypatch.setattr(
            settings, "KUBE_BACKOFF_JITTER", 10_000
        )  # whoever fails from now on waits minutes
        found.outage = FORBIDDEN
        async with asyncio.timeout(DEADLINE_S):
            while not is_refused():  # noqa: ASYNC110 -- nobody is told of a failure
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)  # so that the others have asked, too
        apply(found, SERVICES, objects.service("web"))
        found.outage = None
        assert keys(await followed.next()) == {"Service shop/web": True}


async def test_who_may_not_ask_whether_the_api_is_ready_is_not_cut_off_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A refusal that lasts is an answer."""
    monkeypatch.setattr(settings, "KUBE_PROBE_S", 0.01)
    monkeypatch.setattr(settings, "KUBE_BACKOFF_MIN_S", 60.0)
    found = api()
    found.refused["/readyz"] = FORBIDDEN
    async with loaded(found) as (followed, _):
        found.outage = REFUSED
        await followed.quiet()
        apply(found, SERVICES, objects.service("web"))
        found.outage = None
        assert keys(await followed.next()) == {"Service shop/web": True}
