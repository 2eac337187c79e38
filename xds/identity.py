"""Who is calling, and what that caller may have: SPIFFE IDs, join-token claims, :func:`authorize`.

Owns every decision about identity; it must never take one from node metadata, a header or a peer
address, and it never reads a clock, a file or a socket.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Self, TypeAlias

import msgspec

from xds import settings

# --- Grammar ----------------------------------------------------------------------------------
# One parser and no normalisation: CVE-2021-27099 (SPIRE) was an impersonation through a normalised
# path. Patterns are used with `fullmatch`, so that a trailing newline is not "the end".

_TRUST_DOMAIN: Final = re.compile(r"[a-z0-9._-]{1,255}")  # SPIFFE-ID §2.1
_SEGMENT: Final = re.compile(r"[A-Za-z0-9._-]+")  # SPIFFE-ID §2.2
_DNS_LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")  # RFC 1123 §2.1, as Kubernetes has it
_SCHEME: Final = "spiffe://"
_MAX_DNS_NAME: Final = 253  # RFC 1035 §2.3.4 without the root's dot; Kubernetes' DNS-1123 subdomain


class IdentityError(ValueError):
    """A name that breaks the grammar it claims to follow."""


def is_dns_label(text: str) -> bool:
    """Whether this is one lower-case DNS label of at most 63 characters (a namespace)."""
    return _DNS_LABEL.fullmatch(text) is not None


def is_dns_name(text: str) -> bool:
    """Whether this is dotted lower-case DNS labels of at most 253 characters (a pod, a ServiceAccount)."""
    return len(text) <= _MAX_DNS_NAME and all(is_dns_label(label) for label in text.split("."))


@dataclass(frozen=True, slots=True)
class SpiffeId:
    """A SPIFFE ID by the letter of SPIFFE-ID §2; one that breaks the grammar cannot be constructed."""

    trust_domain: str
    path: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if _TRUST_DOMAIN.fullmatch(self.trust_domain) is None:
            message = "SPIFFE ID: trust domain must be 1..255 characters of a-z 0-9 . _ -"
            raise IdentityError(message)
        for segment in self.path:
            if _SEGMENT.fullmatch(segment) is None or segment in {".", ".."}:
                message = "SPIFFE ID: path segments must be A-Z a-z 0-9 . _ - and neither empty nor dots"
                raise IdentityError(message)
        if len(str(self)) > settings.SPIFFE_ID_MAX_BYTES:
            message = f"SPIFFE ID: at most {settings.SPIFFE_ID_MAX_BYTES} bytes"
            raise IdentityError(message)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a SPIFFE ID; raises IdentityError for everything that SPIFFE-ID §2 does not allow."""
        if len(text) > settings.SPIFFE_ID_MAX_BYTES or not text.startswith(_SCHEME):
            message = (
                f"SPIFFE ID: must start with {_SCHEME} and have at most {settings.SPIFFE_ID_MAX_BYTES} bytes"
            )
            raise IdentityError(message)
        trust_domain, slash, path = text.removeprefix(_SCHEME).partition("/")
        return cls(trust_domain, tuple(path.split("/")) if slash else ())

    @classmethod
    def of_service_account(cls, trust_domain: str, namespace: str, service_account: str) -> Self:
        """The ID of a workload, in Istio's form ``spiffe://TD/ns/NS/sa/SA``."""
        return cls(trust_domain, ("ns", namespace, "sa", service_account))

    def __str__(self) -> str:
        return "/".join((_SCHEME + self.trust_domain, *self.path))


class Proof(enum.Enum):
    """How we know who is calling; the weakest is the default, so that forgetting it denies."""

    NODE_ID = "node-id"
    """Only its own word (`--insecure` on a loopback address): it selects a pod's view, never a secret."""
    TOKEN = "token"  # noqa: S105  # a name, not a secret
    """A verified token that our own view of the pod agrees with."""

    # Members are singletons; Enum's own hash is a Python call per decision.
    __hash__ = object.__hash__


