"""Whether one rule of access matches a request; a condition is true, false, or cannot be known here.

It owns an evaluator of `xds.api.istio_authorization.Rule`, checked against a real Envoy; it must never read policies as
users wrote them, and never say what follows from a match.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from ipaddress import ip_address, ip_network
from typing import Final, cast

from xds.api.conditions import ONE_SEGMENT, REST, Attribute, Condition
from xds.api.istio_authorization import Alternative, Rule
from xds.explain.match import Request, without_query
from xds.explain.tokens import Claims, strings

Truth = bool | None
"""None: what only a running proxy knows decides."""

_SPIFFE: Final = "spiffe://"
_CLAIMS: Final = {Attribute.AUDIENCE: ("aud",), Attribute.PRESENTER: ("azp",)}
"""The claims that have names of their own."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request at a port: who brings it (identity empty: plaintext; addresses empty: unknown), and what it asks.

    ``claims`` are those of the token that counts; ``healthy`` has the number of endpoints of each cluster that may be
    asked about it.
    """

    request: Request
    identity: str
    ip: str
    address: str
    port: int
    sni: str
    claims: Claims = field(default_factory=dict[str, object])
    healthy: Mapping[str, int] = field(default_factory=dict[str, int])


def matches(rule: Rule, arrival: Arrival, *, allows: bool) -> Truth:
    """Return whether a rule matches; of sources and of operations one must hold, of conditions all."""
    parts = [
        _one_of(_all_of(_truths(part, arrival, allows=allows)) for part in group) for group in groups(rule)
    ]
    return _all_of((*parts, *_truths(rule.when, arrival, allows=allows)))


def groups(rule: Rule) -> list[tuple[Alternative, ...]]:
    """Return the alternatives of which one must hold, of each kind."""
    return [group for group in (rule.sources, rule.operations) if group]


def _truths(part: Alternative, arrival: Arrival, *, allows: bool) -> list[Truth]:
    return [holds(condition, arrival, allows=allows) for condition in part]


def _all_of(truths: Iterable[Truth]) -> Truth:
    found = list(truths)
    return False if False in found else None if None in found else True


def _one_of(truths: Iterable[Truth]) -> Truth:
    found = list(truths)
    return True if True in found else None if None in found else False


# -- one condition -----------------------------------------------------------------------------


def holds(condition: Condition, arrival: Arrival, *, allows: bool) -> Truth:
    """Return whether a condition holds; a negation in a rule that allows asks for an identity where it is about one."""
    if _is_unknown(condition.attribute, arrival):
        return None
    takes = partial(_is_one, condition, arrival)
    if condition.values and not any(map(takes, condition.values)):
        return False
    if not condition.not_values:
        return True
    if allows and condition.attribute.is_identity and not arrival.identity:
        return False
    return not any(map(takes, condition.not_values))


def _is_unknown(attribute: Attribute, arrival: Arrival) -> bool:
    """Tell whether only the running proxy knows: an address that nobody has named."""
    names = {name for name, _ in arrival.request.headers}
    if attribute is Attribute.REMOTE_IP:
        return "x-forwarded-for" in names or not arrival.ip
    return attribute is Attribute.SOURCE_IP and not arrival.ip


def _is_one(condition: Condition, arrival: Arrival, text: str) -> bool:
    """Tell whether the request has, of what a condition looks at, a value that one of its texts takes."""
    compare = _COMPARISONS.get(condition.attribute, _compared)
    return any(compare(text, value) for value in values(condition, arrival))


def values(condition: Condition, arrival: Arrival) -> list[str]:
    """Return what a request has of what a condition looks at."""
    request = arrival.request
    if condition.attribute is Attribute.HEADER:
        return request.header(condition.key[0].lower())
    if condition.attribute.is_identity:
        return _identities(condition.attribute, arrival.identity)
    if condition.attribute is Attribute.REQUEST_PRINCIPAL:
        issuer, subject = arrival.claims.get("iss"), arrival.claims.get("sub")
        return [f"{issuer}/{subject}"] if isinstance(subject, str) and subject else []
    if condition.attribute in {Attribute.CLAIM, *_CLAIMS}:
        return _claim(arrival.claims, _CLAIMS.get(condition.attribute, condition.key))
    found = {
        Attribute.SOURCE_IP: arrival.ip,
        Attribute.REMOTE_IP: arrival.ip,
        Attribute.DESTINATION_IP: arrival.address,
        Attribute.PORT: str(arrival.port),
        Attribute.SNI: arrival.sni,
        Attribute.HOST: request.authority,
        Attribute.METHOD: request.method,
        Attribute.PATH: without_query(request.path),
    }.get(condition.attribute)
    return [] if found is None else [found]


def _claim(claims: Claims, path: Iterable[str]) -> list[str]:
    """Return the texts at a path of claims."""
    found: object = claims
    for name in path:
        found = cast("Claims", found).get(name) if isinstance(found, dict) else None
    return strings(found)


def _identities(attribute: Attribute, identity: str) -> list[str]:
    """Return a peer's name in the form of an attribute, nothing for one without identity."""
    whole = identity.removeprefix(_SPIFFE)
    _, _, rest = whole.partition("/ns/")
    namespace, _, account = rest.partition("/sa/")
    if not (namespace and account):
        return []
    if attribute is Attribute.PRINCIPAL:
        return [whole]
    return [namespace if attribute is Attribute.NAMESPACE else f"{namespace}/{account}"]


def _compared(text: str, value: str) -> bool:
    """Compare as Istio's texts say: exact, ``prefix*``, ``*suffix``, and ``*`` for anything but nothing."""
    if text == "*":
        return bool(value)
    if text.startswith("*"):
        return value.endswith(text[1:])
    return value.startswith(text[:-1]) if text.endswith("*") else value == text


def _is_within(text: str, value: str) -> bool:
    return ip_address(value) in ip_network(text)


def _is_host(text: str, value: str) -> bool:
    return _compared(text.lower(), value.lower())


def _is_equal(text: str, value: str) -> bool:
    return text == value


def _is_namespace(text: str, value: str) -> bool:
    return fnmatchcase(value, text)


def _is_path(text: str, path: str) -> bool:
    if ONE_SEGMENT not in text and REST not in text:
        return _compared(text, path)
    parts = {ONE_SEGMENT: "[^/]+", REST: ".*"}
    pattern = "/".join(parts.get(part) or re.escape(part) for part in text.split("/"))
    return re.fullmatch(pattern, path, re.DOTALL) is not None


_COMPARISONS: Final[dict[Attribute, Callable[[str, str], bool]]] = {
    Attribute.NAMESPACE: _is_namespace,
    Attribute.SERVICE_ACCOUNT: _is_equal,
    Attribute.SOURCE_IP: _is_within,
    Attribute.REMOTE_IP: _is_within,
    Attribute.DESTINATION_IP: _is_within,
    Attribute.PORT: _is_equal,
    Attribute.HOST: _is_host,
    Attribute.PATH: _is_path,
}
"""How a text is compared where it is not as most are."""
