"""A relay of TCP connections that can become a black hole: alive to the kernel, and nothing comes through.

It owns sockets on loopback; it must never close a connection that it has swallowed before its own end.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Final

_CHUNK_BYTES: Final = 65_536


class Hole:
    """One relay; ``swallow`` everything that is open and everything that comes, until ``mend``."""

    def __init__(self, host: str, port: int) -> None:
        self._there = (host, port)
        self._is_open = True
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []
        self.port = 0
        self.connections = 0

    def swallow(self) -> None:
        """From now on bytes are lost, those of new connections as well."""
        self._is_open = False

    def mend(self) -> None:
        """New connections work again; the swallowed ones stay dead, as after a lost NAT entry."""
        self._is_open = True

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Relay one connection in a task of our own."""
        self.connections += 1
        self._writers.append(writer)
        if self._is_open:
            task = asyncio.get_running_loop().create_task(self._relay(reader, writer), name="relay")
            self._tasks.add(task)

    async def end(self) -> None:
        """Drop everything."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.gather(*(writer.wait_closed() for writer in self._writers), return_exceptions=True)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection(*self._there)
        self._writers.append(there[1])
        await asyncio.gather(self._copy(reader, there[1]), self._copy(there[0], writer))

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while chunk := await reader.read(_CHUNK_BYTES):
                if not self._is_open:
                    return
                writer.write(chunk)
                await writer.drain()
            writer.close()


@asynccontextmanager
async def relaying(host: str, port: int) -> AsyncGenerator[Hole]:
    """Listen on a free port of loopback and relay to an address until the block ends."""
    hole = Hole(host, port)
    server = await asyncio.start_server(hole.accept, "127.0.0.1", 0)
    hole.port = server.sockets[0].getsockname()[1]
    try:
        yield hole
    finally:
        server.close()
        await hole.end()
