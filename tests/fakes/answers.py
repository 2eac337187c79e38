"""An apiserver that answers as a test says, at once or when the test lets it.

Owns what was asked, in order; it must never open a socket.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import NamedTuple

from xds.sources.transport import NO_QUERY, ApiError


class Asked(NamedTuple):
    """One request."""

    method: str
    path: str
    body: object


class Answers:
    """A Transport without a network."""

    def __init__(self, answer: Callable[[Asked], bytes | ApiError]) -> None:
        self._answer = answer
        self.asked: list[Asked] = []
        self.open = asyncio.Event()
        """Clear it to keep every answer back."""
        self.open.set()
        self.under_way = 0
        self.most_under_way = 0

    async def call(  # noqa: PLR0913  # Transport's
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] = NO_QUERY,  # noqa: ARG002
        body: object = None,
        content_type: str = "application/json",  # noqa: ARG002
        accept: str = "application/json",  # noqa: ARG002
        timeout_s: float = 10.0,
    ) -> bytes:
        """Answer one request when the gate is open."""
        asked = Asked(method, path, body)
        self.asked.append(asked)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            async with asyncio.timeout(timeout_s):
                await self.open.wait()
        except TimeoutError:
            raise ApiError(0, "Timeout", "no answer") from None
        finally:
            self.under_way -= 1
        answer = self._answer(asked)
        if isinstance(answer, ApiError):
            raise answer
        return answer

    @asynccontextmanager
    async def lines(
        self,
        path: str,
        *,
        query: Mapping[str, str],  # noqa: ARG002
        read_timeout_s: float,  # noqa: ARG002
        accept: str = "application/json",  # noqa: ARG002
    ) -> AsyncGenerator[AsyncIterator[bytes]]:
        """Refuse every watch, so that what follows by watching shows that it also polls."""
        raise ApiError(0, "Refused", f"no watch of {path}")
        yield
