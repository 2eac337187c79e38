"""What a ServiceAccount token must prove, whether the apiserver has checked its signature or we have.

Owns the reading of TokenReview answers and of JWT claims, the apiserver's public keys, and the decision
:func:`admit`; it must never send or keep a token, and it parses nothing of one before its signature holds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

import jwt
import msgspec
from jwt.types import Options
from jwt.utils import base64url_decode

from xds import settings
from xds.identity import (
    Identity,
    IdentityError,
    PodLookup,
    Proof,
    Refusal,
    Refused,
    is_dns_label,
    is_dns_name,
)

_COMPACT: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_ALGORITHMS: Final = frozenset({"RS256", "ES256", "ES384", "ES512"})
"""What an apiserver signs with (kubernetes pkg/serviceaccount/jwt.go); `none` and the HMACs are not among them."""
_SIGNATURE_ONLY: Final = Options(
    verify_signature=True, verify_exp=False, verify_nbf=False, verify_iat=False, verify_aud=False,
    verify_iss=False, verify_sub=False, verify_jti=False,
)  # fmt: skip
_UID_MAX_CHARS: Final = 128  # a UUID has 36; the API promises no form
_MALFORMED: Final = (msgspec.MsgspecError, ValueError, RecursionError)

POD_NAME: Final = "authentication.kubernetes.io/pod-name"
POD_UID: Final = "authentication.kubernetes.io/pod-uid"


@dataclass(frozen=True, slots=True)
class Bound:
    """What a genuine token says: the Pod that it is bound to, and until when."""

    namespace: str
    service_account: str
    pod: str
    uid: str
    expires_at: float
    """Seconds since the epoch."""

    @property
    def node_id(self) -> str:
        """``POD.NAMESPACE``, as Envoy names itself."""
        return f"{self.pod}.{self.namespace}"


def check_form(token: str) -> None:
    """Raise Refused for what is no JWT of a size that a ServiceAccount token may have; nothing is decoded."""
    if len(token) > settings.ACCOUNT_TOKEN_MAX_BYTES or _COMPACT.fullmatch(token) is None:
        raise Refused(Refusal.UNVERIFIED, "not the form of a ServiceAccount token")


# --- TokenReview ------------------------------------------------------------------------------


class _User(msgspec.Struct, frozen=True):
    username: str = ""
    extra: dict[str, list[str]] = {}


class _Status(msgspec.Struct, frozen=True):
    authenticated: bool = False
    error: str = ""
    audiences: list[str] = []
    user: _User = _User()


class _Review(msgspec.Struct, frozen=True):
    status: _Status


def review_of(token: str) -> dict[str, object]:
    """The TokenReview to send: it asks for our audience, so that a token for the apiserver proves nothing here."""
    return {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": {"token": token, "audiences": [settings.JOIN_TOKEN_AUDIENCE]},
    }


def read_review(answer: bytes, token: str) -> Bound:
    """What the answer to `review_of(token)` proves; Refused unless every one of its parts says so.

    Kubernetes' API documentation asks clients that set audiences to compare `status.audiences`: an
    authenticator that knows none leaves it empty and has not looked.
    """
    try:
        status = msgspec.json.decode(answer, type=_Review).status
    except _MALFORMED:
        raise Refused(Refusal.UNVERIFIED, "the TokenReview's answer is malformed") from None
    if not status.authenticated or status.error:
        raise Refused(Refusal.UNVERIFIED, "the apiserver does not accept the token")
    if settings.JOIN_TOKEN_AUDIENCE not in status.audiences:
        raise Refused(Refusal.AUDIENCE)
    namespace, account = _account(status.user.username)
    bound = Bound(
        namespace,
        account,
        _only(status.user.extra, POD_NAME),
        _only(status.user.extra, POD_UID),
        _expiry(token),
    )
    _check_names(bound)
    return bound


def _account(username: str) -> tuple[str, str]:
    match username.split(":"):
        case ["system", "serviceaccount", namespace, account]:
            return namespace, account
        case _:
            raise Refused(Refusal.CLAIMS, "not a ServiceAccount")


def _only(extra: Mapping[str, list[str]], key: str) -> str:
    match extra.get(key):
        case [str() as value]:
            return value
        case _:
            raise Refused(Refusal.CLAIMS, f"not bound to one Pod: {key}")


def _check_names(bound: Bound) -> None:
    if not (is_dns_label(bound.namespace) and is_dns_name(bound.service_account) and is_dns_name(bound.pod)):
        raise Refused(Refusal.CLAIMS, "namespace, ServiceAccount and Pod must be DNS-1123 names")
    if not 0 < len(bound.uid) <= _UID_MAX_CHARS or not bound.uid.isprintable():
        raise Refused(Refusal.CLAIMS, "the Pod's uid is empty or no text")


def _expiry(token: str) -> float:
    """Read `exp` of a token that the apiserver has authenticated; a bound one always has it."""
    try:
        payload = base64url_decode(token.split(".")[1])
        return msgspec.json.decode(payload, type=_Expiring).exp
    except (*_MALFORMED, IndexError):
        raise Refused(Refusal.CLAIMS, "no expiry") from None


class _Expiring(msgspec.Struct, frozen=True):
    exp: int


# --- Verification with the apiserver's keys -----------------------------------------------------


class UnknownKey(Exception):  # noqa: N818  # a fact about our copy of the keys
    """The token names a key that is not in our copy: a new one of the apiserver's, or a stranger's."""


class _Header(msgspec.Struct, frozen=True):
    alg: str
    kid: str = ""


class Keys:
    """The public keys and the issuer of a cluster's ServiceAccount tokens."""

    def __init__(self, issuer: str, keys: Mapping[str, jwt.PyJWK]) -> None:
        self.issuer = issuer
        self._keys = dict(keys)

    @classmethod
    def read(cls, configuration: bytes, jwks: bytes) -> Self:
        """Read `/.well-known/openid-configuration` and `/openid/v1/jwks`; raises ValueError if one is malformed."""
        try:
            issuer = msgspec.json.decode(configuration, type=_Configuration).issuer
            found = jwt.PyJWKSet.from_json(jwks.decode())
        except (*_MALFORMED, jwt.PyJWTError, TypeError, AttributeError, KeyError) as error:
            raise ValueError(f"the apiserver's token keys cannot be read: {type(error).__name__}") from None
        known = {key.key_id or "": key for key in found.keys if key.algorithm_name in _ALGORITHMS}
        if not issuer or not known:
            raise ValueError("the apiserver publishes no key for ServiceAccount tokens")
        return cls(issuer, known)

    def verify(self, token: str, now: float) -> Bound:
        """What a token proves by its own signature; raises Refused, or UnknownKey if we cannot tell."""
        check_form(token)
        key = self._keys.get(_key_id(token))
        if key is None:
            raise UnknownKey
        try:
            # The key says which algorithm is meant, never the token: `none` and HMAC with a public key.
            payload = jwt.decode(token, key.key, algorithms=[key.algorithm_name], options=_SIGNATURE_ONLY)
        except (jwt.PyJWTError, RecursionError):
            raise Refused(Refusal.UNVERIFIED, "the signature does not hold") from None
        return read_claims(payload, issuer=self.issuer, now=now)


