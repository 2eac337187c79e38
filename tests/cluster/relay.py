"""A relay from an address of this machine into a node's network namespace: ``relay.py LISTEN NAMESPACE CONNECT``.

It owns bytes on their way between the two; it must never look into them. A program of its own, of the standard
library only, because a process that has entered a namespace does not come back.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import socket
import sys
from pathlib import Path

_CLONE_NEWNET = 0x40000000  # setns(2)
_CONNECT_S = 10.0
_CHUNK_BYTES = 65_536


def main(listen: str, namespace: str, connect: str) -> None:
    """Listen outside, then enter the namespace: a socket stays where it was made."""
    with socket.create_server(_address(listen)) as server:
        handle = os.open(namespace, os.O_RDONLY)
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(handle, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns", namespace)
        asyncio.run(_serve(server, *_address(connect)))


async def _serve(server: socket.socket, host: str, port: int) -> None:
    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there = await asyncio.wait_for(asyncio.open_connection(host, port), _CONNECT_S)
        except (OSError, TimeoutError):
            writer.close()
            return
        async with asyncio.TaskGroup() as group:
            group.create_task(_copy(reader, there[1]), name="to the node")
            group.create_task(_copy(there[0], writer), name="from the node")

    async with await asyncio.start_server(relay, sock=server) as listening:
        await listening.serve_forever()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy until either end is gone; its end is then the other's."""
    with contextlib.suppress(OSError):
        while chunk := await reader.read(_CHUNK_BYTES):
            writer.write(chunk)
            await writer.drain()
    writer.close()


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


if __name__ == "__main__":
    # Its name in the list of processes is this file's; the arguments say between whom it stands.
    sys.exit(
        main(sys.argv[1], sys.argv[2], sys.argv[3]) if Path(sys.argv[2]).exists() else "no such namespace"
    )
