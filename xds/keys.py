"""Private material as types: what must never reach a log, a dump or an exception text.

Owns the redacted wrapper and the two sources of entropy that the core takes as arguments; it must
never generate, store or print a key by itself.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from cryptography.hazmat.primitives.asymmetric import ec

_REDACTED = "[redacted]"


class SecretBytes:
    """Bytes that print as ``[redacted]``; read them only through :meth:`reveal`."""

    __slots__ = ("_octets",)

    def __init__(self, octets: bytes) -> None:
        self._octets = octets

    def reveal(self) -> bytes:
        """The bytes themselves; the caller must neither log nor keep them."""
        return self._octets

    def __len__(self) -> int:
        return len(self._octets)

    def __repr__(self) -> str:
        return _REDACTED

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return _REDACTED

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SecretBytes) and hmac.compare_digest(self._octets, other._octets)

    __hash__ = None  # type: ignore[assignment]  # a hash would be an oracle, and a dict key is a copy that stays

    def __reduce__(self) -> NoReturn:
        message = "a secret is never pickled or copied"
        raise TypeError(message)


@dataclass(frozen=True, slots=True)
class Entropy:
    """Randomness as an argument, so that the CA is a function of its inputs."""

    new_key: Callable[[], ec.EllipticCurvePrivateKey]
    """A fresh P-256 key at every call."""
    octets: Callable[[int], bytes]
    """That many random bytes at every call."""
