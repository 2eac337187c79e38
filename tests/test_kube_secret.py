"""Following one Secret: a watch that brings nothing new asks for nothing, one that fails is not asked in a loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest

from xds import settings
from xds.kube.secret import SecretFile
from xds.sources.transport import NO_QUERY, ApiError

SAME = b'{"type": "ADDED", "object": {"metadata": {"resourceVersion": "415"}}}'
OTHER = b'{"type": "MODIFIED", "object": {"metadata": {"resourceVersion": "416"}}}'
GONE = b'{"type": "DELETED", "object": {"metadata": {"resourceVersion": "415"}}}'
EXPIRED = b'{"type": "ERROR", "object": {"kind": "Status", "metadata": {}, "code": 410, "reason": "Expired"}}'


class Api:
    """An apiserver whose watches begin with these lines and then say nothing."""

    def __init__(self, *lines: bytes) -> None:
        self.lines_of_watch = lines
        self.watches: list[Mapping[str, str]] = []

    async def call(self, method: str, path: str, **_: object) -> bytes:
        """Refuse: following does not read."""
        raise ApiError(404, "NotFound", f"{method} {path}")

    @asynccontextmanager
    async def lines(
        self, path: str, *, query: Mapping[str, str] = NO_QUERY, read_timeout_s: float, accept: str = ""
    ) -> AsyncGenerator[AsyncIterator[bytes]]:
        """Open a watch."""
        _ = path, read_timeout_s, accept
        self.watches.append(query)
        yield self._said()

    async def _said(self) -> AsyncIterator[bytes]:
        for line in self.lines_of_watch:
            await asyncio.sleep(0)
            yield line
        await asyncio.Event().wait()


async def yields(api: Api) -> int:
    """Return how often a follower that is at version 415 is woken within half a pause of a failed watch."""
    count = 0
    try:
        async with asyncio.timeout(settings.CA_PAUSE_S / 2):
            async for _ in SecretFile(api, "proa-system", "proa-ca").changes(lambda: "415"):
                count += 1
    except TimeoutError:
        pass  # the end of looking
    return count


@pytest.mark.parametrize(
    ("line", "at_most"),
    [(SAME, 1), (EXPIRED, 1), (b"{", 1)],
    ids=["what we have", "a watch that failed", "no event"],
)
async def test_a_watch_without_news_wakes_nobody(line: bytes, at_most: int) -> None:
    """The first look is free; an apiserver that repeats itself must not be asked a hundred times a second."""
    api = Api(line)

    assert await yields(api) <= at_most
    assert len(api.watches) == 1


@pytest.mark.parametrize("line", [OTHER, GONE], ids=["changed", "deleted"])
async def test_news_wakes_at_once(line: bytes) -> None:
    """A change that came before the watch, and one that comes during it."""
    assert await yields(Api(SAME, line)) > 1


async def test_a_watch_names_no_version() -> None:
    """One that does is refused for ever when the apiserver has forgotten that version."""
    api = Api(SAME)
    await yields(api)

    assert "resourceVersion" not in api.watches[0]