@dataclass(frozen=True, slots=True)
class Identity:
    """One calling sidecar: the pod, and who that pod is in the mesh."""

    pod: str
    namespace: str
    service_account: str
    workload: str
    trust_domain: str
    proof: Proof = Proof.NODE_ID
    valid_until: float | None = field(default=None, compare=False)
    """When a proof that was shown runs out, seconds since the epoch: the stream ends before. None: it is not asked."""
    pod_uid: str = field(default="", compare=False)
    """The Pod that the proof is bound to; empty where it is bound to a name alone (a join token)."""

    def __post_init__(self) -> None:
        names = (self.pod, self.service_account, self.workload)
        if not is_dns_label(self.namespace) or not all(is_dns_name(name) for name in names):
            message = "identity: pod, namespace, service account and workload must be DNS-1123 names"
            raise IdentityError(message)
        SpiffeId.of_service_account(self.trust_domain, self.namespace, self.service_account)

    def holds(self, pods: PodLookup) -> bool:
        """Whether the Pod that was admitted is what our sources say is there *now*."""
        if not self.pod_uid:
            return True
        facts = pods(self.namespace, self.pod)
        return facts is not None and facts.uid == self.pod_uid and not facts.is_over

    @property
    def spiffe_id(self) -> SpiffeId:
        """``spiffe://<trustDomain>/ns/NS/sa/SA``."""
        return SpiffeId.of_service_account(self.trust_domain, self.namespace, self.service_account)

    @property
    def node_id(self) -> str:
        """``POD.NAMESPACE``: Envoy's node.id and the admin API's ``{id}``."""
        return f"{self.pod}.{self.namespace}"

    @property
    def dns_san(self) -> str | None:
        """``<workload>.<namespace>``, which labels the caller in metrics; None if that is no DNS name."""
        name = f"{self.workload}.{self.namespace}"
        return name if is_dns_name(name) else None


# --- The choke point --------------------------------------------------------------------------

TYPE_PREFIX: Final = "type.googleapis.com/"
SECRET_TYPE: Final = TYPE_PREFIX + "envoy.extensions.transport_sockets.tls.v3.Secret"
OWN_CERTIFICATE: Final = "default"  # Istio's name for the proxy's own SVID
TRUST_BUNDLE: Final = "ROOTCA"  # Istio's name for the trust bundle
_NAME_MAX_CHARS: Final = settings.RESOURCE_NAME_MAX_CHARS


class _Standing(enum.Enum):
    ANONYMOUS = 0
    CLAIMED = 1
    VERIFIED = 2

    __hash__ = object.__hash__  # as for Proof


_STANDINGS: Final[Mapping[Proof, _Standing]] = {
    Proof.NODE_ID: _Standing.CLAIMED,
    Proof.TOKEN: _Standing.VERIFIED,
}
"""A proof without a row has no standing, and gets nothing."""
_ANONYMOUS: Final = _Standing.ANONYMOUS


Rule: TypeAlias = Callable[[str], bool]


def _no_name(_name: str) -> bool:
    return False


def _any_name(_name: str) -> bool:
    return True


def _outbound_only(name: str) -> bool:
    return not name.startswith("inbound")


def _own_secret(name: str) -> bool:
    return name in {OWN_CERTIFICATE, TRUST_BUNDLE}


_CONFIGURATION: Final[Mapping[_Standing, Rule]] = {
    _Standing.ANONYMOUS: _outbound_only,  # the declared outbound view, nothing about any pod
    _Standing.CLAIMED: _any_name,  # names are looked up in the caller's own view, so "any" is "its own"
    _Standing.VERIFIED: _any_name,
}
_KEYS: Final[Mapping[_Standing, Rule]] = {
    # No other row: a secret goes to a verified identity only, and never by wildcard (CVE-2021-34824).
    _Standing.VERIFIED: _own_secret,
}
GRANTS: Final[Mapping[str, Mapping[_Standing, Rule]]] = {
    TYPE_PREFIX + "envoy.config.cluster.v3.Cluster": _CONFIGURATION,
    TYPE_PREFIX + "envoy.config.endpoint.v3.ClusterLoadAssignment": _CONFIGURATION,
    TYPE_PREFIX + "envoy.config.listener.v3.Listener": _CONFIGURATION,
    TYPE_PREFIX + "envoy.config.route.v3.RouteConfiguration": _CONFIGURATION,
    TYPE_PREFIX + "envoy.config.route.v3.ScopedRouteConfiguration": _CONFIGURATION,
    SECRET_TYPE: _KEYS,
}
"""Per resource type, who may have which names. A type or standing without a row gets nothing."""


def rule_of(identity: Identity | None, type_url: str) -> Rule:
    """Which names of a type this caller may have: the one decision, taken before any cache or lookup.

    A name is a resource name, or "*" for a wildcard subscription; what a wildcard covers still passes the rule
    name by name. `identity` None is a caller that proved nothing and named no known pod.
    """
    standing = _ANONYMOUS if identity is None else _STANDINGS.get(identity.proof)
    rule = None if standing is None else GRANTS.get(type_url, {}).get(standing)
    if rule is None:
        return _no_name
    return _is_plain if rule is _any_name else lambda name: _is_plain(name) and rule(name)


def authorize(identity: Identity | None, type_url: str, name: str) -> bool:
    """Whether this caller may have this resource: `rule_of`, asked for one name."""
    return rule_of(identity, type_url)(name)


def _is_plain(name: str) -> bool:
    """Bounded and printable: a NUL in a name has crashed Envoy (CVE-2025-66220), a newline forges logs."""
    return len(name) <= _NAME_MAX_CHARS and name.isprintable()


# --- Join tokens ------------------------------------------------------------------------------


