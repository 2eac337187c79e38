"""AuthorizationPolicy and RequestAuthentication: what is read, and what is refused for opening by accident."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.fakes.objects import authorization_policy, request_authentication
from tests.fakes.taken import taken
from xds.api.conditions import Attribute, Condition
from xds.api.istio_authorization import Action, AuthorizationPolicy, Rule
from xds.api.istio_jwt import JwksUri, RequestAuthentication
from xds.api.manifest import Parsed, read, stand_in
from xds.api.targets import Target
from xds.fields import ConfigError


def policy(**spec: Any) -> AuthorizationPolicy:
    """Read a policy that must be taken."""
    return taken(authorization_policy(**spec), AuthorizationPolicy)


def when(key: str, **values: Any) -> dict[str, Any]:
    """A rule of one condition."""
    return {"when": [{"key": key, **values}]}


def source(**fields: Any) -> dict[str, Any]:
    """A rule of one source."""
    return {"from": [{"source": fields}]}


def operation(**fields: Any) -> dict[str, Any]:
    """A rule of one operation."""
    return {"to": [{"operation": fields}]}


def test_a_rule() -> None:
    """Each list becomes one condition; ServiceAccounts get the policy's namespace, ranges their canonical form."""
    rule = {
        **source(serviceAccounts=["web", "other/web"], notIpBlocks=["10.1.2.3/8"]),
        **operation(ports=["80"], notMethods=["GET"]),
        **when("request.headers[X-Team]", values=["a*"]),
    }

    assert policy(rules=[rule]).rules == (
        Rule(
            sources=(
                (
                    Condition(Attribute.SERVICE_ACCOUNT, ("shop/web", "other/web")),
                    Condition(Attribute.SOURCE_IP, (), ("10.0.0.0/8",)),
                ),
            ),
            operations=((Condition(Attribute.PORT, ("80",)), Condition(Attribute.METHOD, (), ("GET",))),),
            when=(Condition(Attribute.HEADER, ("a*",), (), ("x-team",)),),
        ),
    )


