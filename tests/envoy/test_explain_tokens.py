"""What `proa explain` says of tokens and of a provider's answers, against real sidecars: the same status for each."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rig import STRICT, App, MeshUnderTest
from test_access_custom import Judges, base

from tests import access_tokens as tokens
from xds.control import ControlPlane
from xds.explain.answer import Authorization
from xds.explain.facts import Facts
from xds.explain.question import read_question
from xds.explain.walk import explain
from xds.sources.directory import Directory

SEEDS = range(12)
REQUESTS = 60
"""Requests for each set of rules."""

ISSUERS = ("https://a.example.com", "https://b.example.com", "https://c.example.com")
"""The last is nobody's."""

_AUDIENCES = ("orders", "https://orders/", "billing", "x")
_PLACES: tuple[dict[str, Any], ...] = (
    {},
    {},
    {"fromHeaders": [{"name": "x-token"}]},
    {"fromHeaders": [{"name": "x-token", "prefix": "T "}, {"name": "authorization", "prefix": "Bearer "}]},
    {"fromParams": ["t"]},
    {"fromCookies": ["c"], "fromHeaders": [{"name": "x-token", "prefix": "T "}]},
)
_POLICIES = (
    "",
    "rules: [{from: [{source: {requestPrincipals: ['*']}}]}]",
    "rules: [{from: [{source: {requestPrincipals: ['*/alice']}}]}]",
    "{action: DENY, rules: [{from: [{source: {notRequestPrincipals: ['*']}}]}]}",
    "rules: [{when: [{key: 'request.auth.claims[groups]', values: [staff]}]}]",
    "{action: DENY, rules: [{when: [{key: request.auth.audiences, values: [billing]}]}]}",
    "rules: [{when: [{key: 'request.auth.claims[scope]', notValues: [write]}]}]",
)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MeshUnderTest]:
    """A client and the orders under STRICT."""
    work: Path = tmp_path_factory.mktemp("explain-tokens") / "mesh"
    made = MeshUnderTest(work, (App("web"), App("orders")), STRICT, is_insecure=False)
    try:
        yield made.start()
    finally:
        made.stop()


def _manifests(chance: random.Random) -> str:
    """Return tokens of one or two issuers, and perhaps a policy about them."""
    rules: list[dict[str, Any]] = []
    for number in range(chance.choice((1, 2, 2))):
        rule = {"issuer": chance.choice(ISSUERS[:2]), "jwks": tokens.jwks(number), **chance.choice(_PLACES)}
        if chance.random() < 0.5:
            rule["audiences"] = chance.sample(_AUDIENCES[:3], chance.choice((1, 2)))
        rules.append(rule)
    kind = {"apiVersion": "security.istio.io/v1", "kind": "RequestAuthentication"}
    found = json.dumps({**kind, "metadata": {"name": "t", "namespace": "shop"}, "spec": {"jwtRules": rules}})
    policy = chance.choice(_POLICIES)
    if policy:
        spec = policy if policy.startswith("{") else f"{{{policy}}}"
        found += (
            "\n---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n"
            f"metadata: {{name: p, namespace: shop}}\nspec: {spec}\n"
        )
    return found


def _token(chance: random.Random, now_s: float) -> str:
    claims: dict[str, Any] = {
        "iss": chance.choice((*ISSUERS[:2], *ISSUERS)),
        "sub": chance.choice(("alice", "bob")),
    }
    if chance.random() < 0.7:
        claims["aud"] = chance.choice((*_AUDIENCES, ["x", "orders"], ["billing", "https://orders"]))
    if chance.random() < 0.7:
        claims["exp"] = int(now_s) + chance.choice((600, 600, 600, -600))
    if chance.random() < 0.2:
        claims["nbf"] = int(now_s) + chance.choice((600, -600))
    if chance.random() < 0.4:
        claims["groups"] = chance.choice(("staff", ["users", "staff"], "users"))
    if chance.random() < 0.4:
        claims["scope"] = chance.choice(("read", "read write"))
    found = tokens.sign(claims, chance.choice((0, 0, 1, 1, 2)), kid=chance.choice((None, None, None, 0)))
    head, _, signature = found.rpartition(".")
    spoilt = f"{head}.{signature[::-1]}"
    return chance.choice((found, found, found, found, found, "x.y.z", spoilt, "nonsense"))


