"""The reference evaluator answers as Istio's documents say: their own examples, one fact each."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import access_tokens as tokens
from tests.access_reference import Connection, Http, Manifest, Mesh, Verdict, Workload, decide
from tests.path_reference import normalise

HERE = Path(__file__).parent
WORKLOAD = Workload("foo", {"app": "httpbin", "version": "v1"}, frozenset({"httpbin"}))
SLEEP, DEV = "cluster.local/ns/default/sa/sleep", "cluster.local/ns/dev/sa/web"
NOW = 1_000_000.0
ISSUER = "https://accounts.google.com"


def is_lenient(provider: str, _http: Http | None) -> bool:
    """Stand for two external authorizers, of which one lets everything pass."""
    return provider == "lenient"


MESH = Mesh(now=NOW, verified=tokens.verified, external=is_lenient)


def policy(
    text: str, *, name: str = "p", namespace: str = "foo", kind: str = "AuthorizationPolicy", **meta: Any
) -> Manifest:
    """A policy with this spec, in YAML."""
    return {
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace, **meta},
        "spec": yaml.safe_load(text),
    }


def http(  # noqa: PLR0913  # a request has many parts
    *policies: Manifest,
    peer: str = SLEEP,
    method: str = "GET",
    target: str = "/info",
    host: str = "example.com",
    headers: tuple[tuple[str, str], ...] = (),
    ip: str = "10.0.0.9",
) -> Verdict:
    """The answer for an HTTP request."""
    at = Connection(peer, ip, "10.0.0.1", 8080, "sni.example")
    return decide(policies, WORKLOAD, at, Http(method, target, (("Host", host), *headers)), MESH)


def tcp(*policies: Manifest, port: int = 9000, peer: str = SLEEP) -> Verdict:
    """The answer for a TCP connection."""
    return decide(policies, WORKLOAD, Connection(peer, "10.0.0.9", "10.0.0.1", port), None, MESH)


def bearer(seed: int = 1, **claims: Any) -> tuple[tuple[str, str], ...]:
    """The header line of a token, of the issuer that JWT trusts unless claims say otherwise."""
    return (("authorization", f"Bearer {tokens.sign({'iss': ISSUER, 'sub': 'ann', **claims}, seed)}"),)


ALLOW, DENY, UNAUTHENTICATED, MALFORMED = Verdict
NOTHING, EVERYTHING = policy("{}"), policy("rules: [{}]")
JWT: Manifest = {
    "kind": "RequestAuthentication",
    "metadata": {"name": "jwt", "namespace": "foo"},
    "spec": {"jwtRules": [{"issuer": ISSUER, "jwks": tokens.jwks(1), "audiences": ["shop"]}]},
}
JWT["spec"]["jwtRules"].append({"issuer": "plain", "jwks": tokens.jwks(1)})


# -- AuthorizationPolicy, the reference page's examples ------------------------------------------------------


def test_the_first_example() -> None:
    """Two sources, two operations, one condition: one of each must hold."""
    first = policy(f"""
    rules:
    - from: [{{source: {{principals: [{SLEEP}]}}}}, {{source: {{namespaces: [test]}}}}]
      to: [{{operation: {{methods: [GET], paths: ["/info*"]}}}}, {{operation: {{methods: [POST], paths: [/data]}}}}]
      when: [{{key: "request.auth.claims[iss]", values: [{ISSUER}]}}]
    """)
    token = bearer(aud="shop")

    assert http(JWT, first, headers=token) is ALLOW
    assert http(JWT, first, headers=token, peer="cluster.local/ns/test/sa/x", target="/info/1") is ALLOW
    assert http(JWT, first, headers=token, method="POST", target="/data") is ALLOW
    assert http(JWT, first, headers=token, method="POST") is DENY
    assert http(JWT, first, headers=token, peer=DEV) is DENY
    assert http(JWT, first) is DENY


def test_deny_of_a_namespace() -> None:
    """POST from dev is denied, everything else is not: there is no ALLOW policy."""
    deny = policy(
        "{action: DENY, rules: [{from: [{source: {namespaces: [dev]}}], to: [{operation: {methods: [POST]}}]}]}"
    )

    assert [http(deny, peer=DEV, method=method) for method in ("POST", "GET")] == [DENY, ALLOW]
    assert http(deny, method="POST") is ALLOW


def test_nothing_everything_and_order() -> None:
    """Without rules ALLOW denies; an empty rule allows; DENY goes before ALLOW, CUSTOM before both."""
    custom = policy(
        "{action: CUSTOM, provider: {name: strict}, rules: [{to: [{operation: {paths: [/admin*]}}]}]}"
    )
    lenient = policy("{action: CUSTOM, provider: {name: lenient}, rules: [{}]}")
    deny = policy("{action: DENY, rules: [{}]}")

    assert http() is ALLOW
    assert http(NOTHING) is DENY
    assert http(NOTHING, EVERYTHING) is ALLOW
    assert http(EVERYTHING, deny) is DENY
    assert http(policy("{action: DENY}")) is ALLOW
    assert [http(EVERYTHING, custom, target=target) for target in ("/admin/x", "/x")] == [DENY, ALLOW]
    assert [http(lenient), http(lenient, deny), http(lenient, NOTHING)] == [ALLOW, DENY, DENY]


def test_audit_and_dry_run_decide_nothing() -> None:
    """A workload whose only ALLOW policy runs dry is open."""
    dry = policy("{action: DENY, rules: [{}]}", annotations={"istio.io/dry-run": "true"})

    assert http(policy("{action: AUDIT, rules: [{}]}")) is ALLOW
    assert http(dry) is ALLOW
    assert http(policy("{}", annotations={"istio.io/dry-run": "true"})) is ALLOW


@pytest.mark.parametrize(
    ("namespace", "spec", "answer"),
    [
        ("foo", "{}", DENY),
        ("bar", "{}", ALLOW),
        ("istio-system", "{}", DENY),
        ("foo", "{selector: {matchLabels: {app: httpbin}}}", DENY),
        ("foo", "{selector: {matchLabels: {app: httpbin, version: v2}}}", ALLOW),
        ("istio-system", "{selector: {matchLabels: {version: v1}}}", DENY),
        ("istio-system", "{selector: {matchLabels: {version: v2}}}", ALLOW),
        ("foo", "{targetRefs: [{kind: Service, name: httpbin}]}", DENY),
        ("foo", "{targetRefs: [{kind: Service, name: other}]}", ALLOW),
        ("foo", "{targetRefs: [{kind: Gateway, name: httpbin}]}", ALLOW),
    ],
)
def test_target(namespace: str, spec: str, answer: Verdict) -> None:
    """Namespace and selector say where a policy holds; the root namespace is everywhere."""
    assert http(policy(spec, namespace=namespace)) is answer


def test_sources_and_their_negations() -> None:
    """Fields of one source are joined by AND: the reference page's example of Source."""
    source = policy("""
    rules: [{from: [{source: {principals: [td/ns/prod/sa/admin, td/ns/x/sa/dev], namespaces: [prod, test],
                              notIpBlocks: [203.0.113.4]}}]}]
    """)

    assert http(source, peer="td/ns/prod/sa/admin") is ALLOW
    assert http(source, peer="td/ns/prod/sa/admin", ip="203.0.113.4") is DENY
    assert http(source, peer="td/ns/x/sa/dev") is DENY


