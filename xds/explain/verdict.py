"""Whether the rules in front of an application let a request in, who decides that, and what else may.

It owns an evaluator of `xds.access.Access`, checked against a real Envoy; it must never read policies as users wrote
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from msgspec import structs

from xds.access import Access, Asked, Named, policy_of
from xds.api.conditions import Condition
from xds.api.istio_authorization import Rule
from xds.api.providers import ExtAuthzHttp
from xds.explain import tokens
from xds.explain.answer import Asking, Authorization
from xds.explain.conditions import Arrival, groups, holds, matches, values
from xds.explain.tokens import Verified

_SURE_FIRST: Final = (True, None, False)

_FETCHED: Final = (
    "the sidecar fetches the keys from {}, and answers 401 where none of them has signed the token"
)


def decide(access: Access, arrival: Arrival, now_s: float) -> Authorization:
    """Return the verdict, the rule that decided, and for a refusal by absence the rule that came nearest."""
    if access.unverified:
        policy = _policy(access.unverified[0])
        reason = f"{policy} cannot be read, so that no request passes until it can"
        return _denied(policy, reason)
    token = tokens.verify(access.issuers, arrival.request, now_s)
    if token.refused is not None:
        refusals = "; ".join(
            f"{one.rule} takes no such token: {one.result.removeprefix('refused: ')}"
            for one in token.checks
            if one.result.startswith("refused")
        )
        return Authorization("deny", token.by, refusals, token.refused.status, token.checks)
    arrival = replace(arrival, claims=token.claims)
    by_rules = _by_rules(access, arrival)
    questions = [found for asked in access.asked if (found := _question(asked, arrival, by_rules))]
    verdict = structs.replace(by_rules, tokens=token.checks, asked=tuple(one.shown for one in questions))
    if by_rules.verdict == "deny":  # whatever others say; the status may be theirs
        return structs.replace(verdict, reason=by_rules.reason + _of_token(by_rules, token, access))
    return _by_others(verdict, token, questions) or verdict


def _by_others(
    verdict: Authorization, token: Verified, questions: Sequence[_Question]
) -> Authorization | None:
    """Return what is still open of a request that the rules let in: a signature, somebody's word; None: nothing is."""
    silent = next((one for one in questions if one.is_sure and one.is_silent and not one.opens), None)
    if silent is not None:
        shown = silent.shown
        reason = f"{shown.rule} asks provider {shown.provider}, and {shown.service} has no endpoint: nobody answers"
        return structs.replace(
            verdict,
            verdict="deny",
            policy=shown.rule.partition(" rules")[0],
            reason=reason,
            status=str(silent.status),
        )
    conditions: list[tuple[str, str]] = []
    if token.unproven is not None:
        uri = token.unproven.rule.uri
        url = uri.uri if uri else ""
        conditions.append((token.by, f"{tokens.said(token.unproven)}: {_FETCHED.format(url)}"))
    conditions += [
        (
            one.shown.rule.partition(" rules")[0],
            f"{one.shown.rule} asks provider {one.shown.provider} at {one.shown.service}",
        )
        for one in questions
        if not (one.is_silent and one.opens)
    ]
    if not conditions:
        return None
    if verdict.verdict == "depends":
        conditions.append((verdict.policy, verdict.reason))
    return structs.replace(
        verdict,
        verdict="depends",
        policy=" and ".join(dict.fromkeys(policy for policy, _ in conditions)),
        reason="; ".join(reason for _, reason in conditions),
    )


@dataclass(frozen=True, slots=True)
class _Question:
    """Somebody who is asked, or may be (not ``is_sure``), and what holds where nobody answers."""

    shown: Asking
    is_sure: bool
    opens: bool
    status: int

    @property
    def is_silent(self) -> bool:
        return not self.shown.healthy


