"""A client of HTTP/2 that asks one request after the other over a connection that it is given.

It owns how a request of the campaign is written as HTTP/2 (RFC 9113 §8.3); it must never say what an answer means.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass, field

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, DataReceived, Event, ResponseReceived, StreamEnded, StreamReset

from tests.access_reference import Http

_MOST = 65_536


@dataclass(slots=True)
class Response:
    """What came back; without ``headers`` nothing did."""

    headers: dict[bytes, bytes] = field(default_factory=dict[bytes, bytes])
    body: bytes = b""


def is_sayable(http: Http) -> bool:
    """Whether HTTP/2 can say it: what a request line alone can do wrong, one Host only, is said over HTTP/1."""
    is_plain = http.target.startswith("/") and http.method == http.method.upper()
    return is_plain and len(http.values("host")) == 1


def fields(http: Http) -> list[tuple[bytes, bytes]]:
    """The request's fields; names have no case in HTTP/2, and are written small."""
    pseudo = (
        (":method", http.method),
        (":scheme", "http"),
        (":authority", http.values("host")[0]),
        (":path", http.target),
    )
    rest = ((name.lower(), value) for name, value in http.headers if name.lower() != "host")
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in (*pseudo, *rest)]


class Conversation:
    """Requests over one connection, written as they are: what the protocol forbids is not mended."""

    def __init__(self, wire: socket.socket) -> None:
        self._wire = wire
        self._state = H2Connection(
            H2Configuration(
                header_encoding=None, validate_outbound_headers=False, normalize_outbound_headers=False
            )
        )
        self.is_over = False
        self._state.initiate_connection()

    def ask(self, asked: list[tuple[bytes, bytes]]) -> Response:
        """The answer to a request without a body."""
        stream = self._state.get_next_available_stream_id()
        self._state.send_headers(stream, asked, end_stream=True)
        found = Response()
        for event in self._events():
            match event:
                case ResponseReceived(stream_id=number, headers=headers) if number == stream:
                    found.headers = {bytes(name): bytes(value) for name, value in headers or ()}
                case DataReceived(stream_id=number, data=data) if number == stream:
                    found.body += data or b""
                case StreamEnded(stream_id=number) | StreamReset(stream_id=number) if number == stream:
                    return found
                case ConnectionTerminated():
                    self.is_over = True
                case _:
                    pass
        return found

    def _events(self) -> Iterator[Event]:
        while not self.is_over:
            if octets := self._state.data_to_send():
                self._wire.sendall(octets)
            received = self._wire.recv(_MOST)
            self.is_over = not received
            yield from self._state.receive_data(received)