class Refusal(enum.Enum):
    """Why a caller was turned away: for our counters and logs, never for the caller."""

    NO_TOKEN = "no bearer token"  # noqa: S105  # a name, not a secret
    UNVERIFIED = "token does not verify"
    CLAIMS = "claims have the wrong shape"
    AUDIENCE = "token is for another audience or issuer"
    EXPIRED = "token has expired"
    NOT_YET = "token is not valid yet"
    SUBJECT = "subject is not the identity of the claimed pod"
    NODE = "node.id names another pod"
    POD = "pod is unknown or differs from the token"
    BUSY = "too many tokens are being verified"
    REVIEW = "token cannot be reviewed"


class Refused(Exception):  # noqa: N818  # it is the outcome of a decision, not an error of ours
    """The caller is not who it must be; its text is constant, so that nothing leaks to a stranger.

    ``why`` is for our log: the reason, and of a caller whose token was verified what does not agree.
    """

    def __init__(self, reason: Refusal, detail: str = "") -> None:
        super().__init__("authentication failed")
        self.reason = reason
        self.detail = detail
        self.why = f"{reason.value}: {detail}" if detail else reason.value


class JoinClaims(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The payload of a join token; times are seconds since the epoch."""

    iss: str
    aud: str
    sub: str
    pod: str
    """``NAMESPACE/POD``."""
    sa: str
    iat: int
    nbf: int
    exp: int
    jti: str
    workload: str | None = None


@dataclass(frozen=True, slots=True)
class PodFacts:
    """What our own sources say about a pod."""

    service_account: str
    workload: str
    uid: str = ""
    """The Pod's `metadata.uid`; empty where nobody gives one (a directory)."""
    is_over: bool = False
    """All of its containers have ended for good (`status.phase` Succeeded or Failed)."""


Verify: TypeAlias = Callable[[str], object]
"""Checks a compact token's signature and returns its payload, or raises Refused."""
PodLookup: TypeAlias = Callable[[str, str], PodFacts | None]
"""(namespace, pod) → what our sources say about it, None if they do not know it."""


def bearer(authorization: str) -> str:
    """The token of an `authorization: Bearer …` header; raises Refused."""
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Refused(Refusal.NO_TOKEN)
    return token


def admit(  # noqa: PLR0913  # every argument is one source of truth that must agree with the others
    token: str, *, node_id: str, now: float, verify: Verify, pods: PodLookup, trust_domain: str
) -> Identity:
    """The identity that a join token proves, or Refused.

    Three things must agree: the verified token, our own view of the pod, and the node.id of the first
    request, which can only narrow (kuma#2745: comparing the namespace alone let pods impersonate others).
    """
    if len(token) > settings.JOIN_TOKEN_MAX_BYTES:
        raise Refused(Refusal.UNVERIFIED)
    claims = _read_claims(verify(token))
    _check_times(claims, now)
    namespace, _, pod = claims.pod.partition("/")
    if node_id != f"{pod}.{namespace}":
        raise Refused(Refusal.NODE, f"token of {claims.pod}, node.id {node_id[:_NAME_MAX_CHARS]}")
    facts = pods(namespace, pod)
    if facts is None:
        raise Refused(Refusal.POD, f"there is no Pod {claims.pod}")
    if facts.service_account != claims.sa:
        detail = f"the token of {claims.pod} says ServiceAccount {claims.sa}, the Pod {facts.service_account}"
        raise Refused(Refusal.POD, detail)
    if claims.workload not in {None, facts.workload}:
        detail = f"the token of {claims.pod} says workload {claims.workload}, the Pod {facts.workload}"
        raise Refused(Refusal.POD, detail)
    try:
        identity = Identity(pod, namespace, facts.service_account, facts.workload, trust_domain, Proof.TOKEN)
    except IdentityError:
        raise Refused(Refusal.POD) from None
    if claims.sub != str(identity.spiffe_id):
        raise Refused(Refusal.SUBJECT)
    return identity


def _read_claims(payload: object) -> JoinClaims:
    """`null`, lists, strings for numbers and unknown claims are refused (CVE-2022-23635 was a `null`)."""
    try:
        claims = msgspec.convert(payload, JoinClaims)
    except msgspec.ValidationError:
        raise Refused(Refusal.CLAIMS) from None
    if claims.iss != settings.JOIN_TOKEN_ISSUER or claims.aud != settings.JOIN_TOKEN_AUDIENCE:
        raise Refused(Refusal.AUDIENCE)
    return claims


def _check_times(claims: JoinClaims, now: float) -> None:
    if now >= claims.exp:  # no leeway: whoever renews has half of the token's life for it
        raise Refused(Refusal.EXPIRED, f"token of {claims.pod}")
    if now + settings.CLOCK_SKEW_S < max(claims.nbf, claims.iat):
        raise Refused(Refusal.NOT_YET, f"token of {claims.pod}")
