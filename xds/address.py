"""A HOST:PORT pair as the command line writes it.

Owns the grammar of addresses; it must never resolve a name or open a socket.
"""

from __future__ import annotations

import ipaddress
from typing import NamedTuple

PORT_MAX = 65535
"""Ports are 16 bits (RFC 9293 §3.1); 0 asks the kernel for a free one."""


class Address(NamedTuple):
    """Where to listen or connect; ``host`` is an IP address or ``localhost``, without brackets."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read ``127.0.0.1:18000``, ``[::1]:18000`` or ``localhost:0``; raises ValueError with the fix."""
        host, colon, port = text.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            message = f"write an IPv6 address in brackets, as in [::1]:18000, got {text!r}"
            raise ValueError(message)
        if not colon or not (port.isascii() and port.isdigit() and int(port) <= PORT_MAX):
            message = f"must be HOST:PORT with a port of 0..{PORT_MAX}, got {text!r}"
            raise ValueError(message)
        if host != "localhost":
            _check_ip(host, text)
        return cls(host, int(port))

    @property
    def is_loopback(self) -> bool:
        """Tell whether only this machine can reach it; a wildcard address is not loopback."""
        return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback

    def __str__(self) -> str:
        """Return the text that ``parse`` reads."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _check_ip(host: str, text: str) -> None:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        message = f"the host must be an IP address or localhost, got {text!r}"
        raise ValueError(message) from None
