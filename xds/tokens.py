"""Join tokens: what a sidecar outside Kubernetes shows to prove which pod it is.

Owns the signed form (compact JWS, EdDSA alone, one fixed header); it must never judge what a claim means:
:func:`xds.identity.admit` does, with the time as its argument.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric import ed25519
from jwt.types import Options

from xds import settings
from xds.identity import JoinClaims, Refusal, Refused, SpiffeId

_ALGORITHM: Final = "EdDSA"
_COMPACT: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
# Signature only: the claims are judged by xds.identity with the caller's clock, not by PyJWT with its own.
_SIGNATURE_ONLY: Final = Options(
    verify_signature=True,
    verify_exp=False,
    verify_nbf=False,
    verify_iat=False,
    verify_aud=False,
    verify_iss=False,
)


class TokenKey:
    """The key that signs and verifies join tokens."""

    def __init__(self, key: ed25519.Ed25519PrivateKey) -> None:
        self._key = key
        self._public = key.public_key()
        # Whoever writes the header chooses the algorithm: so ours is compared, never interpreted.
        self._header = jwt.encode({}, key, algorithm=_ALGORITHM).partition(".")[0]

    def issue(  # noqa: PLR0913  # one argument a claim
        self,
        *,
        namespace: str,
        pod: str,
        service_account: str,
        trust_domain: str,
        now: float,
        octets: Callable[[int], bytes],
        ttl_s: int = settings.JOIN_TOKEN_TTL_S,
        workload: str | None = None,
    ) -> str:
        """A token for one pod, as text of ASCII; raises IdentityError if the names make no SPIFFE ID."""
        issued_at = int(now)
        claims = JoinClaims(
            iss=settings.JOIN_TOKEN_ISSUER,
            aud=settings.JOIN_TOKEN_AUDIENCE,
            sub=str(SpiffeId.of_service_account(trust_domain, namespace, service_account)),
            pod=f"{namespace}/{pod}",
            sa=service_account,
            iat=issued_at,
            nbf=issued_at,
            exp=issued_at + ttl_s,
            jti=octets(16).hex(),
            workload=workload,
        )
        return jwt.encode(msgspec.to_builtins(claims), self._key, algorithm=_ALGORITHM)

    def verify(self, token: str) -> object:
        """The payload of a token that this key has signed; Refused for everything else.

        Nothing of a token is parsed before its signature holds (CVE-2022-23635 was a payload `null`).
        """
        if len(token) > settings.JOIN_TOKEN_MAX_BYTES or _COMPACT.fullmatch(token) is None:
            raise Refused(Refusal.UNVERIFIED)
        if token.partition(".")[0] != self._header:
            raise Refused(Refusal.UNVERIFIED)
        try:
            return jwt.decode(token, self._public, algorithms=[_ALGORITHM], options=_SIGNATURE_ONLY)
        except jwt.InvalidTokenError:
            raise Refused(Refusal.UNVERIFIED) from None
