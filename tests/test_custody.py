"""The trust of all replicas in one Secret, at an apiserver that takes its time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from xds import settings
from xds.kube.custody import Custody
from xds.kube.secret import SecretFile
from xds.rotation import Phase, Root
from xds.sources.transport import NO_QUERY, ApiError


class Api:
    """An apiserver with one Secret; a patch is held up until ``goes_on`` is set."""

    def __init__(self) -> None:
        self.secret: dict[str, Any] | None = None
        self.version = 0
        self.has_begun = asyncio.Event()
        self.goes_on = asyncio.Event()

    async def call(self, method: str, path: str, *, body: Any = None, **_: object) -> bytes:
        """Read, make or patch the Secret."""
        if method == "PATCH":
            self.has_begun.set()
            await self.goes_on.wait()
            if body["metadata"]["resourceVersion"] != str(self.version):
                raise ApiError(409, "Conflict", path)
            body = {"data": (self.secret or {})["data"] | body["data"]}
        if body is not None:
            self.version += 1
            self.secret = {"metadata": {"resourceVersion": str(self.version)}, "data": body["data"]}
        if self.secret is None:
            raise ApiError(404, "NotFound", path)
        return json.dumps(self.secret).encode()

    @asynccontextmanager
    async def lines(
        self, path: str, *, query: Mapping[str, str] = NO_QUERY, read_timeout_s: float, accept: str = ""
    ) -> AsyncGenerator[AsyncIterator[bytes]]:
        """Open a watch that says nothing."""
        _ = path, query, read_timeout_s, accept
        yield _silence()


async def _silence() -> AsyncGenerator[bytes]:
    await asyncio.Event().wait()
    yield b""


async def test_step_that_is_ordered_during_a_write_is_not_lost() -> None:
    """Both roots may be ordered to rotate at once: the second waits for the first, and is no less done."""
    api = Api()
    secret = SecretFile(api, "proa-system", settings.CA_SECRET)
    custody = Custody(secret, leads=lambda: True, trust_domain="cluster.local")
    trust = await custody.open()
    running = asyncio.create_task(custody.run(lambda _: None), name="ca")
    trust.rotate(Root.WORKLOAD, 1.0)
    await asyncio.wait_for(api.has_begun.wait(), 20)
    trust.rotate(Root.CHANNEL, 1.0)
    api.goes_on.set()
    is_settled = await custody.settled()
    running.cancel()

    assert is_settled
    assert (trust.workload.slots.phase, trust.channel.slots.phase) == (Phase.PREPARED, Phase.PREPARED)
