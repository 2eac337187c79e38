"""The two pieces of protobuf's wire format that the hot path writes by hand.

Nothing but framing lives here; it must never know a message.
"""

from __future__ import annotations

_ONE_BYTE = tuple(b"%c" % value for value in range(128))


def varint(value: int) -> bytes:
    """Return an unsigned varint."""
    if value < 128:
        return _ONE_BYTE[value]
    if value < 16384:
        return b"%c%c" % (value & 127 | 128, value >> 7)
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def field(number: int, body: bytes) -> bytes:
    """Return a length-delimited field with its tag (``number`` up to 2,047)."""
    size = len(body)
    if size < 128 and number < 16:  # nearly all: two bytes before the body
        return b"%c%c%b" % (number << 3 | 2, size, body)
    return b"".join((varint(number << 3 | 2), varint(size), body))
