"""Tokens that a request brings where somebody at its destination looks for one, and what becomes of them there.

It owns a reading of tokens that is Envoy's (``jwt_authn``), checked against a real one; it must never fetch a key, and
never take a token for valid that it cannot verify.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.cookies import CookieError, SimpleCookie
from typing import Any, Final, cast
from urllib.parse import parse_qsl

from xds.access import Issuer, policy_of
from xds.api.istio_jwt import JwtRule
from xds.explain.answer import TokenCheck
from xds.explain.match import Request

Claims = Mapping[str, object]

UNAUTHENTICATED: Final = "401"
FORBIDDEN: Final = "403"
"""What Envoy answers to a token that it does not take: the second to one that is for another audience."""

_SKEW_S: Final = 60
"""By how much clocks may differ: the default of ``JwtProvider.clock_skew_seconds``, which we leave."""

_SPACED: Final = ("scope", "permission")
"""Claims whose text is a list of words, whatever a rule says (`xds.resources.tokens`)."""

_BEARER: Final = ("authorization", "Bearer ")
_PARAMETER: Final = "access_token"
"""Where a token is looked for by a rule that says nothing of it."""

_COMPACT: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_WORD: Final = re.compile(r"[A-Za-z0-9_.-]+")
_SCHEME: Final = re.compile(r"https?://")


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a token is not taken, and what the sender gets. ``weighs`` tells one that is for nobody else to judge."""

    reason: str
    status: str = UNAUTHENTICATED
    weighs: bool = True


@dataclass(frozen=True, slots=True)
class Verified:
    """What all rules together make of a request.

    ``claims`` are those of the token that counts, empty for none; ``unproven`` names the rule whose keys only proxies
    hold, so that the claims count if one of those has signed them. ``refused``: the request ends here.
    """

    checks: tuple[TokenCheck, ...] = ()
    claims: Claims = field(default_factory=dict[str, object])
    unproven: Issuer | None = None
    refused: Refused | None = None
    by: str = ""
    """The object of the rule that takes or refuses the token."""


def verify(issuers: Sequence[Issuer], request: Request, now_s: float) -> Verified:
    """Return what becomes of the tokens of a request at a time of the epoch; of several rules one has to take them."""
    found = [(issuer, _judged(issuer, request, now_s)) for issuer in issuers]
    checks = tuple(_check(issuer, result) for issuer, result in found)
    taken = [(issuer, result) for issuer, result in found if isinstance(result, Mapping)]
    taken.sort(key=lambda pair: pair[0].rule.uri is not None)
    for issuer, claims in taken:
        is_proven = issuer.rule.uri is None
        spaced = _split(claims, (*_SPACED, *issuer.rule.spaced))
        return Verified(checks, spaced, None if is_proven else issuer, by=object_of(issuer))
    refused = [(issuer, result) for issuer, result in found if isinstance(result, Refused)]
    if not refused:
        return Verified(checks)
    issuer, last = next((pair for pair in reversed(refused) if pair[1].weighs), refused[-1])
    return Verified(checks, refused=last, by=object_of(issuer))


def object_of(issuer: Issuer) -> str:
    """Return the object of a rule, ``RequestAuthentication NAMESPACE/NAME``."""
    return "{} {}/{}".format(*policy_of(issuer.name))


def said(issuer: Issuer) -> str:
    """Return the object of a rule and its place in it."""
    return f"{object_of(issuer)} jwtRules[{issuer.name.rpartition('/')[2]}]"


def _check(issuer: Issuer, result: Claims | Refused | None) -> TokenCheck:
    rule = issuer.rule
    match result:
        case None:
            words = "no token"
        case Refused():
            words = f"refused: {result.reason}"
        case _:
            words = f"subject {_shown(result.get('sub'))}"
            words += f", if a key of {rule.uri.uri} has signed it" if rule.uri else ""
    return TokenCheck(
        rule=said(issuer),
        issuer=rule.issuer,
        audiences=rule.audiences,
        places=tuple(_places(rule)),
        keys=f"fetched by the sidecar from {rule.uri.uri}" if rule.uri else "in the rule",
        result=words,
    )


# -- where tokens are --------------------------------------------------------------------------


def _is_anywhere(rule: JwtRule) -> bool:
    return not (rule.headers or rule.params or rule.cookies)


def _places(rule: JwtRule) -> Iterator[str]:
    """Yield in words where a rule looks for a token."""
    if _is_anywhere(rule):
        yield f"header {_BEARER[0]} {_BEARER[1].strip()}"
        yield f"parameter {_PARAMETER}"
    for name, prefix in rule.headers:
        yield f"header {name.lower()} {prefix}".strip()
    yield from (f"parameter {name}" for name in rule.params)
    yield from (f"cookie {name}" for name in rule.cookies)


