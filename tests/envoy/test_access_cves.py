"""Every published way around an access policy, each with its name, against compiled filters in a real Envoy.

What Istio's advisories describe is sent here byte by byte; each test fails if what closes the hole is taken away.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests import access_tokens as tokens
from tests.access_reference import Http, Verdict
from tests.access_worlds import HTTP_PORT, PEERS, Client, Document, Pair, World
from tests.envoy.access_campaign import addresses
from tests.envoy.access_mesh import serving
from tests.envoy.access_wire import Answer, Wire
from tests.path_reference import normalise

ALLOW, DENY, UNAUTHENTICATED, MALFORMED = Verdict
WEB, WEB_V1, WEBXV1, A_WEB_V1, SHOP_A, _, _ = PEERS
"""``shop/web.v1`` is the name with a dot; ``shop/webxv1`` is what a dot in a regex would take for it."""

ISSUER: Final = "https://issuer.example"

POLICIES: Final = {
    "open": "",
    "dotted": "{rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/web.v1]}}]}]}",
    "dotted-prefix": "{rules: [{from: [{source: {principals: ['cluster.local/ns/shop/sa/web.*']}}]}]}",
    "dotted-suffix": "{rules: [{from: [{source: {principals: ['*/sa/web.v1']}}]}]}",
    "dotted-not": "{action: DENY, rules: [{from: [{source: {notPrincipals: [cluster.local/ns/shop/sa/web.v1]}}]}]}",
    "dotted-when": "{rules: [{when: [{key: source.principal, values: [cluster.local/ns/shop/sa/web.v1]}]}]}",
    "namespace": "{rules: [{from: [{source: {namespaces: [shop]}}]}]}",
    "suffix": "{action: DENY, rules: [{from: [{source: {principals: ['*/sa/web']}}]}]}",
    "host": "{action: DENY, rules: [{to: [{operation: {hosts: [admin.example, 'admin.example:*']}}]}]}",
    "dotted-host": "{action: DENY, rules: [{to: [{operation: {hosts: [admin.example., 'admin.example.:*']}}]}]}",
    "not-host": "{action: DENY, rules: [{to: [{operation: {notHosts: [admin.example, 'admin.example:*']}}]}]}",
    "path": "{action: DENY, rules: [{to: [{operation: {paths: [/admin]}}]}]}",
    "below": "{action: DENY, rules: [{to: [{operation: {paths: ['/admin/*']}}]}]}",
    "but": "{rules: [{to: [{operation: {notPaths: [/admin, '/admin/*']}}]}]}",
    "template": "{action: DENY, rules: [{to: [{operation: {paths: ['/admin/{*}']}}]}]}",
    "role": "{action: DENY, rules: [{when: [{key: 'request.headers[x-role]', values: [admin]}]}]}",
    "no-role": "{rules: [{when: [{key: 'request.headers[x-role]', notValues: [admin]}]}]}",
    "not-namespace": "{rules: [{from: [{source: {notNamespaces: [test]}}]}]}",
    "not-principal": "{rules: [{from: [{source: {notPrincipals: [cluster.local/ns/test/sa/web]}}]}]}",
    "deny-not-namespace": "{action: DENY, rules: [{from: [{source: {notNamespaces: [shop]}}]}]}",
    "port": f"{{action: DENY, rules: [{{to: [{{operation: {{ports: ['{HTTP_PORT}']}}}}]}}]}}",
    "maybe-token": "",
    "unreachable": "",
    "token": "{rules: [{from: [{source: {requestPrincipals: ['*']}}]}]}",
}
"""One workload for each, named as here."""


def worlds() -> dict[str, World]:
    """The workloads by name."""
    found: dict[str, World] = {}
    for number, (name, text) in enumerate(POLICIES.items()):
        placed = [_placed("AuthorizationPolicy", number, yaml.safe_load(text))] if text else []
        if name.endswith("token"):
            rule = {"issuer": ISSUER, "jwks": tokens.jwks(1)}
            placed.append(_placed("RequestAuthentication", number, {"jwtRules": [rule]}))
        if name == "unreachable":
            rule = {"issuer": ISSUER, "jwksUri": "http://nobody.example:1/keys"}
            placed.append(_placed("RequestAuthentication", number, {"jwtRules": [rule]}))
        found[name] = World(number, tuple(placed), ())
    return found


def _placed(kind: str, number: int, spec: Document) -> Document:
    meta = {"name": "policy", "namespace": World(number, (), ()).namespace}
    return {"apiVersion": "security.istio.io/v1", "kind": kind, "metadata": meta, "spec": spec}


WORLDS: Final = worlds()


@pytest.fixture(scope="module")
def wire(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    """All of them in one Envoy."""
    with serving(tmp_path_factory.mktemp("cves") / "run", tuple(WORLDS.values()), addresses()) as found:
        yield found


def ask(  # noqa: PLR0913  # a request has many parts
    wire: Wire,
    world: str,
    target: str = "/",
    *headers: tuple[str, str],
    peer: str = WEB,
    host: str = "orders",
    method: str = "GET",
) -> Answer:
    """One request to a workload."""
    http = Http(method, target, (("Host", host), *headers))
    return wire.ask(WORLDS[world], [Pair(Client(peer, 0, ""), http)])[0]


def verdict(
    wire: Wire, world: str, target: str = "/", *headers: tuple[str, str], **more: Any
) -> Verdict | None:
    """What it came to."""
    return ask(wire, world, target, *headers, **more).verdict


def on_bytes(wire: Wire, world: str, peer: str) -> Verdict | None:
    """What a TCP connection came to."""
    return wire.ask(WORLDS[world], [Pair(Client(peer, 0, ""), None)])[0].verdict


# -- who calls -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("world", ["dotted", "dotted-when", "dotted-not"])
def test_cve_2026_39350_a_dot_in_a_service_account_is_a_dot(wire: Wire, world: str) -> None:
    """A literal principal is exactly that caller, over HTTP and over TCP, positive and negated."""
    peers = (WEB_V1, WEBXV1, A_WEB_V1, WEB, SHOP_A)

    assert [verdict(wire, world, peer=peer) for peer in peers] == [ALLOW, DENY, DENY, DENY, DENY]
    assert [on_bytes(wire, world, peer) for peer in peers] == [ALLOW, DENY, DENY, DENY, DENY]


def test_cve_2026_39350_a_dot_beside_a_wildcard(wire: Wire) -> None:
    """The rest of a prefix or suffix is as literal, and ends where a name ends."""
    assert [verdict(wire, "dotted-prefix", peer=peer) for peer in (WEB_V1, WEBXV1, WEB)] == [
        ALLOW,
        DENY,
        DENY,
    ]
    assert [verdict(wire, "dotted-suffix", peer=peer) for peer in (WEB_V1, SHOP_A, WEBXV1, A_WEB_V1)] == [
        ALLOW,
        ALLOW,
        DENY,
        DENY,
    ]


def test_cve_2026_39350_a_namespace_is_a_whole_segment(wire: Wire) -> None:
    """``shop`` is neither ``shopx`` nor ``shop-a``."""
    assert [verdict(wire, "namespace", peer=peer) for peer in PEERS] == [ALLOW] * 4 + [DENY] * 3


def test_cve_2020_16844_a_suffix_denies_on_tcp(wire: Wire) -> None:
    """DENY of ``*/sa/web`` holds for connections without HTTP as it does for requests."""
    assert [on_bytes(wire, "suffix", peer) for peer in (WEB, WEB_V1)] == [DENY, ALLOW]
    assert [verdict(wire, "suffix", peer=peer) for peer in (WEB, WEB_V1)] == [DENY, ALLOW]


@pytest.mark.parametrize("world", ["not-namespace", "not-principal"])
def test_istio_security_2021_004_nobody_is_not_somebody_else(wire: Wire, world: str) -> None:
    """A caller without an identity is not let in for not being the one who is excluded."""
    assert [verdict(wire, world, peer=peer) for peer in ("", WEB, PEERS[-1])] == [DENY, ALLOW, DENY]
    assert [on_bytes(wire, world, peer) for peer in ("", WEB, PEERS[-1])] == [DENY, ALLOW, DENY]


def test_istio_security_2021_004_deny_holds_for_nobody(wire: Wire) -> None:
    """DENY of everybody but a namespace is DENY of those who show no namespace."""
    assert [verdict(wire, "deny-not-namespace", peer=peer) for peer in ("", WEB)] == [DENY, ALLOW]
    assert [on_bytes(wire, "deny-not-namespace", peer) for peer in ("", WEB)] == [DENY, ALLOW]


@pytest.mark.parametrize("peer", ["", WEBXV1])
def test_cve_2022_39388_no_header_is_an_identity(wire: Wire, peer: str) -> None:
    """Who writes somebody's name into X-Forwarded-Client-Cert, once or twice, stays who they are."""
    forged = f"By=spiffe://cluster.local/ns/x/sa/y;Hash=00;URI=spiffe://{WEB_V1}"

    assert verdict(wire, "dotted", "/", ("x-forwarded-client-cert", forged), peer=peer) is DENY
    assert verdict(wire, "dotted", "/", *[("X-Forwarded-Client-Cert", forged)] * 2, peer=peer) is DENY


