"""Who may come in, as a port of a workload must be told: the rules of every action, by name, in one frozen value.

It owns the form of that value and what is left of it where only bytes are seen; it must never widen it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from xds.api.conditions import Condition
from xds.api.istio_authorization import Alternative, Rule
from xds.api.istio_jwt import JwtRule
from xds.api.providers import ExtAuthzGrpc, ExtAuthzHttp

PolicyName = tuple[str, str, str]
"""Kind, namespace and name of a policy."""


@dataclass(frozen=True, slots=True)
class Named:
    """A rule, and what decides by it: ``AuthorizationPolicy/NAMESPACE/NAME/INDEX``."""

    name: str
    rule: Rule


@dataclass(frozen=True, slots=True)
class Issuer:
    """Whose tokens are verified, by name ``RequestAuthentication/NAMESPACE/NAME/INDEX``.

    ``cluster`` is where keys are fetched that the rule does not hold itself.
    """

    name: str
    rule: JwtRule
    cluster: str = ""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of somebody else: requests that one of the rules matches; ``cluster`` is where that one is."""

    provider: ExtAuthzHttp | ExtAuthzGrpc
    cluster: str
    rules: tuple[Named, ...]


@dataclass(frozen=True, slots=True)
class Access:
    """What must hold, in this order: tokens are valid, ``asked`` agrees, no rule of ``deny`` matches, one of ``allow``.

    Where ``unverified`` is not empty, tokens should be verified and nobody knows how: no request passes.
    ``allow`` is None where no policy allows, so that everything may pass, and empty where one allows nothing.
    ``audit``, ``tried_deny`` and ``tried_allow`` decide nothing: their verdicts are told.
    """

    issuers: tuple[Issuer, ...] = ()
    unverified: tuple[Named, ...] = ()
    asked: tuple[Asked, ...] = ()
    deny: tuple[Named, ...] = ()
    allow: tuple[Named, ...] | None = None
    audit: tuple[Named, ...] = ()
    tried_deny: tuple[Named, ...] = ()
    tried_allow: tuple[Named, ...] | None = None
    allowing: tuple[str, ...] = ()
    """The policies, with and without rules, because of which ``allow`` is not None: ``KIND/NAMESPACE/NAME``."""

    def policies(self) -> set[PolicyName]:
        """Return every policy that has a say, or whose verdict is told."""
        rules = (*self.unverified, *self.deny, *(self.allow or ()))
        rules += (*self.audit, *self.tried_deny, *(self.tried_allow or ()))
        rules += tuple(named for asked in self.asked for named in asked.rules)
        named = (*self.allowing, *(one.name for one in (*rules, *self.issuers)))
        return {policy_of(name) for name in named}

    def on_bytes(self) -> Access:
        """Return what holds for a connection whose requests nobody reads.

        A rule that allows and asks for anything of a request never matches; of one that denies that part is dropped,
        so that it denies more. Who can only be asked about requests denies bytes.
        """
        asked = [replace(found, rules=tuple(map(_wider, found.rules))) for found in self.asked]
        lost = (named for found in asked if isinstance(found.provider, ExtAuthzHttp) for named in found.rules)
        return Access(
            asked=tuple(found for found in asked if isinstance(found.provider, ExtAuthzGrpc)),
            deny=(*lost, *(_wider(named) for named in self.deny)),
            allow=_narrower(self.allow),
            audit=tuple(_wider(named) for named in self.audit),
            tried_deny=tuple(_wider(named) for named in self.tried_deny),
            tried_allow=_narrower(self.tried_allow),
            allowing=self.allowing,
        )


OPEN: Final = Access()
"""Nobody has said anything: everything passes."""


def policy_of(name: str) -> PolicyName:
    """Return the policy of the name of a rule, or of its own."""
    kind, namespace, policy, *_ = name.split("/")
    return kind, namespace, policy


def reads_requests(rule: Rule) -> bool:
    """Tell whether a rule asks for anything that only a request has."""
    parts = (*rule.sources, *rule.operations, rule.when)
    return any(condition.attribute.is_http for part in parts for condition in part)


def closed_deny(rule: Rule) -> Rule:
    """Return a rule that denies, without conditions that ask nothing: readers refuse them, and they must not open.

    A source or operation of which nothing is left stands for any.
    """
    return Rule(
        sources=_any_of(tuple(_asking(part) for part in rule.sources)),
        operations=_any_of(tuple(_asking(part) for part in rule.operations)),
        when=_asking(rule.when),
    )


def closed_allow(rule: Rule) -> Rule | None:
    """Return a rule that allows, without sources and operations that ask nothing; None where it must not match."""
    sources, operations = (
        tuple(part for part in parts if part and part == _asking(part))
        for parts in (rule.sources, rule.operations)
    )
    is_void = rule.when != _asking(rule.when)
    is_void |= bool(rule.sources and not sources) or bool(rule.operations and not operations)
    return None if is_void else Rule(sources, operations, rule.when)


def _asking(part: Alternative) -> Alternative:
    return tuple(condition for condition in part if condition.values or condition.not_values)


def _any_of(parts: tuple[Alternative, ...]) -> tuple[Alternative, ...]:
    """Return the alternatives; where one of them is always true, none is needed."""
    return parts if all(parts) else ()


def _wider(named: Named) -> Named:
    rule = named.rule
    return replace(
        named,
        rule=Rule(
            sources=_any_of(tuple(_of_bytes(part) for part in rule.sources)),
            operations=_any_of(tuple(_of_bytes(part) for part in rule.operations)),
            when=_of_bytes(rule.when),
        ),
    )


def _of_bytes(part: Alternative) -> Alternative:
    return tuple(condition for condition in part if not _is_of_requests(condition))


def _is_of_requests(condition: Condition) -> bool:
    return condition.attribute.is_http


def _narrower(allow: tuple[Named, ...] | None) -> tuple[Named, ...] | None:
    return None if allow is None else tuple(named for named in allow if not reads_requests(named.rule))
