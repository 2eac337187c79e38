"""A WebSocket server and client of a few lines (RFC 6455): one text frame in, the same frame out.

It owns the handshake and unfragmented frames below 126 bytes; it must never grow into an implementation.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import socket
import threading

# RFC 6455 §1.3: what is hashed with the client's key.
_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_KEY = base64.b64encode(b"sixteen bytes...")
_MASK = b"\x01\x02\x03\x04"
_TEXT = 0x81  # FIN, opcode 1
_TIMEOUT_S = 10


def listen(address: str, port: int) -> socket.socket:
    """Echo frames at an address until the process ends; return the listening socket."""
    server = socket.create_server((address, port))
    threading.Thread(target=_accept, args=(server,), daemon=True).start()
    return server


def _accept(server: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            connection, _ = server.accept()
            threading.Thread(target=_echo, args=(connection,), daemon=True).start()


def _echo(connection: socket.socket) -> None:
    with connection, contextlib.suppress(OSError, EOFError):
        head = _read_head(connection)
        if b"upgrade: websocket" not in head.lower():
            connection.sendall(b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n")
            return
        connection.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept_of(_header(head, b"sec-websocket-key")) + b"\r\n\r\n"
        )
        while True:
            text = _read_frame(connection)
            connection.sendall(bytes((_TEXT, len(text))) + text)


class Client:
    """One WebSocket through a proxy on `address:port` that decides by Host; close it."""

    def __init__(self, address: str, port: int, host: str) -> None:
        self._socket = socket.create_connection((address, port), timeout=_TIMEOUT_S)
        self._socket.sendall(
            b"GET /chat HTTP/1.1\r\nHost: "
            + host.encode()
            + b"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + _KEY + b"\r\n\r\n"
        )
        head = _read_head(self._socket)
        self.status = int(head.split()[1])
        self.is_accepted = _header(head, b"sec-websocket-accept") == accept_of(_KEY)

    def ask(self, text: bytes) -> bytes:
        """Send one text frame, masked as a client must, and return the next frame's text."""
        masked = bytes(byte ^ _MASK[i % 4] for i, byte in enumerate(text))
        self._socket.sendall(bytes((_TEXT, 0x80 | len(text))) + _MASK + masked)
        return _read_frame(self._socket)

    def close(self) -> None:
        """Cut the connection."""
        self._socket.close()


def accept_of(key: bytes) -> bytes:
    """Return the Sec-WebSocket-Accept of a key."""
    return base64.b64encode(hashlib.sha1(key + _MAGIC, usedforsecurity=False).digest())


def _read_frame(connection: socket.socket) -> bytes:
    _, length = _read(connection, 2)
    mask = _read(connection, 4) if length & 0x80 else bytes(4)
    return bytes(byte ^ mask[i % 4] for i, byte in enumerate(_read(connection, length & 0x7F)))


def _read(connection: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count:
        more = connection.recv(count - len(found))
        if not more:
            raise EOFError
        found += more
    return found


def _read_head(connection: socket.socket) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += _read(connection, 1)
    return head


def _header(head: bytes, name: bytes) -> bytes:
    for line in head.split(b"\r\n"):
        found, _, value = line.partition(b":")
        if found.lower() == name:
            return value.strip()
    return b""