@pytest.mark.parametrize("field", ["notPrincipals: [td/ns/x/sa/y]", "notNamespaces: [x]"])
def test_negated_peer_without_identity(field: str) -> None:
    """Nobody is let in for being nobody (ISTIO-SECURITY-2021-004), and nobody slips past a DENY."""
    rules = f"rules: [{{from: [{{source: {{{field}}}}}]}}]"

    assert [http(policy(rules), peer=peer) for peer in ("", DEV)] == [DENY, ALLOW]
    assert http(policy(f"{{action: DENY, {rules}}}"), peer="") is DENY
    assert http(policy("rules: [{from: [{source: {principals: ['*']}}]}]"), peer="") is DENY


@pytest.mark.parametrize(
    ("wanted", "value", "answer"),
    [
        ("abc", "abc", True), ("abc", "abcd", False), ("abc*", "abc", True), ("abc*", "abcd", True),
        ("*abc", "abc", True), ("*abc", "xabc", True), ("*abc", "abcx", False), ("*", "x", True), ("*", "", False),
    ],
)  # fmt: skip
def test_value_matching(wanted: str, value: str, answer: bool) -> None:  # noqa: FBT001  # pytest's way
    """The four schemes of Rule: exact, prefix, suffix, presence, which is "not empty"."""
    rule = policy(f"rules: [{{when: [{{key: 'request.headers[X-Word]', values: ['{wanted}']}}]}}]")

    assert (http(rule, headers=(("x-word", value),)) is ALLOW) is answer
    assert http(rule) is DENY