def _request(chance: random.Random, now_s: float) -> tuple[str, list[tuple[str, str]]]:
    """Return path and headers of a request with a token, or two, or none, in one of the places."""
    path, headers = "/echo", list[tuple[str, str]]()
    for _ in range(chance.choice((0, 1, 1, 1, 1, 2))):
        found = _token(chance, now_s)
        match chance.randrange(6):
            case 0 | 1:
                headers.append(
                    ("authorization", f"{chance.choice(('Bearer ', 'Bearer ', 'bearer ', ''))}{found}")
                )
            case 2:
                headers.append(("x-token", found))
            case 3:
                headers.append(("x-token", f"T {found}"))
            case 4:
                name = chance.choice(("t", "access_token"))
                path += f"{'&' if '?' in path else '?'}{name}={found}"
            case _:
                headers.append(("cookie", f"a=b; c={found}"))
    return path, list(dict(headers).items())


def _facts(mesh: MeshUnderTest, now_s: float) -> Facts:
    plane = ControlPlane()
    plane.apply(Directory(mesh.mesh.manifests).load().changes, at=0.0, now=0.0)
    return Facts(plane.plan.world, now_s)


def _told(facts: Facts, path: str, headers: Iterable[tuple[str, str]]) -> Authorization:
    question = read_question("web.shop", "orders", f"GET {path}", [": ".join(one) for one in headers])
    return explain(facts, question).targets[0].authorization


@pytest.mark.parametrize("seed", SEEDS)
def test_a_token_gets_the_status_that_is_said(mesh: MeshUnderTest, seed: int) -> None:
    """Of random rules, policies and tokens, with several of each: the status is the one that Envoy gives."""
    chance = random.Random(seed)
    mesh.edit("fault.yaml", _manifests(chance))
    now_s = time.time()
    facts = _facts(mesh, now_s)

    seen: set[str] = set()
    for _ in range(REQUESTS):
        path, headers = _request(chance, now_s)
        told = _told(facts, path, headers)
        done = str(mesh.get("web", f"http://orders{path}", headers=dict(headers)).status)
        assert (told.status or "200") == done, (path, headers, told.reason, told.tokens)
        seen.add(done)
    assert "401" in seen


_ASK = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: ask, namespace: shop}
spec: {action: CUSTOM, provider: {name: letters}, rules: [{to: [{operation: {paths: [/echo*]}}]}]}
"""


def test_each_answer_of_a_provider_does_what_is_said(mesh: MeshUnderTest) -> None:
    """After yes the rules decide, after no the provider's own status; without an answer it is the fail mode."""
    judges = Judges()
    try:
        mesh.edit(
            "fault.yaml",
            f"{base(judges).removeprefix(STRICT)}---{_ASK}",
            cause="AuthorizationPolicy shop/ask",
        )
        told = _told(_facts(mesh, 0.0), "/echo", [])
        letter = {"x-letter": "please"}
        done = [str(mesh.get("web", "http://orders/echo", headers=one).status) for one in (letter, None)]
    finally:
        judges.close()
    done.append(str(mesh.get("web", "http://orders/echo", headers=letter).status))

    (asking,) = told.asked
    assert (told.verdict, told.policy) == ("depends", "AuthorizationPolicy shop/ask")
    assert (asking.provider, asking.service) == ("letters", "http.judge.example.com:8000")
    said = asking.on_yes.partition(":")[0], asking.on_no, asking.on_silence.partition(",")[0]
    assert (said, done) == (("allow", "its own status", "403"), ["200", "403", "403"])
