"""One kind followed over a transport that answers late: what a moment decides."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest

from tests.fakes.apiserver import Api
from xds import settings
from xds.sources.informer import Informer
from xds.sources.mirror import Kind
from xds.sources.reflector import Delta
from xds.sources.transport import NO_ANSWER, ApiError

PODS = Kind("Pod", "v1", "/api/v1/pods")


class Hanging(Api):
    """An API that refuses the first list, lets the second one hang, and answers the third."""

    def __init__(self) -> None:
        super().__init__()
        self.add(PODS.path, "Pod", "v1")
        self.synced = asyncio.Event()
        self.informer = Informer(self, PODS, self.take)

    def take(self, _informer: Informer, _deltas: Iterable[Delta], _arrived_at: float) -> None:
        """Note that the list is complete."""
        self.synced.set()

    async def call(self, method: str, path: str, **more: object) -> bytes:
        """Answer a list; whoever is cancelled while it hangs hears at that moment that the API is back."""
        del more
        self.calls.append(f"{method} {path}")
        match len(self.calls):
            case 1:
                raise ApiError(NO_ANSWER, "ClientConnectorError", "refused")
            case 2:
                try:
                    await asyncio.Event().wait()
                finally:
                    self.informer.reachable()
            case _:
                pass
        return self.collections[path].page({"limit": "500"})


async def test_api_that_returns_while_a_request_expires_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadline has stopped the request already: there is nothing to stop, and it is asked again."""
    monkeypatch.setattr(settings, "KUBE_BACKOFF_MIN_S", 0.001)
    monkeypatch.setattr(settings, "KUBE_LIST_TIMEOUT_S", 0.01)
    api = Hanging()
    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        running = tasks.create_task(api.informer.run(), name="informer")
        await api.synced.wait()
        running.cancel()

    assert len(api.calls) == 3