def test_each_line_of_a_header_counts() -> None:
    """A second line hides nothing (CVE-2026-26308)."""
    deny = policy("{action: DENY, rules: [{when: [{key: 'request.headers[x-role]', values: [admin]}]}]}")
    allow = policy("rules: [{when: [{key: 'request.headers[x-role]', notValues: [admin]}]}]")
    both = (("x-role", "user"), ("X-Role", "admin"))

    assert http(deny, headers=both) is DENY
    assert http(allow, headers=both) is DENY
    assert http(allow, headers=both[:1]) is ALLOW


def test_hosts_ignore_case_and_keep_their_port() -> None:
    """A host is compared without case and with its port, as the page on best practices says."""
    exact = policy("rules: [{to: [{operation: {hosts: [Example.com]}}]}]")
    ported = policy("rules: [{to: [{operation: {hosts: [example.com, 'example.com:*']}}]}]")

    assert [http(exact, host=host) for host in ("EXAMPLE.com", "example.com:80")] == [ALLOW, DENY]
    assert http(ported, host="example.com:80") is ALLOW
    assert http(exact, target="http://other.com/info") is DENY
    assert http(EVERYTHING, headers=(("host", "other.com"),)) is MALFORMED
    assert http(exact, headers=(("host", "example.com"),), target="http://example.com/") is ALLOW


def test_a_host_with_its_last_dot_is_the_same_host() -> None:
    """In the request and in the rule, with a port and without; a second dot is in no name."""
    exact = policy("rules: [{to: [{operation: {hosts: [example.com]}}]}]")
    dotted = policy("rules: [{to: [{operation: {hosts: [example.com., 'example.com.:80']}}]}]")

    assert http(exact, host="example.com.") is ALLOW
    assert [http(dotted, host=host) for host in ("example.com", "example.com.:80")] == [ALLOW, ALLOW]
    assert http(exact, host="example.com.:80") is DENY
    assert [http(EVERYTHING, host=host) for host in ("example.com..", "a..:80")] == [MALFORMED, MALFORMED]


def test_conditions_of_the_connection() -> None:
    """Addresses, ports, SNI and forwarded addresses."""

    def on(key: str, value: str, **more: Any) -> Verdict:
        return http(policy(f"rules: [{{when: [{{key: {key}, values: ['{value}']}}]}}]"), **more)

    forwarded = (("x-forwarded-for", "1.2.3.4, 5.6.7.8"),)
    assert on("source.ip", "10.0.0.0/24") is ALLOW
    assert on("destination.ip", "10.0.0.1") is ALLOW
    assert on("destination.port", "8080") is ALLOW
    assert on("connection.sni", "sni.*") is ALLOW
    assert on("remote.ip", "5.6.7.8", headers=forwarded) is ALLOW
    assert on("remote.ip", "1.2.3.4", headers=forwarded) is DENY
    assert on("remote.ip", "10.0.0.9") is ALLOW
    assert on("source.namespace", "def*") is ALLOW


