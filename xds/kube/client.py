"""Requests to the Kubernetes API: one session, complete bodies, watches as lines, one kind of error.

Owns timeouts and bounds of what is read; it must never retry on its own (but once after a 401), and never log
or repeat a header.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from pathlib import Path
from typing import Self, cast
from urllib.parse import quote, urlencode

import aiohttp
import msgspec

from xds import settings
from xds.kube.credentials import Credentials
from xds.sources.transport import NO_ANSWER, NO_QUERY, TOO_LARGE, ApiError

__all__ = ["ApiError", "Client"]

_UNAUTHORIZED = 401
_ERRORS_FROM = 400


class _Details(msgspec.Struct):
    retryAfterSeconds: float | None = None  # noqa: N815 -- Kubernetes' name


class _Status(msgspec.Struct):
    """The part of a ``v1.Status`` that explains a failure."""

    reason: str = ""
    message: str = ""
    details: _Details | None = None


class Client:
    """One session with the API; close it, or use it as an async context manager."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self.namespace = credentials.namespace
        """In a cluster the Pod's own; else the context's, or ``default``."""

    @classmethod
    async def connect(cls, kubeconfig: Path | None = None, context: str | None = None) -> Client:
        """Return a client for the file or context asked for, else the user's kubeconfig, else the Pod's own.

        Nothing is sent yet. Raises ApiError without a status where the configuration cannot be used.
        """
        return cls(await Credentials.load(kubeconfig, context))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection, and give TLS its moment to end them before the loop may end."""
        await self._credentials.api.close()
        await asyncio.sleep(settings.KUBE_CLOSE_S)

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
        """Return the body of one answer, complete within ``timeout_s`` and at most ``KUBE_BODY_MAX_BYTES`` long.

        ``path`` is absolute (``/api/v1/…``); ``body`` becomes JSON. Raises ApiError for every other answer,
        and for none.
        """
        headers = {"Content-Type": content_type, "Accept": accept}
        try:
            async with asyncio.timeout(timeout_s):
                response = await self._open(method, _url(path, query), headers, body)
                try:
                    return await _body(response.content, settings.KUBE_BODY_MAX_BYTES)
                finally:
                    response.close() if not response.content.at_eof() else response.release()
        except TimeoutError:
            raise ApiError(NO_ANSWER, "Timeout", f"no complete answer in {timeout_s:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise _unanswered(error) from None

    def lines(
        self,
        path: str,
        *,
        query: Mapping[str, str],
        read_timeout_s: float,
        accept: str = "application/json",
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Open a watch: an iterator over complete lines, which ends when the server ends the answer.

        A line may be ``KUBE_LINE_MAX_BYTES`` long; what is cut off before its end is no line and is dropped.
        Raises ApiError, when it is entered or between lines, for an answer that is no success, a broken
        connection, a longer line, and when nothing at all arrives for ``read_timeout_s``.
        """
        return self._lines(_url(path, query), {"Accept": accept}, read_timeout_s)

    @asynccontextmanager
    async def websocket(
        self, path: str, *, query: Mapping[str, str], protocol: str
    ) -> AsyncGenerator[aiohttp.ClientWebSocketResponse]:
        """Open messages to what the apiserver reaches for us (a port-forward); raise ApiError where it does not."""
        if self._credentials.api.rest_client.pool_manager is None:
            await self.call("GET", "/version")  # the library makes its session with the first request
        session = cast("aiohttp.ClientSession", self._credentials.api.rest_client.pool_manager)
        headers = {"User-Agent": "proa"}
        await self._credentials.authorize(headers)
        url = self._credentials.host + _url(path, query)
        try:
            async with session.ws_connect(url, protocols=(protocol,), headers=headers) as messages:
                yield messages
        except aiohttp.WSServerHandshakeError as error:
            raise ApiError(error.status, "Refused", f"{path} was not opened") from None
        except (aiohttp.ClientError, OSError) as error:
            raise _unanswered(error) from None

    @asynccontextmanager
    async def _lines(
        self, url: str, headers: dict[str, str], read_timeout_s: float
    ) -> AsyncGenerator[AsyncIterator[bytes]]:
        try:
            async with asyncio.timeout(settings.KUBE_ANSWER_TIMEOUT_S):
                response = await self._open("GET", url, headers, None)
        except TimeoutError:
            waited = settings.KUBE_ANSWER_TIMEOUT_S
            raise ApiError(NO_ANSWER, "Timeout", f"no answer in {waited:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise _unanswered(error) from None
        try:
            async with (
                aclosing(_chunks(response.content, read_timeout_s)) as chunks,
                aclosing(split(chunks)) as found,
            ):
                yield found
        finally:
            response.release() if response.content.at_eof() else response.close()

    async def _open(
        self, method: str, url: str, headers: dict[str, str], body: object
    ) -> aiohttp.ClientResponse:
        """Return a successful answer, its body still to come; credentials that were refused are renewed once."""
        response = await self._send(method, url, headers, body)
        if response.status == _UNAUTHORIZED and self._credentials.expire():
            response.close()
            response = await self._send(method, url, headers, body)
        if response.status < _ERRORS_FROM:
            return response
        try:
            raise _refusal(response, await _body(response.content, settings.KUBE_ERROR_MAX_BYTES))
        finally:
            response.close()

    async def _send(
        self, method: str, url: str, headers: dict[str, str], body: object
    ) -> aiohttp.ClientResponse:
        # identity: compression saves nothing inside a cluster, and what is read is bounded as it is sent
        sent = {**headers, "Accept-Encoding": "identity", "User-Agent": "proa"}
        await self._credentials.authorize(sent)
        answer = await self._credentials.api.rest_client.request(
            method,
            self._credentials.host + url,
            headers=sent,
            body=body,
            _request_timeout=aiohttp.ClientTimeout(total=None, connect=settings.KUBE_ANSWER_TIMEOUT_S),
        )
        return cast("aiohttp.ClientResponse", getattr(answer, "response"))  # noqa: B009 -- untyped


async def split(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    """Yield the complete, non-empty lines of a stream, without their ends; raise ApiError for one that is too long."""
    parts: list[bytes] = []
    size = 0
    async for chunk in chunks:
        first, *others = chunk.split(b"\n")
        parts.append(first)
        size += len(first)
        if size > settings.KUBE_LINE_MAX_BYTES:
            raise _too_large(settings.KUBE_LINE_MAX_BYTES)
        if not others:
            continue
        line = b"".join(parts)
        if line:
            yield line
        *complete, last = others
        for line in filter(None, complete):
            yield line
        parts, size = [last], len(last)


async def _chunks(content: aiohttp.StreamReader, read_timeout_s: float) -> AsyncGenerator[bytes]:
    try:
        while True:
            async with asyncio.timeout(read_timeout_s):
                chunk = await content.readany()
            if not chunk:
                return
            yield chunk
    except TimeoutError:
        raise ApiError(NO_ANSWER, "Timeout", f"nothing arrived for {read_timeout_s:g} s") from None
    except (aiohttp.ClientError, OSError) as error:
        raise _unanswered(error) from None


async def _body(content: aiohttp.StreamReader, limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while chunk := await content.readany():
        parts.append(chunk)
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
    return b"".join(parts)


def _url(path: str, query: Mapping[str, str]) -> str:
    text = quote(path, safe="/:@!$&'()*+,;=~-._")
    return f"{text}?{urlencode(query)}" if query else text


def _refusal(response: aiohttp.ClientResponse, body: bytes) -> ApiError:
    """Return the failure that an answer tells, in Kubernetes' own words where they are there."""
    try:
        status = msgspec.json.decode(body, type=_Status)
    except (msgspec.DecodeError, UnicodeDecodeError):
        status = _Status(message=" ".join(body.decode("utf-8", "replace").split()))
    wait = response.headers.get("Retry-After", "")
    retry_after_s = float(wait) if wait.isascii() and wait.isdigit() else None
    if retry_after_s is None and status.details is not None:
        retry_after_s = status.details.retryAfterSeconds
    return ApiError(
        response.status,
        status.reason or response.reason or "",
        status.message[: settings.KUBE_MESSAGE_MAX_CHARS],
        retry_after_s,
    )


def _unanswered(error: Exception) -> ApiError:
    said = " ".join(str(error).split())[: settings.KUBE_MESSAGE_MAX_CHARS]
    return ApiError(NO_ANSWER, type(error).__name__, said or "the connection broke")


def _too_large(limit: int) -> ApiError:
    return ApiError(NO_ANSWER, TOO_LARGE, f"more than {limit >> 20} MiB")
