"""What a source asks of the Kubernetes API, as an interface: one call, one stream of lines, one kind of error.

It lets the source stand below the client that it is given; it must never know how a request travels.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from types import MappingProxyType
from typing import Final, Protocol

NO_ANSWER: Final = 0
"""``ApiError.status`` where no HTTP answer came: refused, cut, timed out, or too large to take."""

TOO_LARGE: Final = "TooLarge"
"""``ApiError.reason`` of an answer that exceeds a bound of ours."""

NO_QUERY: Final[Mapping[str, str]] = MappingProxyType({})


class ApiError(Exception):
    """A request that failed; no field ever holds a credential.

    ``reason`` is Kubernetes' own word (``Expired``, ``Forbidden``, ``TooManyRequests``), or ours where there
    was no answer; ``retry_after_s`` is what the server asked to wait, None where it did not.
    """

    def __init__(self, status: int, reason: str, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(f"{status or 'no answer'} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after_s = retry_after_s


class Transport(Protocol):
    """The part of ``kube.client.Client`` that a source uses."""

    async def call(  # noqa: PLR0913 -- a request has these parts; all but two are named
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] = NO_QUERY,
        body: object = None,
        content_type: str = "application/json",
        accept: str = "application/json",
        timeout_s: float = 10.0,
    ) -> bytes:
        """Return the body of one answer; raise ApiError for everything that is no success."""
        ...

    def lines(
        self,
        path: str,
        *,
        query: Mapping[str, str],
        read_timeout_s: float,
        accept: str = "application/json",
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Open a watch: complete lines until the server ends it; raise ApiError for everything else."""
        ...