# -- what is asked for -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["admin.example", "Admin.EXAMPLE", "ADMIN.EXAMPLE:80", "admin.example:8080"])
def test_cve_2021_39155_hosts_have_no_case(wire: Wire, host: str) -> None:
    """A host is the same host in any case, with or without a port."""
    assert verdict(wire, "host", host=host) is DENY
    assert verdict(wire, "host", f"http://{host}/", host="orders") is DENY
    assert verdict(wire, "host", host="adminxexample") is ALLOW


@pytest.mark.parametrize("world", ["host", "dotted-host"])
@pytest.mark.parametrize("host", ["admin.example.", "Admin.EXAMPLE.", "admin.example.:80"])
def test_a_dot_at_the_end_makes_no_other_host(wire: Wire, world: str, host: str) -> None:
    """A name written out in full, in the request or in the rule, is the same host; with two dots it is none."""
    assert verdict(wire, world, host=host) is DENY
    assert verdict(wire, world, host=f"x{host}") is ALLOW
    assert verdict(wire, world, f"http://{host}/", host="orders") is DENY
    assert verdict(wire, "not-host", host=host) is ALLOW
    for name in ("open", world):
        assert verdict(wire, name, host=host.replace("ple.", "ple..").replace("PLE.", "PLE..")) is MALFORMED


