"""Where a request brings a token that somebody at its destination verifies.

It owns the places of a rule; it must never read a token.
"""

from __future__ import annotations

from collections.abc import Iterable

from xds.access import Issuer
from xds.api.istio_jwt import JwtRule
from xds.explain.match import Request


def carried(issuers: Iterable[Issuer], request: Request) -> Issuer | None:
    """Return the first whose place for tokens is not empty in a request, None where the request brings none."""
    return next((one for one in issuers if _has(one.rule, request)), None)


def _has(rule: JwtRule, request: Request) -> bool:
    is_anywhere = not (rule.headers or rule.params or rule.cookies)
    headers = (("authorization", "Bearer "),) if is_anywhere else rule.headers
    params = ("access_token",) if is_anywhere else rule.params
    if any(value.startswith(prefix) for name, prefix in headers for value in request.header(name.lower())):
        return True
    pairs = request.path.partition("?")[2].split("&")
    if any(pair.partition("=")[0] in params for pair in pairs):
        return True
    cookies = "; ".join(request.header("cookie")).split(";")
    return any(cookie.strip().partition("=")[0] in rule.cookies for cookie in cookies)
