"""Entropy that is different at every draw and equal in every run: keys and serials of a test are exact.

Owns a counter and two derivations from it; it must never be imported by the program.
"""

from __future__ import annotations

import hashlib
import itertools

from cryptography.hazmat.primitives.asymmetric import ec

from xds.keys import Entropy

_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def counted_entropy(seed: str = "") -> Entropy:
    """An Entropy whose n-th draw is the SHA-256 of the seed and n."""
    count = itertools.count()

    def draw() -> bytes:
        return hashlib.sha256(f"{seed}/{next(count)}".encode()).digest()

    def new_key() -> ec.EllipticCurvePrivateKey:
        return ec.derive_private_key(int.from_bytes(draw()) % (_P256_ORDER - 1) + 1, ec.SECP256R1())

    return Entropy(new_key=new_key, octets=lambda count: draw()[:count])