def _tokens(rule: JwtRule, request: Request) -> Iterator[str]:
    """Yield the texts that a rule takes for tokens."""
    is_anywhere = _is_anywhere(rule)
    for name, prefix in (_BEARER,) if is_anywhere else sorted(rule.headers):
        values = request.header(name.lower())
        text = ",".join(values)  # as Envoy reads a header of several lines
        before, mark, after = text.partition(prefix) if prefix else ("", "", text)
        if values and (mark or not prefix):
            word = _WORD.search(after) if prefix else None
            yield word[0] if word else before + mark + after
    pairs = parse_qsl(request.path.partition("?")[2], keep_blank_values=True)
    for name in (_PARAMETER,) if is_anywhere else rule.params:
        yield from [value for key, value in pairs if key == name][:1]
    for name in rule.cookies:
        yield from _cookie(name, request)


def _cookie(name: str, request: Request) -> list[str]:
    try:
        found = SimpleCookie("; ".join(request.header("cookie"))).get(name)
    except CookieError:
        return []
    return [found.value] if found is not None else []


# -- what they say -----------------------------------------------------------------------------


def _judged(issuer: Issuer, request: Request, now_s: float) -> Claims | Refused | None:
    """Return what one rule makes of a request: claims, a refusal, or None where it finds no token."""
    claims: Claims | None = None
    # Every one of them has to be valid, and Envoy begins with the last that it has found.
    for token in reversed(list(_tokens(issuer.rule, request))):
        result = _claims(issuer.rule, token, now_s)
        if isinstance(result, Refused):
            return result
        claims = result
    return claims


def _claims(rule: JwtRule, token: str, now_s: float) -> Claims | Refused:
    if not _COMPACT.fullmatch(token):
        return Refused("is no token in compact form (three parts with dots between them)")
    header, claims = (_decoded(part) for part in token.split(".")[:2])
    if not header or claims is None:
        return Refused("does not decode as a token")
    refused = _misfit(rule, claims, now_s)
    if refused is None and rule.uri is None and not _is_signed(rule, token, header):
        refused = Refused("no key of the rule has signed it")
    return refused or claims


def _decoded(part: str) -> Claims | None:
    """Return the JSON object of a part of a token, None where it is none."""
    try:
        found: object = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (ValueError, RecursionError):
        return None
    return cast("Claims", found) if isinstance(found, dict) else None


def _misfit(rule: JwtRule, claims: Claims, now_s: float) -> Refused | None:
    """Return what of the claims is not as a rule wants it, None where all is."""
    if claims.get("iss") != rule.issuer:
        return Refused(f"its issuer is {_shown(claims.get('iss'))}, asked is {rule.issuer}", weighs=False)
    for name in ("exp", "nbf"):
        if not _is_time(claims.get(name, 0)):
            return Refused(f"its {name} is no time")
    expires, begins = (cast("float", claims.get(name, 0)) for name in ("exp", "nbf"))
    if expires and int(expires) + _SKEW_S < now_s:
        return Refused(f"expired at {_time(expires)}")
    if begins and int(begins) > now_s + _SKEW_S:
        return Refused(f"is valid from {_time(begins)} on")
    audiences = strings(claims.get("aud"))
    wanted = {_bare(one) for one in rule.audiences}
    if wanted and not wanted & {_bare(one) for one in audiences}:
        seen = ", ".join(audiences) or "nobody"
        return Refused(f"its audience is {seen}, asked is {' or '.join(rule.audiences)}", FORBIDDEN)
    return None


def _is_signed(rule: JwtRule, token: str, header: Claims) -> bool:
    """Tell whether one of the keys of a rule has signed a token, by the algorithm that the token's header names."""
    import jwt

    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or algorithm == "none":
        return False
    for key in cast("list[dict[str, Any]]", json.loads(rule.jwks)["keys"]):
        if "kid" in header and key.get("kid", header["kid"]) != header["kid"]:
            continue
        if key.get("alg", algorithm) != algorithm:
            continue
        try:
            jwt.api_jws.decode(token, jwt.PyJWK(key, algorithm), algorithms=[algorithm])
        except (jwt.PyJWTError, ValueError, TypeError, NotImplementedError):
            continue
        return True
    return False


def strings(value: object) -> list[str]:
    """Return the texts of a claim, which may be one or a list."""
    found = cast("list[object]", value) if isinstance(value, list) else [value]
    return [one for one in found if isinstance(one, str)]


def _split(claims: Claims, spaced: Iterable[str]) -> Claims:
    """Return the claims with those of which the text is a list of words as lists."""
    named = {name: text.split(" ") for name in spaced if isinstance(text := claims.get(name), str)}
    return {**claims, **named}


def _bare(audience: str) -> str:
    """Return an audience as Envoy compares it: without scheme and trailing slash."""
    return _SCHEME.sub("", audience, count=1).removesuffix("/")


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1 << 53


def _time(epoch_s: float) -> str:
    """Return a time in words, the number itself where no calendar has it."""
    try:
        return f"{datetime.fromtimestamp(int(epoch_s), UTC):%Y-%m-%dT%H:%M:%SZ}"
    except (OverflowError, ValueError):
        return str(int(epoch_s))


def _shown(value: object) -> str:
    return value if isinstance(value, str) and value else "absent"
