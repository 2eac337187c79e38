"""Parameters that several verbs share: addresses, and the choice of output.

Owns the step from a word on the command line to a value; it must never import more than click needs.
"""

from __future__ import annotations

import re
from typing import Final

import click

from xds.address import PORT_MAX, Address

_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION: Final = re.compile(r"([0-9]{1,9})([smhd])")


def address(text: str) -> Address:
    """Read ``HOST:PORT`` as a click parameter type; what does not parse is a usage error (exit code 2)."""
    try:
        return Address.parse(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def server(text: str) -> tuple[str, int]:
    """Read HOST:PORT; unlike an address to bind, the host may be a DNS name and the port is not 0."""
    host, colon, port = text.rpartition(":")
    if not (host and colon and port.isascii() and port.isdigit() and 0 < int(port) <= PORT_MAX):
        raise click.BadParameter(f"must be HOST:PORT with a port of 1..{PORT_MAX}, got {text!r}")
    return host.strip("[]"), int(port)


def duration(text: str) -> int:
    """Seconds of ``90s``, ``15m``, ``24h`` or ``7d``; anything else, or nothing, is a usage error."""
    found = _DURATION.fullmatch(text)
    if found is None or int(found[1]) == 0:
        message = f"must be a number and one of s, m, h, d, as in 24h, got {text!r}"
        raise click.BadParameter(message)
    return int(found[1]) * _UNITS_S[found[2]]


output_option = click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="A table for people, or one JSON document.",
)
"""``-o table|json``, the same for every verb that shows something."""