@pytest.mark.parametrize("second", ["orders", "admin.example"])
def test_a_second_host_is_refused(wire: Wire, second: str) -> None:
    """Envoy judges the first Host line and sends both on: the request goes nowhere."""
    for first in ("orders", "admin.example"):
        assert verdict(wire, "host", "/", ("host", second), host=first) in {MALFORMED, DENY}
        assert verdict(wire, "open", "/", ("HOST", second), host=first) is MALFORMED


@pytest.mark.parametrize("target", ["/admin#x", "/admin#", "/admin?a#b", "/#/../admin"])
def test_cve_2021_39156_a_fragment_is_refused(wire: Wire, target: str) -> None:
    """No request has a fragment; one that has is not judged by what stands before or after it."""
    assert verdict(wire, "path", target) is MALFORMED
    assert verdict(wire, "open", target) is MALFORMED


@pytest.mark.parametrize("target", ["/admin?", "/admin?x=1", "/admin?/ok", "/admin?x=/../ok"])
def test_cve_2020_8595_a_query_is_no_path(wire: Wire, target: str) -> None:
    """An exact path is the same path with any query."""
    assert verdict(wire, "path", target) is DENY
    assert verdict(wire, "but", target) is DENY
    assert verdict(wire, "path", "/ok?x=/admin") is ALLOW


DISGUISED: Final = (
    "/%61dmin", "/x/../admin", "/./admin", "/%2e/admin", "/x/%2E%2e/admin", "/../admin", "/x\\..\\admin",
)  # fmt: skip


@pytest.mark.parametrize("target", DISGUISED)
def test_cve_2021_31920_a_path_in_disguise(wire: Wire, target: str) -> None:
    """Escapes of letters, dot segments and backslashes are gone before a path is compared, and before it is sent on."""
    assert verdict(wire, "path", target) is DENY
    assert verdict(wire, "but", target) is DENY
    assert ask(wire, "open", target).target == "/admin"


@pytest.mark.parametrize(
    "rest",
    ["x", "x*y", "a=b", "1;v=2", "~", "x%20y", "%C3%A9", "[x]", "a|b", "{x}", "'", "x,y", "a%2Fb", "$", "^"],
)
def test_a_template_knows_every_character(wire: Wire, rest: str) -> None:
    """``{*}`` is any segment: no character of a request makes it another path."""
    assert verdict(wire, "template", f"/admin/{rest}") in {DENY, MALFORMED}
    assert verdict(wire, "below", f"/admin/{rest}") in {DENY, MALFORMED}


@pytest.mark.parametrize(
    "values", [("user", "admin"), ("admin", "user"), ("", "admin"), ("user", "x", "admin")]
)
def test_cve_2026_26308_each_line_of_a_header_is_judged(wire: Wire, values: tuple[str, ...]) -> None:
    """A second line of the same header hides nothing, whatever its case and place."""
    lines = [("X-Role" if n % 2 else "x-role", value) for n, value in enumerate(values)]

    assert verdict(wire, "role", "/", *lines) is DENY
    assert verdict(wire, "no-role", "/", *lines) is DENY
    assert verdict(wire, "role", "/", ("x-role", "user"), ("x-role", "x")) is ALLOW


def test_istio_security_2021_002_ports_are_the_workloads(wire: Wire) -> None:
    """``ports`` is the port that the workload listens on, whatever its Service calls it."""
    assert verdict(wire, "port") is DENY
    assert on_bytes(wire, "port", WEB) is ALLOW


# -- tokens ----------------------------------------------------------------------------------------------------