def _key_id(token: str) -> str:
    header = token.partition(".")[0]
    if len(header) > settings.ACCOUNT_TOKEN_HEADER_MAX_BYTES:
        raise Refused(Refusal.UNVERIFIED, "the header is too long")
    try:
        found = msgspec.json.decode(base64url_decode(header), type=_Header)
    except _MALFORMED:
        raise Refused(Refusal.UNVERIFIED, "the header is malformed") from None
    if found.alg not in _ALGORITHMS:
        raise Refused(Refusal.UNVERIFIED, "no apiserver signs with this algorithm")
    return found.kid


class _Configuration(msgspec.Struct, frozen=True):
    issuer: str


class _Named(msgspec.Struct, frozen=True):
    name: str
    uid: str


class _Binding(msgspec.Struct, frozen=True):
    namespace: str
    pod: _Named
    serviceaccount: _Named


class _Claims(msgspec.Struct, frozen=True, rename={"binding": "kubernetes.io"}):
    iss: str
    aud: str | list[str]
    sub: str
    exp: int
    binding: _Binding
    nbf: int = 0


def read_claims(payload: object, *, issuer: str, now: float) -> Bound:
    """What the claims of a verified token say; Refused unless all agree. `now`: seconds since the epoch."""
    try:
        claims = msgspec.convert(payload, _Claims)
    except _MALFORMED:
        raise Refused(Refusal.CLAIMS, "not bound to a Pod") from None
    audiences = [claims.aud] if isinstance(claims.aud, str) else claims.aud
    if claims.iss != issuer or settings.JOIN_TOKEN_AUDIENCE not in audiences:
        raise Refused(Refusal.AUDIENCE)
    if now >= claims.exp:
        raise Refused(Refusal.EXPIRED)
    if now + settings.CLOCK_SKEW_S < claims.nbf:
        raise Refused(Refusal.NOT_YET)
    account = claims.binding.serviceaccount.name
    if _account(claims.sub) != (claims.binding.namespace, account):
        raise Refused(Refusal.SUBJECT)
    pod = claims.binding.pod
    bound = Bound(claims.binding.namespace, account, pod.name, pod.uid, claims.exp)
    _check_names(bound)
    return bound


# --- The decision -----------------------------------------------------------------------------


def admit(bound: Bound, *, node_id: str | None, now: float, pods: PodLookup, trust_domain: str) -> Identity:
    """The identity of a caller whose token is genuine, or Refused: our own view of the Pod has the last word.

    The apiserver accepts a deleted Pod's token for about ten seconds more; our cache does not. `node_id` is
    the first request's, None before it has come: it can only narrow.
    """
    where = f"{bound.namespace}/{bound.pod}"
    if now >= bound.expires_at:
        raise Refused(Refusal.EXPIRED, f"token of {where}")
    if node_id is not None and node_id != bound.node_id:
        raise Refused(
            Refusal.NODE, f"token of {where}, node.id {node_id[: settings.RESOURCE_NAME_MAX_CHARS]}"
        )
    facts = pods(bound.namespace, bound.pod)
    if facts is None:
        raise Refused(Refusal.POD, f"there is no Pod {where}")
    if not facts.uid or facts.uid != bound.uid:
        raise Refused(Refusal.POD, f"the token is of another Pod that was called {where}")
    if facts.is_over:
        raise Refused(Refusal.POD, f"Pod {where} has ended")
    if facts.service_account != bound.service_account:
        detail = f"token of ServiceAccount {bound.service_account}, Pod {where} has {facts.service_account}"
        raise Refused(Refusal.POD, detail)
    try:
        return Identity(
            bound.pod,
            bound.namespace,
            facts.service_account,
            facts.workload,
            trust_domain,
            Proof.TOKEN,
            valid_until=bound.expires_at,
            pod_uid=bound.uid,
        )
    except IdentityError:
        raise Refused(Refusal.POD, f"Pod {where} has no valid names") from None