# -- paths -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "path", "answer"),
    [
        ("/foo/{*}", "/foo/bar", True), ("/foo/{*}", "/foo/bar/baz", False), ("/foo/{*}", "/foo/", False),
        ("/foo/{**}", "/foo/", True), ("/foo/{**}", "/foo/bar/baz", True), ("/{*}/bar/{**}", "/foo/bar/", True),
        ("/foo/{*}", "/foo/a*b=c;d", True), ("/f.o/{*}", "/foo/x", False),
        ("/a/{**}/z", "/a/b/c/z", True), ("/a/{**}/z", "/a/z", False), ("/{**}/z", "/a/b/zz", False),
    ],
)  # fmt: skip
def test_path_templates(template: str, path: str, answer: bool) -> None:  # noqa: FBT001  # pytest's way
    """``{*}`` is one segment, ``{**}`` whatever follows."""
    assert (
        http(policy(f"rules: [{{to: [{{operation: {{paths: ['{template}']}}}}]}}]"), target=path) is ALLOW
    ) is answer


@pytest.mark.parametrize(
    ("target", "base", "merged", "decoded"),
    [
        ("/some%2fdata/%61%62%63", "/some%2fdata/abc", "/some%2fdata/abc", "/some/data/abc"),
        ("/some\\data", "/some/data", "/some/data", "/some/data"),
        ("/some//data///abc", "/some//data///abc", "/some/data/abc", "/some/data/abc"),
        ("/public/./data/abc/../xyz", "/public/data/xyz", "/public/data/xyz", "/public/data/xyz"),
        ("/foo?v=1", "/foo", "/foo", "/foo"),
        ("/a/%2E%2e/b/%2d", "/b/-", "/b/-", "/b/-"),
        ("/a%5Cb", "/a%5Cb", "/a%5Cb", "/a/b"),
        ("/a/..", "/", "/", "/"),
        ("/a/.", "/a/", "/a/", "/a/"),
        ("/../a", "/a", "/a", "/a"),
        ("/a;b=../c", "/a;b=../c", "/a;b=../c", "/a;b=../c"),
        ("/a/..;v=1/b/.;/c", "/b/c", "/b/c", "/b/c"),
        ("/a|b", "/a%7Cb", "/a%7Cb", "/a%7Cb"),
    ],
)
def test_normalisation(target: str, base: str, merged: str, decoded: str) -> None:
    """The examples of the page on normalisation, and the corners of RFC 3986 §5.2.4."""
    options = ("BASE", "MERGE_SLASHES", "DECODE_AND_MERGE_SLASHES")

    assert [normalise(target, option) for option in options] == [base, merged, decoded]
    assert normalise(target, "NONE") == target.partition("?")[0]


def test_refused_targets() -> None:
    """A NUL or a fragment is no path."""
    assert [http(EVERYTHING, target=target) for target in ("/a%00", "/a#b", "/a?b#c")] == [MALFORMED] * 3


# -- JSON web tokens -------------------------------------------------------------------------------------------


def test_request_authentication_alone() -> None:
    """No token is let through without a name; one that is not valid is not."""
    assert http(JWT) is ALLOW
    assert http(JWT, headers=bearer(aud=["x", "shop"])) is ALLOW
    assert http(JWT, headers=bearer(2, aud="shop")) is UNAUTHENTICATED
    assert http(JWT, headers=bearer(aud="shop", exp=NOW - 1)) is UNAUTHENTICATED
    assert http(JWT, headers=bearer(aud="shop", nbf=NOW + 1)) is UNAUTHENTICATED
    assert http(JWT, headers=bearer(iss="stranger")) is UNAUTHENTICATED
    assert http(JWT, headers=(("authorization", "Bearer x.y.z"),)) is UNAUTHENTICATED
    assert http(JWT, headers=(("authorization", "Basic abc"),)) is ALLOW
    assert http(JWT, headers=bearer(aud="other")) is UNAUTHENTICATED
    assert http(JWT, target=f"/info?access_token={bearer(iss='stranger')[0][1][7:]}") is UNAUTHENTICATED
    assert http(headers=bearer(2)) is ALLOW