def test_targets() -> None:
    """A policy is attached to Services of its namespace; what no sidecar stands before is nobody."""
    one = {"kind": "Service", "name": "orders"}
    gateway = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "in"}

    assert policy(targetRefs=[one, gateway]).targets == (Target("Service", "orders"), Target("Gateway", "in"))
    assert policy(targetRef=one).targets == (Target("Service", "orders"),)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"rule": []}, "spec.rule"),
    ({"action": "Deny"}, "spec.action"),
    ({"action": "CUSTOM"}, "spec.provider"),
    ({"provider": {"name": "a"}}, "spec.provider"),
    (
        {"selector": {"matchLabels": {"a": "b"}}, "targetRef": {"kind": "Service", "name": "a"}},
        "spec.selector",
    ),
    ({"targetRefs": []}, "spec.targetRefs"),
    ({"targetRef": {"kind": "Pod", "name": "a"}}, "spec.targetRef.kind"),
    ({"targetRef": {"kind": "Service", "name": "a", "namespace": "b"}}, "spec.targetRef.namespace"),
    ({"rules": [{"from": []}]}, "spec.rules[0].from"),
    ({"rules": [{"from": [{}]}]}, "spec.rules[0].from[0].source"),
    ({"rules": [source()]}, "spec.rules[0].from[0].source"),
    ({"rules": [source(principals=[])]}, "spec.rules[0].from[0].source.principals"),
    ({"rules": [source(principals=[""])]}, "spec.rules[0].from[0].source.principals[0]"),
    ({"rules": [source(principals=["a\n"])]}, "spec.rules[0].from[0].source.principals[0]"),
    ({"rules": [source(principals=["spiffe://a"])]}, "spec.rules[0].from[0].source.principals[0]"),
    ({"rules": [source(namespaces=["a/b"])]}, "spec.rules[0].from[0].source.namespaces[0]"),
    ({"rules": [source(ipBlocks=["10.0.0.0/33"])]}, "spec.rules[0].from[0].source.ipBlocks[0]"),
    (
        {"rules": [source(notRemoteIpBlocks=["10.0.0"])]},
        "spec.rules[0].from[0].source.notRemoteIpBlocks[0]",
    ),
    ({"rules": [source(serviceAccounts=["*"])]}, "spec.rules[0].from[0].source.serviceAccounts[0]"),
    (
        {"rules": [source(serviceAccounts=["a"], namespaces=["b"])]},
        "spec.rules[0].from[0].source.serviceAccounts",
    ),
    ({"rules": [source(principal=["a"])]}, "spec.rules[0].from[0].source.principal"),
    ({"rules": [operation(hosts=["*."])]}, "spec.rules[0].to[0].operation.hosts[0]"),
    ({"rules": [operation(ports=["0"])]}, "spec.rules[0].to[0].operation.ports[0]"),
    ({"rules": [operation(ports=[80])]}, "spec.rules[0].to[0].operation.ports[0]"),
    ({"rules": [operation(paths=["a"])]}, "spec.rules[0].to[0].operation.paths[0]"),
    ({"rules": [operation(paths=["/a?b"])]}, "spec.rules[0].to[0].operation.paths[0]"),
    ({"rules": [operation(paths=["/a|b"])]}, "spec.rules[0].to[0].operation.paths[0]"),
    ({"rules": [operation(paths=["/{**}/{**}"])]}, "spec.rules[0].to[0].operation.paths[0]"),
    ({"rules": [operation(paths=["/{**}/{*}"])]}, "spec.rules[0].to[0].operation.paths[0]"),
    ({"rules": [operation(paths=["/{**}.txt"])]}, "spec.rules[0].to[0].operation.paths[0]"),
    ({"rules": [operation(paths=["/a{*}"])]}, "spec.rules[0].to[0].operation.paths[0]"),
    ({"rules": [operation(paths=["/{*}/a*"])]}, "spec.rules[0].to[0].operation.paths[0]"),
    ({"rules": [operation(paths=["/{a}"])]}, "spec.rules[0].to[0].operation.paths[0]"),
    ({"rules": [operation(paths=["/" + "a" * 1024])]}, "spec.rules[0].to[0].operation.paths[0]"),
    ({"rules": [when("source.ip")]}, "spec.rules[0].when[0]"),
    ({"rules": [when("source.ip", values=["x"])]}, "spec.rules[0].when[0].values[0]"),
    ({"rules": [when("source.address", values=["x"])]}, "spec.rules[0].when[0].key"),
    ({"rules": [when("request.headers", values=["x"])]}, "spec.rules[0].when[0].key"),
    ({"rules": [when("request.headers[:method]", values=["x"])]}, "spec.rules[0].when[0].key"),
    ({"rules": [when("hosts", values=["x"])]}, "spec.rules[0].when[0].key"),
    ({"rules": [when("experimental.envoy.filters.x[y]", values=["x"])]}, "spec.rules[0].when[0].key"),
    ({"rules": [when("request.auth.claims" + "[a]" * 100, values=["x"])]}, "spec.rules[0].when[0].key"),
    ({"rules": [when("request.auth.claims[a", values=["x"])]}, "spec.rules[0].when[0].key"),
]


@pytest.mark.parametrize(("spec", "path"), REFUSED)
def test_refused(spec: dict[str, Any], path: str) -> None:
    """Every refusal names the field."""
    with pytest.raises(ConfigError) as found:
        read(authorization_policy(**spec))

    assert found.value.path == path


@pytest.mark.parametrize(
    ("spec", "action", "rules"),
    [
        ({"action": "ALLOW", "rules": [source()]}, Action.ALLOW, ()),
        ({"rules": 1}, Action.ALLOW, ()),
        ({"action": "DENY", "rules": [source()]}, Action.DENY, (Rule(),)),
        ({"action": "CUSTOM"}, Action.DENY, (Rule(),)),
        ({"action": 7}, Action.DENY, (Rule(),)),
        ({"action": "AUDIT", "x": 1}, Action.AUDIT, ()),
    ],
)
def test_what_cannot_be_read_stays_closed(
    spec: dict[str, Any], action: Action, rules: tuple[Rule, ...]
) -> None:
    """What allows lets nobody in; what denies, or of which nobody knows, denies everything that it may concern."""
    found = stand_in(authorization_policy(**spec, selector={"matchLabels": {"app": "a"}}))

    assert isinstance(found, AuthorizationPolicy)
    assert (found.action, found.rules, found.selector) == (action, rules, (("app", "a"),))


