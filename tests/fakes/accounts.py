"""A cluster's ServiceAccount tokens without a cluster: keys of our own, claims as an apiserver writes them.

Owns two signing keys; it must never be imported by the program.
"""

from __future__ import annotations

import json
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from xds import settings
from xds.identity import PodFacts
from xds.reviews import Bound, Keys

NOW: Final = 1_800_000_000.0
ISSUER: Final = "https://kubernetes.default.svc.cluster.local"
UID: Final = "5c9b9a54-8a4f-4b3e-a7a5-0a5c3a6b1f11"
BOUND: Final = Bound("shop", "web", "web-1", UID, NOW + 3600)
FACTS: Final = PodFacts("web", "web", UID)
RSA: Final = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC: Final = ec.generate_private_key(ec.SECP256R1())
CONFIGURATION: Final = json.dumps({"issuer": ISSUER}).encode()


def claims(**changes: Any) -> dict[str, Any]:
    """The claims of a good token, as an apiserver writes them; a value None leaves the claim out."""
    payload: dict[str, Any] = {
        "iss": ISSUER,
        "aud": [settings.JOIN_TOKEN_AUDIENCE],
        "sub": "system:serviceaccount:shop:web",
        "exp": int(NOW) + 3600,
        "iat": int(NOW),
        "nbf": int(NOW),
        "jti": "a",
        "kubernetes.io": {
            "namespace": "shop",
            "node": {"name": "n", "uid": "u"},
            "pod": {"name": "web-1", "uid": UID},
            "serviceaccount": {"name": "web", "uid": "v"},
        },
    }
    payload.update(changes)
    return {name: value for name, value in payload.items() if value is not None}


def signed(payload: dict[str, Any] | None = None, key: Any = RSA, kid: str = "r", alg: str = "RS256") -> str:
    """A token that the key with this ID has signed."""
    return jwt.encode(claims() if payload is None else payload, key, algorithm=alg, headers={"kid": kid})


def jwks() -> bytes:
    """What `/openid/v1/jwks` answers: one RSA key, one elliptic."""
    rsa_key = RSAAlgorithm.to_jwk(RSA.public_key(), as_dict=True)
    ec_key = ECAlgorithm.to_jwk(EC.public_key(), as_dict=True)
    found = [{**rsa_key, "kid": "r", "alg": "RS256"}, {**ec_key, "kid": "e", "alg": "ES256"}]
    return json.dumps({"keys": found}).encode()


def keys() -> Keys:
    """Our copy of them."""
    return Keys.read(CONFIGURATION, jwks())
