"""Whether the rules in front of an application let a request in; a condition is true, false, or cannot be known here.

It owns an evaluator of `xds.access.Access`, checked against a real Envoy; it must never read policies as users wrote
them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from ipaddress import ip_address, ip_network
from typing import Final

from xds.access import Access, Named
from xds.api.conditions import ONE_SEGMENT, REST, Attribute, Condition
from xds.api.istio_authorization import Alternative, Rule
from xds.explain.answer import Authorization
from xds.explain.match import Request, without_query
from xds.explain.tokens import carried

Truth = bool | None
"""None: what only a running proxy knows decides."""

_SPIFFE: Final = "spiffe://"
_TOKENS: Final = frozenset(
    {Attribute.REQUEST_PRINCIPAL, Attribute.AUDIENCE, Attribute.PRESENTER, Attribute.CLAIM}
)


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request at a port: who brings it (identity empty: plaintext; addresses empty: unknown), and what it asks."""

    request: Request
    identity: str
    ip: str
    address: str
    port: int
    sni: str
    has_token: bool = False


def decide(access: Access, arrival: Arrival) -> Authorization:
    """Return the verdict, the rule that decided, and for a refusal by absence the rule that came nearest."""
    arrival = replace(arrival, has_token=carried(access.issuers, arrival.request) is not None)
    by_rules = _by_rules(access, arrival)
    # What the rules deny whatever others say is denied; the status may be theirs.
    return by_rules if by_rules.verdict == "deny" else _by_others(access, arrival) or by_rules


def _by_others(access: Access, arrival: Arrival) -> Authorization | None:
    """Return what decides before any rule: a token that is verified, somebody who is asked; None: nothing does."""
    if access.unverified:
        policy = _policy(access.unverified[0])
        return Authorization(
            "deny", policy, f"{policy} cannot be read, so that no request passes until it can"
        )
    token = carried(access.issuers, arrival.request)
    if token is not None:
        policy = "{} {}/{}".format(*token.name.split("/", 3))
        return Authorization(
            "depends", policy, f"only the running proxy verifies the token that {policy} asks for"
        )
    for asked in access.asked:
        for named in asked.rules:
            if matches(named.rule, arrival, allows=False) is not False:
                reason = f"{_said(named)} asks provider {asked.provider.name}: {_asks(named.rule)}"
                return Authorization("depends", _policy(named), reason)
    return None


def _by_rules(access: Access, arrival: Arrival) -> Authorization:
    denying = [(named, matches(named.rule, arrival, allows=False)) for named in access.deny]
    for named, truth in denying:
        if truth:
            return Authorization("deny", _policy(named), f"{_said(named)} denies it: {_asks(named.rule)}")
    unsure = next((named for named, truth in denying if truth is None), None)
    if unsure is not None:
        return _unsure(unsure)
    if access.allow is None:
        return Authorization("allow", "", "no policy denies it, and none allows only others")
    allowing = [(named, matches(named.rule, arrival, allows=True)) for named in access.allow]
    for named, truth in sorted(allowing, key=lambda pair: not pair[1]):
        if truth:
            return Authorization("allow", _policy(named), f"{_said(named)} allows it")
        if truth is None:
            return _unsure(named)
    return _nearest(access.allow, arrival)


def matches(rule: Rule, arrival: Arrival, *, allows: bool) -> Truth:
    """Return whether a rule matches; of sources and of operations one must hold, of conditions all."""
    parts = [
        _one_of(_all_of(_truths(part, arrival, allows=allows)) for part in group) for group in _groups(rule)
    ]
    return _all_of((*parts, *_truths(rule.when, arrival, allows=allows)))


def _groups(rule: Rule) -> list[tuple[Alternative, ...]]:
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
    if attribute in _TOKENS:
        return arrival.has_token
    names = {name for name, _ in arrival.request.headers}
    if attribute is Attribute.REMOTE_IP:
        return "x-forwarded-for" in names or not arrival.ip
    return attribute is Attribute.SOURCE_IP and not arrival.ip


def _is_one(condition: Condition, arrival: Arrival, text: str) -> bool:
    """Tell whether the request has, of what a condition looks at, a value that one of its texts takes."""
    compare = _COMPARISONS.get(condition.attribute, _compared)
    return any(compare(text, value) for value in _values(condition, arrival))


def _values(condition: Condition, arrival: Arrival) -> list[str]:
    """Return what a request has of what a condition looks at; a token's claims are none, as without a token."""
    request = arrival.request
    if condition.attribute is Attribute.HEADER:
        return request.header(condition.key[0].lower())
    if condition.attribute.is_identity:
        return _identities(condition.attribute, arrival.identity)
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


# -- words ---------------------------------------------------------------------------------------


def _unsure(named: Named) -> Authorization:
    reason = f"only the running proxy knows whether {_said(named)} matches: {_asks(named.rule)}"
    return Authorization("depends", _policy(named), reason)


def _nearest(allow: tuple[Named, ...], arrival: Arrival) -> Authorization:
    """Return the refusal of what no rule allows, with the rule of which the fewest conditions fail."""
    if not allow:
        return Authorization(
            "deny", "", "a policy of action ALLOW holds, and has no rule that can allow anything"
        )
    missed = [(named, _failing(named.rule, arrival)) for named in allow]
    named, failing = min(missed, key=lambda pair: len(pair[1]))
    words = ", ".join(f"{_seen(one, arrival)}, asked is {_text(one)}" for one in failing)
    reason = f"no rule of the policies that allow matches; nearest is {_said(named)}: {words}"
    return Authorization("deny", _policy(named), reason)


def _failing(rule: Rule, arrival: Arrival) -> list[Condition]:
    out = [one for one in rule.when if not holds(one, arrival, allows=True)]
    for group in _groups(rule):
        parts = [[one for one in part if not holds(one, arrival, allows=True)] for part in group]
        out += min(parts, key=len)
    return out


def _seen(condition: Condition, arrival: Arrival) -> str:
    """Return what the request has of what a condition looks at."""
    absent = "without identity (plaintext)" if condition.attribute.is_identity else "absent"
    return f"{_named(condition)} is {', '.join(_values(condition, arrival)) or absent}"


def _asks(rule: Rule) -> str:
    """Return what a rule asks of a request."""
    groups = [" or ".join(", ".join(map(_full, part)) for part in group) for group in _groups(rule)]
    return "; ".join([*groups, *map(_full, rule.when)]) or "every request"


def _full(condition: Condition) -> str:
    return f"{_named(condition)} {_text(condition)}"


def _named(condition: Condition) -> str:
    return condition.attribute.value + "".join(f"[{part}]" for part in condition.key)


def _text(condition: Condition) -> str:
    wanted = " or ".join(condition.values)
    unwanted = " or ".join(condition.not_values)
    return " and ".join(part for part in (wanted, f"not {unwanted}" if unwanted else "") if part)


def _policy(named: Named) -> str:
    kind, namespace, name, _ = named.name.split("/", 3)
    return f"{kind} {namespace}/{name}"


def _said(named: Named) -> str:
    return f"{_policy(named)} rules[{named.name.rpartition('/')[2]}]"