def test_a_selector_that_cannot_be_read_is_everybody() -> None:
    """The stand-in then holds for the whole namespace."""
    found = stand_in(authorization_policy(selector=7, rules=[{}]))

    assert isinstance(found, AuthorizationPolicy)
    assert found.selector == ()


KEY = {"kty": "oct", "k": "AAAA", "alg": "HS256"}
URL = "https://a.example.com/keys"


def test_keys() -> None:
    """Written down, or behind a URL whose port follows from its scheme."""
    inline = read(request_authentication(jwtRules=[{"issuer": "a", "jwks": json.dumps({"keys": [KEY]})}]))
    fetched = read(request_authentication(jwtRules=[{"issuer": "a", "jwksUri": URL}]))
    assert isinstance(inline, Parsed)
    assert isinstance(fetched, Parsed)
    assert isinstance(inline.object, RequestAuthentication)
    assert isinstance(fetched.object, RequestAuthentication)

    assert json.loads(inline.object.rules[0].jwks) == {"keys": [KEY]}
    assert fetched.object.rules[0].uri == JwksUri(URL, "a.example.com", 443, is_tls=True)


@pytest.mark.parametrize(
    ("rule", "path"),
    [
        ({"jwksUri": URL}, "issuer"),
        ({"issuer": "a"}, "jwksUri"),
        ({"issuer": "a", "jwks": "{}", "jwksUri": URL}, "jwksUri"),
        ({"issuer": "a", "jwks": "nonsense"}, "jwks"),
        ({"issuer": "a", "jwks": "{}"}, "jwks"),
        ({"issuer": "a", "jwks": '{"keys": []}'}, "jwks"),
        ({"issuer": "a", "jwks": '{"keys": [{"kty": "RSA", "e": "AQAB"}]}'}, "jwks"),
        ({"issuer": "a", "jwks": '{"keys": [{"kty": "RSA", "n": "!", "e": "AQAB"}]}'}, "jwks"),
        ({"issuer": "a", "jwks": '{"keys": [{"kty": "EC", "crv": "P-1", "x": "A", "y": "A"}]}'}, "jwks"),
        ({"issuer": "a", "jwks": '{"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB", "d": "A"}]}'}, "jwks"),
        ({"issuer": "a", "jwks": "[" * 5000}, "jwks"),
        ({"issuer": "a", "jwksUri": "file:///etc/passwd"}, "jwksUri"),
        ({"issuer": "a", "jwksUri": "https://user@a/keys"}, "jwksUri"),
        ({"issuer": "a", "jwksUri": "https://10.0.0.1/keys"}, "jwksUri"),
        ({"issuer": "a", "jwksUri": "http://a:99999/keys"}, "jwksUri"),
        ({"issuer": "a", "jwksUri": URL, "fromHeaders": [{"name": ":path"}]}, "fromHeaders[0].name"),
        (
            {"issuer": "a", "jwksUri": URL, "outputClaimToHeaders": [{"header": "x"}]},
            "outputClaimToHeaders[0].claim",
        ),
        ({"issuer": "a", "jwksUri": URL, "audience": ["a"]}, "audience"),
        ({"issuer": "a", "jwksUri": URL, "timeout": "0s"}, "timeout"),
    ],
)
def test_keys_that_nobody_could_use(rule: dict[str, Any], path: str) -> None:
    """Refused with the field; what stands for such an object takes no request."""
    raw = request_authentication(jwtRules=[rule])
    with pytest.raises(ConfigError) as found:
        read(raw)
    closed = stand_in(raw)

    assert found.value.path == f"spec.jwtRules[0].{path}"
    assert isinstance(closed, RequestAuthentication)
    assert closed.is_unreadable
