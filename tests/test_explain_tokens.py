"""What `proa explain` makes of tokens and of those who are asked: who counts, who refuses, what is still open."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests import access_tokens as tokens
from tests.test_explain import NOW, Shop
from xds.explain.answer import Authorization

OURS = "https://issuer.example.com"
LATER = NOW + 600

POLICIES = """
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: known, namespace: shop}
spec:
  rules: [{from: [{source: {requestPrincipals: ["https://issuer.example.com/alice"]}}]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-admin, namespace: shop}
spec: {action: DENY, rules: [{to: [{operation: {paths: [/admin*]}}]}]}
"""


def authentication(*rules: dict[str, Any]) -> str:
    """Return a RequestAuthentication for everybody of the namespace; a rule has the keys of seed 1 unless it says."""
    keyed = [rule if "jwksUri" in rule else {"jwks": tokens.jwks(1), **rule} for rule in rules]
    return json.dumps(
        {
            "apiVersion": "security.istio.io/v1",
            "kind": "RequestAuthentication",
            "metadata": {"name": "ours", "namespace": "shop"},
            "spec": {"jwtRules": [{"issuer": OURS, **rule} for rule in keyed]},
        }
    )


def token(seed: int = 1, **claims: Any) -> str:
    """Return a token of our issuer for alice."""
    return tokens.sign({"iss": OURS, "sub": "alice", "exp": LATER, **claims}, seed)


def ask(tmp_path: Path, manifests: str, *headers: str, request: str = "GET /x") -> Authorization:
    """Return the verdict of a request of the client's."""
    found = Shop(tmp_path, manifests).ask("client.shop", "orders", request, *headers)
    return found.targets[0].authorization


@pytest.mark.parametrize(
    ("claims", "seed", "verdict", "status", "words"),
    [
        ({}, 1, "allow", "", "AuthorizationPolicy shop/known rules[0] allows it"),
        ({"sub": "bob"}, 1, "deny", "403", f"request.auth.principal is {OURS}/bob, asked is {OURS}/alice"),
        ({"exp": NOW - 61}, 1, "deny", "401", "expired at 2027-01-15T07:58:59Z"),
        ({"exp": NOW - 60}, 1, "allow", "", "allows it"),
        ({"nbf": NOW + 61}, 1, "deny", "401", "is valid from 2027-01-15T08:01:01Z on"),
        ({"nbf": NOW + 60}, 1, "allow", "", "allows it"),
        ({"exp": "soon"}, 1, "deny", "401", "its exp is no time"),
        ({"iss": "https://other"}, 1, "deny", "401", f"its issuer is https://other, asked is {OURS}"),
        ({"aud": ["x"]}, 1, "deny", "403", "its audience is x, asked is orders"),
        ({"aud": ["x", "https://orders/"]}, 1, "allow", "", "allows it"),
        ({}, 2, "deny", "401", "no key of the rule has signed it"),
    ],
)
def test_a_token_is_looked_at_as_a_sidecar_does(  # noqa: PLR0913, PLR0917 -- a table
    tmp_path: Path, claims: dict[str, Any], seed: int, verdict: str, status: str, words: str
) -> None:
    """Issuer, times with a minute for clocks that differ, audience and signature; the rules then see its claims."""
    brought = token(seed, **{"aud": "orders", **claims})
    manifests = authentication({"audiences": ["orders"]}) + POLICIES

    found = ask(tmp_path, manifests, f"authorization: Bearer {brought}")

    assert (found.verdict, found.status) == (verdict, status)
    assert words in found.reason


@pytest.mark.parametrize(
    ("headers", "request_", "result"),
    [
        (("authorization: Bearer TOKEN",), "GET /x", "no token"),
        (("x-token: T TOKEN",), "GET /x", "subject alice"),
        (("x-token: TOKEN",), "GET /x", "no token"),
        (("cookie: a=b; c=TOKEN",), "GET /x", "subject alice"),
        ((), "GET /x?t=TOKEN", "subject alice"),
        (
            (),
            "GET /x?t=nonsense",
            "refused: is no token in compact form (three parts with dots between them)",
        ),
        (("x-token: T TOKEN",), "GET /x?t=a.b.c", "refused: does not decode as a token"),
    ],
)
def test_a_token_is_looked_for_where_a_rule_says(
    tmp_path: Path, headers: tuple[str, ...], request_: str, result: str
) -> None:
    """In these places and in no other; every token that a rule finds must be valid."""
    places = {"fromHeaders": [{"name": "X-Token", "prefix": "T "}], "fromParams": ["t"], "fromCookies": ["c"]}
    filled = [text.replace("TOKEN", token()) for text in (*headers, request_)]

    found = ask(tmp_path, authentication(places), *filled[:-1], request=filled[-1])

    (check,) = found.tokens
    assert check.result == result
    assert check.rule == "RequestAuthentication shop/ours jwtRules[0]"
    assert check.places == ("header x-token T", "parameter t", "cookie c")


@pytest.mark.parametrize(
    ("path", "claims", "verdict", "policy"),
    [
        ("/x", {}, "depends", "RequestAuthentication shop/ours"),
        ("/x", {"sub": "bob"}, "deny", "AuthorizationPolicy shop/known"),
        ("/x", {"exp": NOW - 90}, "deny", "RequestAuthentication shop/ours"),
        ("/admin", {}, "deny", "AuthorizationPolicy shop/no-admin"),
    ],
)
def test_keys_that_sidecars_fetch_are_not_made_up(
    tmp_path: Path, path: str, claims: dict[str, Any], verdict: str, policy: str
) -> None:
    """Whose key has signed it is open; what is refused whatever comes of that is refused."""
    uri = "http://keys.example.com/keys"
    brought = f"authorization: Bearer {token(9, **claims)}"

    found = ask(tmp_path, authentication({"jwksUri": uri}) + POLICIES, brought, request=f"GET {path}")

    assert (found.verdict, found.policy) == (verdict, policy)
    assert found.tokens[0].keys == f"fetched by the sidecar from {uri}"
    assert (f"the sidecar fetches the keys from {uri}" in found.reason) is (verdict == "depends")


def test_one_of_several_rules_is_enough(tmp_path: Path) -> None:
    """What one issuer's rule does not take another's may; each rule says what it makes of it."""
    other = {"issuer": "https://other", "jwks": tokens.jwks(2)}
    brought = f"authorization: Bearer {token(2, iss='https://other')}"

    found = ask(tmp_path, authentication({}, other), brought)

    assert found.verdict == "allow"
    assert [check.result for check in found.tokens] == [
        f"refused: its issuer is https://other, asked is {OURS}",
        "subject alice",
    ]


PROVIDER = """
apiVersion: v1
kind: ConfigMap
metadata: {name: proa, namespace: proa-system}
data:
  mesh: |
    extensionProviders:
    - {name: judge, envoyExtAuthzKIND: {service: HOST, port: 80, timeout: 2s OPTIONS}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: ask, namespace: shop}
spec:
  action: CUSTOM
  provider: {name: judge}
  rules: [{to: [{operation: {paths: [/asked*]}}]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-post, namespace: shop}
spec: {action: DENY, rules: [{to: [{operation: {methods: [POST]}}]}]}
"""
KNOWN, NOWHERE = "orders.shop.svc.cluster.local", "nowhere.example.com"


@pytest.mark.parametrize(
    ("request_", "host", "options", "verdict", "status", "policy"),
    [
        ("GET /x", KNOWN, "", "allow", "", ""),
        ("GET /asked", KNOWN, "", "depends", "", "AuthorizationPolicy shop/ask"),
        ("POST /asked", KNOWN, "", "deny", "403", "AuthorizationPolicy shop/no-post"),
        ("GET /asked", NOWHERE, "", "deny", "403", "AuthorizationPolicy shop/ask"),
        ("GET /asked", NOWHERE, ', statusOnError: "503"', "deny", "503", "AuthorizationPolicy shop/ask"),
        ("GET /asked", NOWHERE, ", failOpen: true", "allow", "", ""),
        ("POST /asked", NOWHERE, ", failOpen: true", "deny", "403", "AuthorizationPolicy shop/no-post"),
    ],
)
def test_who_is_asked_is_named(  # noqa: PLR0913, PLR0917 -- a table
    tmp_path: Path, request_: str, host: str, options: str, verdict: str, status: str, policy: str
) -> None:
    """A provider that runs may say either; of one without endpoints the fail mode decides."""
    manifests = PROVIDER.replace("KIND", "Http").replace("HOST", host).replace(" OPTIONS", options)

    found = ask(tmp_path, manifests, request=request_)

    assert (found.verdict, found.status, found.policy) == (verdict, status, policy)


@pytest.mark.parametrize(
    ("kind", "options", "no", "silence"),
    [
        ("Http", "", "its own status", "403, after at most 2000 ms"),
        ("Grpc", "", "the status that it names, else 403", "403, after at most 2000 ms"),
        ("Http", ", failOpen: true", "its own status", "as after yes (failOpen), after at most 2000 ms"),
    ],
)
def test_what_follows_each_answer_is_told(
    tmp_path: Path, kind: str, options: str, no: str, silence: str
) -> None:
    """After yes the rules decide, after no the provider has, and silence is the fail mode's."""
    manifests = PROVIDER.replace("KIND", kind).replace("HOST", KNOWN).replace(" OPTIONS", options)

    (asking,) = ask(tmp_path, manifests, request="GET /asked").asked

    assert (asking.rule, asking.provider) == ("AuthorizationPolicy shop/ask rules[0]", "judge")
    assert (asking.service, asking.healthy) == (f"{KNOWN}:80", 2)
    assert asking.on_yes == "allow: no policy denies it, and none allows only others"
    assert (asking.on_no, asking.on_silence) == (no, silence)