def _question(asked: Asked, arrival: Arrival, by_rules: Authorization) -> _Question | None:
    """Return who is asked about a request, by the first rule that does, else by the first that may; None: nobody is."""
    found = [(named, matches(named.rule, arrival, allows=False)) for named in asked.rules]
    named, truth = next(iter(sorted(found, key=lambda pair: _SURE_FIRST.index(pair[1]))))
    if truth is False:
        return None
    who = asked.provider
    silence = "as after yes (failOpen)" if who.fail_open else str(who.status_on_error)
    shown = Asking(
        rule=_said(named),
        provider=who.name,
        service=f"{who.service}:{who.service.port}",
        healthy=arrival.healthy.get(asked.cluster, 0),
        on_yes=f"{by_rules.verdict}: {by_rules.reason}",
        on_no="its own status" if isinstance(who, ExtAuthzHttp) else "the status that it names, else 403",
        on_silence=f"{silence}, after at most {who.timeout_ms:g} ms",
    )
    return _Question(shown, bool(truth), who.fail_open, who.status_on_error)


def _of_token(refusal: Authorization, token: Verified, access: Access) -> str:
    """Return why a rule about tokens finds none, where that is what a refusal is about."""
    if token.claims or "request.auth" not in refusal.reason:
        return ""
    if not access.issuers:
        return "; no RequestAuthentication holds there, so that no token counts"
    places = dict.fromkeys(place for check in token.checks for place in check.places)
    return f"; the request brings no token in {' or '.join(places)}"


def _by_rules(access: Access, arrival: Arrival) -> Authorization:
    denying = [(named, matches(named.rule, arrival, allows=False)) for named in access.deny]
    for named, truth in denying:
        if truth:
            return _denied(_policy(named), f"{_said(named)} denies it: {_asks(named.rule)}")
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
    return _nearest(access.allow, arrival) if access.allow else _nothing(access)


# -- words ---------------------------------------------------------------------------------------


def _denied(policy: str, reason: str) -> Authorization:
    return Authorization("deny", policy, reason, tokens.FORBIDDEN)


def _unsure(named: Named) -> Authorization:
    reason = f"only the running proxy knows whether {_said(named)} matches: {_asks(named.rule)}"
    return Authorization("depends", _policy(named), reason)


def _nothing(access: Access) -> Authorization:
    """Return the refusal of policies that allow, and have no rule that could."""
    policies = ["{} {}/{}".format(*policy_of(name)) for name in access.allowing]
    reason = f"{' and '.join(policies)} must allow it, and no rule there can allow anything"
    return _denied(policies[0], reason)


def _nearest(allow: tuple[Named, ...], arrival: Arrival) -> Authorization:
    """Return the refusal of what no rule allows, with the rule of which the fewest conditions fail."""
    missed = [(named, _failing(named.rule, arrival)) for named in allow]
    named, failing = min(missed, key=lambda pair: len(pair[1]))
    words = ", ".join(f"{_seen(one, arrival)}, asked is {_text(one)}" for one in failing)
    reason = f"no rule of the policies that allow matches; nearest is {_said(named)}: {words}"
    return _denied(_policy(named), reason)


def _failing(rule: Rule, arrival: Arrival) -> list[Condition]:
    out = [one for one in rule.when if not holds(one, arrival, allows=True)]
    for group in groups(rule):
        parts = [[one for one in part if not holds(one, arrival, allows=True)] for part in group]
        out += min(parts, key=len)
    return out


def _seen(condition: Condition, arrival: Arrival) -> str:
    """Return what the request has of what a condition looks at."""
    absent = "without identity (plaintext)" if condition.attribute.is_identity else "absent"
    return f"{_named(condition)} is {', '.join(values(condition, arrival)) or absent}"


def _asks(rule: Rule) -> str:
    """Return what a rule asks of a request."""
    parts = [" or ".join(", ".join(map(_full, part)) for part in group) for group in groups(rule)]
    return "; ".join([*parts, *map(_full, rule.when)]) or "every request"


def _full(condition: Condition) -> str:
    return f"{_named(condition)} {_text(condition)}"


def _named(condition: Condition) -> str:
    return condition.attribute.value + "".join(f"[{part}]" for part in condition.key)


def _text(condition: Condition) -> str:
    wanted = " or ".join(condition.values)
    unwanted = " or ".join(condition.not_values)
    return " and ".join(part for part in (wanted, f"not {unwanted}" if unwanted else "") if part)


def _policy(named: Named) -> str:
    return "{} {}/{}".format(*policy_of(named.name))


def _said(named: Named) -> str:
    return f"{_policy(named)} rules[{named.name.rpartition('/')[2]}]"