@pytest.mark.parametrize("wanted", ["plain/ann", "plain/*", "pl*", "*nn", "*/ann", "*", "plain/a*"])
def test_request_principal(wanted: str) -> None:
    """It is issuer and subject with a slash, one string like every other."""
    rule = policy(f"rules: [{{from: [{{source: {{requestPrincipals: ['{wanted}']}}}}]}}]")

    assert http(JWT, rule, headers=bearer(iss="plain")) is ALLOW
    assert http(JWT, rule) is DENY
    assert http(rule, headers=bearer(iss="plain")) is DENY


def test_admin_needs_a_token() -> None:
    """The concept page's example of notRequestPrincipals."""
    deny = policy(
        "{action: DENY, rules: [{to: [{operation: {paths: [/admin]}}],"
        " from: [{source: {notRequestPrincipals: ['*']}}]}]}"
    )

    assert http(JWT, deny, target="/admin") is DENY
    assert http(JWT, deny, target="/admin", headers=bearer(iss="plain")) is ALLOW


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("request.auth.claims[groups]", "blue"), ("request.auth.claims[a][b]", "c*"),
        ("request.auth.claims[scope]", "read"),
        ("request.auth.audiences", "shop"), ("request.auth.presenter", "app"), ("request.auth.principal", "plain/ann"),
    ],
)  # fmt: skip
def test_claims(key: str, value: str) -> None:
    """A claim is a string or a list of strings, nested or not."""
    rule = policy(f"rules: [{{when: [{{key: '{key}', values: ['{value}']}}]}}]")
    token = bearer(
        iss="plain", groups=["red", "blue"], a={"b": "cd"}, scope="read write", aud="shop", azp="app"
    )

    assert http(JWT, rule, headers=token) is ALLOW
    assert http(JWT, rule, headers=bearer(iss="plain", sub="bob", groups=7, a=[], scope="reader")) is DENY


# -- TCP: the task page's steps ----------------------------------------------------------------------------------


def test_tcp() -> None:
    """A rule of ALLOW that needs HTTP never holds; DENY holds without what it cannot see."""
    ports = policy("rules: [{to: [{operation: {ports: ['9000', '9001']}}]}]")
    methods = policy("rules: [{to: [{operation: {methods: [GET], ports: ['9000']}}]}]")
    deny = policy("{action: DENY, rules: [{to: [{operation: {methods: [GET]}}]}]}")
    deny_port = policy("{action: DENY, rules: [{to: [{operation: {methods: [GET], ports: ['9000']}}]}]}")

    assert [tcp(ports, port=port) for port in (9000, 9001, 9002)] == [ALLOW, ALLOW, DENY]
    assert [tcp(methods, port=port) for port in (9000, 9001)] == [DENY, DENY]
    assert [tcp(deny, port=port) for port in (9000, 9001)] == [DENY, DENY]
    assert [tcp(deny_port, port=port) for port in (9000, 9001)] == [DENY, ALLOW]


def test_tcp_rule_with_one_http_source_of_two() -> None:
    """One field that TCP has not makes the whole rule of an ALLOW policy void, also beside a source that would hold."""
    mixed = policy(
        "rules: [{from: [{source: {namespaces: [default]}}, {source: {requestPrincipals: ['*']}}]}]"
    )

    assert tcp(mixed) is DENY
    assert http(mixed) is ALLOW


# -- the evaluator itself ----------------------------------------------------------------------------------------


def test_it_is_short_and_stands_alone() -> None:
    """300 lines that a reader can check against the documents, and nothing of what they judge."""
    files = [HERE / name for name in ("access_reference.py", "path_reference.py", "access_tokens.py")]
    imported = [
        module
        for file in files
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        for module in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [])
        + ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [])
    ]

    assert len(files[0].read_text("utf-8").splitlines()) <= 300
    assert [
        module for module in imported if module.partition(".")[0] in {"xds", "google", "envoy_data_plane"}
    ] == []