def test_cve_2019_12995_tokens_that_are_none(wire: Wire) -> None:
    """What is no token, or has no valid signature, is refused; and Envoy lives on."""
    claims = {"iss": ISSUER, "sub": "ann", "exp": 4_000_000_000}
    good = tokens.sign(claims, 1)
    head, payload, signature = good.split(".")
    bad = [
        "", ".", "..", "a.b.c", "\x7f", "null", good[:-2], f"{good}.x",
        f"{head}.{payload}.", f"{head}.{payload}", f"{head}..{signature}",
        tokens.sign(claims, 2, kid=1), tokens.sign(claims, 2),
        tokens.encoded({"alg": "none"}, claims, b""), tokens.encoded({"alg": "HS256"}, claims, b"x" * 32),
    ]  # fmt: skip

    for token in bad:
        for headers, target in (
            ((("authorization", f"Bearer {token}"),), "/"),
            ((), f"/?access_token={token}"),
        ):
            assert verdict(wire, "token", target, *headers) in {UNAUTHENTICATED, DENY, MALFORMED}, token
            assert not token or verdict(wire, "maybe-token", target, *headers) in {
                UNAUTHENTICATED,
                MALFORMED,
            }, token
    assert verdict(wire, "token", "/", ("authorization", f"Bearer {good}")) is ALLOW
    assert verdict(wire, "token") is DENY


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_cve_2026_31837_keys_that_do_not_come_verify_nothing(wire: Wire, seed: int) -> None:
    """There are no keys to fall back on: while a key set cannot be fetched, every token is refused."""
    token = tokens.sign({"iss": ISSUER, "sub": "ann", "exp": 4_000_000_000}, seed)

    assert verdict(wire, "unreachable", "/", ("authorization", f"Bearer {token}")) is UNAUTHENTICATED
    assert verdict(wire, "unreachable") is ALLOW


def test_cve_2026_31837_no_private_key_is_in_the_source() -> None:
    """What is published with a program is nobody's secret."""
    root = Path(__file__).resolve().parent.parent.parent / "xds"
    marks = ("BEGIN PRIVATE KEY", "BEGIN RSA PRIVATE KEY", "BEGIN EC PRIVATE KEY")
    found = [path for path in root.rglob("*.py") if any(mark in path.read_text("utf-8") for mark in marks)]

    assert [path.as_posix() for path in found if "pb" not in path.parts] == []


# -- the paths of all settings -----------------------------------------------------------------------------------

TARGETS: Final = (
    "/", "/a", "/a/", "/a//b", "//a", "/a///", "/a/./b", "/a/../b", "/a/.", "/a/..", "/../a", "/.", "/..", "/...",
    "/%61", "/%41%5a%30%7e%2d%2e%5f", "/%2e%2e/a", "/a/%2e", "/%25%36%31", "/%zz", "/a%", "/a%20b", "/%C3%A9",
    "/a%2fb", "/a%2Fb", "/%2f/a", "/a%2f..%2fb", "/a\\b", "/a%5cb", "/a%5C..%5Cb",
    "/a;v=1/b", "/a;v=../b", "/a/..;/b", "/a/.;x/b", "/a/..;", "/a;/../b", "/a/x..;/b", '/a"<>^`{|}b', "/a[b]",
    "/a?b=/../c", "/a?", "/a%00", "/a#b", "/a//../b", "/a/b/../../..//c",
)  # fmt: skip


def _is_sayable(path: str) -> bool:
    """Whether a policy may name this path: it takes no characters that a request should have escaped."""
    return set(path).isdisjoint('{|}<>[]^`"\\')


@pytest.mark.parametrize("option", ["NONE", "BASE", "MERGE_SLASHES", "DECODE_AND_MERGE_SLASHES"])
def test_the_path_that_is_judged_is_the_path_that_is_sent(tmp_path: Path, option: str) -> None:
    """Under every setting the application sees what the reference says, and the policy what the application sees."""
    exact = sorted({path for target in TARGETS if (path := normalise(target, option)) and _is_sayable(path)})
    spec = {"action": "DENY", "rules": [{"to": [{"operation": {"paths": exact}}]}]}
    placed = [World(0, (), ()), World(1, (_placed("AuthorizationPolicy", 1, spec),), ())]
    client = Client(WEB, 0, "")
    pairs = [Pair(client, Http("GET", target, (("Host", "orders"),))) for target in TARGETS]
    with serving(
        tmp_path / "run", placed, addresses(), {"pathNormalization": {"normalization": option}}
    ) as wire:
        seen, judged = (wire.ask(world, pairs) for world in placed)

    paths = [
        answer.target.partition("?")[0] if answer.verdict is ALLOW else answer.verdict for answer in seen
    ]
    assert dict(zip(TARGETS, paths, strict=True)) == {
        target: normalise(target, option) or MALFORMED for target in TARGETS
    }
    assert {
        answer.verdict for target, answer in zip(TARGETS, judged, strict=True) if _is_sayable(target)
    } == {
        DENY,
        MALFORMED,
    }
