"""One HTTP exchange with a port of a Pod's loopback, through the apiserver: a port-forward with the user's rights.

Owns the frames (channel byte, port number first) and the bound on an answer; it must never keep a connection.
Protocol: kubelet's port-forward over WebSocket, `v4.channel.k8s.io` (k8s.io/kubelet/pkg/cri/streaming/portforward).
"""

from __future__ import annotations

import asyncio
import http.client
import io
import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, cast

import aiohttp

from xds import settings
from xds.kube.client import Client
from xds.sources.transport import NO_ANSWER, TOO_LARGE, ApiError

PROTOCOL: Final = "v4.channel.k8s.io"
_DATA, _ERROR = 0, 1
"""Channels of the first port; the first frame of each holds the port's number."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the Pod's server said."""

    status: int
    body: bytes


async def exchange(  # noqa: PLR0913  # where, and what
    client: Client, namespace: str, pod: str, port: int, path: str, *, method: str = "GET"
) -> Answer:
    """Send one request without a body and return the answer; raises ApiError where the Pod is not reached."""
    place = f"/api/v1/namespaces/{namespace}/pods/{pod}/portforward"
    request = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    try:
        async with (
            asyncio.timeout(settings.ADMIN_TIMEOUT_S),
            client.websocket(place, query={"ports": str(port)}, protocol=PROTOCOL) as messages,
        ):
            with suppress(
                aiohttp.ClientConnectionResetError
            ):  # a closed port: the reason is on the other channel
                await messages.send_bytes(bytes((_DATA,)) + request.encode("ascii"))
            return await _read(messages)
    except TimeoutError:
        raise ApiError(NO_ANSWER, "Timeout", f"no answer in {settings.ADMIN_TIMEOUT_S:g} s") from None


async def _read(messages: aiohttp.ClientWebSocketResponse) -> Answer:
    received = bytearray()
    opened: set[int] = set()
    async for message in messages:
        if message.type is not aiohttp.WSMsgType.BINARY or not message.data:
            continue
        channel, data = message.data[0], message.data[1:]
        if channel not in opened:
            opened.add(channel)  # the frame with the port's number
        elif channel == _ERROR:
            raise ApiError(NO_ANSWER, "PortForward", data.decode("utf-8", "replace").strip())
        else:
            received += data
            if len(received) > settings.KUBE_BODY_MAX_BYTES:
                raise ApiError(NO_ANSWER, TOO_LARGE, f"more than {settings.KUBE_BODY_MAX_BYTES >> 20} MiB")
            answer = parse(bytes(received))
            if answer is not None:
                return answer
    raise ApiError(NO_ANSWER, "PortForward", "the connection was closed before an answer was complete")


class _Received:
    """What http.client takes for a socket: bytes that have arrived."""

    def __init__(self, received: bytes) -> None:
        self._received = received

    def makefile(self, _mode: str) -> io.BytesIO:
        """Return the bytes as a file."""
        return io.BytesIO(self._received)


def parse(received: bytes) -> Answer | None:
    """Return the answer once it is whole, by its Content-Length or its chunks; raises ApiError if it is no HTTP."""
    if b"\r\n\r\n" not in received:
        return None
    response = http.client.HTTPResponse(cast("socket.socket", _Received(received)))
    try:
        response.begin()
        return Answer(response.status, response.read())
    except http.client.IncompleteRead:
        return None
    except http.client.HTTPException as error:
        raise ApiError(NO_ANSWER, type(error).__name__, "the port does not speak HTTP") from None
