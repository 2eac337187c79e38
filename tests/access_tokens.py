"""JSON web tokens for tests: keys that are their seed, tokens that they sign, and a verifier that is no Envoy.

It owns RFC 7515's compact form with ES256; it must never import what is tested.
"""

from __future__ import annotations

import base64
import functools
import json
from collections.abc import Mapping
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

_PART_OCTETS = 32  # r and s of a P-256 signature, RFC 7518 §3.4

Claims = Mapping[str, Any]


def key(seed: int) -> ec.EllipticCurvePrivateKey:
    """A key that the seed determines."""
    return ec.derive_private_key(seed + 1, ec.SECP256R1())


def jwks(*seeds: int) -> str:
    """The public halves of these keys, as a key set; a key's id is its seed."""
    return json.dumps({"keys": [_jwk(seed) for seed in seeds]})


def _jwk(seed: int) -> dict[str, str]:
    point = key(seed).public_key().public_numbers()
    x, y = (_text(number.to_bytes(_PART_OCTETS, "big")) for number in (point.x, point.y))
    return {"kty": "EC", "crv": "P-256", "alg": "ES256", "kid": str(seed), "x": x, "y": y}


def sign(claims: Claims, seed: int, *, kid: int | None = None) -> str:
    """A token of these claims; ``kid`` may name a key that has not signed it."""
    header = {"alg": "ES256", "typ": "JWT", "kid": str(seed if kid is None else kid)}
    signed = encoded(header, claims, b"").removesuffix(".")
    r, s = decode_dss_signature(key(seed).sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
    return encoded(header, claims, r.to_bytes(_PART_OCTETS, "big") + s.to_bytes(_PART_OCTETS, "big"))


def encoded(header: Mapping[str, str], claims: Claims, signature: bytes) -> str:
    """The compact form of these parts, whether they fit each other or not."""
    return ".".join(
        _text(part) for part in (json.dumps(header).encode(), json.dumps(claims).encode(), signature)
    )


@functools.cache
def verified(token: str, key_set: str) -> Claims | None:
    """The claims of a token that one key of the set has signed, whatever its times say; None if none has."""
    try:
        header, payload, signature = (_octets(part) for part in token.split("."))
        head, claims = json.loads(header), json.loads(payload)
    except ValueError:
        return None
    r, s = (int.from_bytes(half, "big") for half in (signature[:_PART_OCTETS], signature[_PART_OCTETS:]))
    signed = token.rpartition(".")[0].encode()
    for found in json.loads(key_set)["keys"]:
        if head.get("alg") == "ES256" and head.get("kid", found["kid"]) == found["kid"]:
            x, y = (int.from_bytes(_octets(found[name]), "big") for name in ("x", "y"))
            public = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
            try:
                public.verify(encode_dss_signature(r, s), signed, ec.ECDSA(hashes.SHA256()))
            except InvalidSignature:
                continue
            return claims
    return None


def _text(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


def _octets(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
