"""Older Envoys in one mesh with today's: each takes calls and makes them, under rules that change while it serves."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jwt
import netns
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm
from rig import STRICT, App, MeshUnderTest, address

from tests.access_reference import Verdict
from tests.envoy import access_campaign, releases
from xds.demo.manifests import OUTBOUND_PORT
from xds.releases import EACH_LINE, STATS_LOGGER

NEEDS = (*netns.NEEDS, *releases.NEEDS)

KEPT: Final = releases.kept()
PAIRS: Final = 500
"""Decisions of each release that are compared with the reference; `make authz-campaign` makes more."""

ISSUER: Final = "https://issuer.example"
KEY: Final = ec.generate_private_key(ec.SECP256R1())


@dataclass(frozen=True, slots=True)
class Pods:
    """The Pods of one release."""

    version: str

    @property
    def orders(self) -> str:
        """Speaks HTTP."""
        return f"orders-{self.version.replace('.', '-')}"

    @property
    def lines(self) -> str:
        """Speaks first, and calls the other."""
        return f"lines-{self.version.replace('.', '-')}"


LINES: Final = {version: (address(), 7000) for version in KEPT}
"""Where the orders of a release find the service of bytes."""


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MeshUnderTest]:
    """Two Pods of each release, and one with the Envoy of today."""
    apps = [App("web")]
    envoys: dict[str, Path] = {}
    for version in KEPT:
        pods, (host, port) = Pods(version), LINES[version]
        upstream = {"proa.dev/upstreams": f"{host}:{port}={pods.lines}:7000"}
        apps.append(App(pods.orders, annotations=upstream))
        apps.append(App(pods.lines, serves="tcp", protocol="tcp", service_port=7000, port=7000))
        envoys |= dict.fromkeys((pods.orders, pods.lines), releases.envoy(version))
    found = MeshUnderTest(
        tmp_path_factory.mktemp("releases") / "mesh", tuple(apps), STRICT, is_insecure=False
    )
    found.mesh.envoys = envoys
    found.mesh.older = {name for name, at in envoys.items() if "/1.36." in str(at)}
    try:
        yield found.start()
    finally:
        found.stop()


@pytest.fixture(params=KEPT)
def pods(request: pytest.FixtureRequest, mesh: MeshUnderTest) -> Pods:
    """Those of one release, unguarded, and without connections that are older than their listener."""
    found = Pods(request.param)
    put(mesh)
    for caller in (found.lines, "web"):
        mesh.wait("it serves", lambda at=caller: mesh.get(at, f"http://{found.orders}/echo").status == 200)
    return found


def put(mesh: MeshUnderTest, *documents: dict[str, Any]) -> None:
    """Put these objects in force, in place of those before, and wait until every proxy has what came of them."""
    text = "".join(f"---\n{json.dumps(document)}\n" for document in documents)
    if (mesh.mesh.manifests / "manifests.yaml").read_text("utf-8") != STRICT + text:
        mesh.edit("manifests.yaml", STRICT + text)


def guard(kind: str, app: str, name: str = "p", **spec: Any) -> dict[str, Any]:
    """An object that guards an app."""
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"selector": {"matchLabels": {"app": app}}, **spec},
    }


def ask(connection: http.client.HTTPConnection, pods: Pods, path: str = "/echo", **headers: str) -> int:
    """The status of a request over a connection that stays open."""
    connection.request("GET", path, headers={"Host": pods.orders, **headers})
    answer = connection.getresponse()
    answer.read()
    return answer.status


def test_it_is_that_release_and_rejects_nothing(mesh: MeshUnderTest, pods: Pods) -> None:
    """The Envoys that run are those that the test is about, and hold all that they were sent."""
    running = json.loads(mesh.admin(pods.orders, "/server_info"))["version"]
    rejected = {name: one for name, one in mesh.stats(pods.orders, r".*\.update_rejected$").items() if one}

    assert f"/{pods.version}/" in running
    assert rejected == {}


def test_calls_go_in_and_out_over_mutual_tls(mesh: MeshUnderTest, pods: Pods) -> None:
    """From the release to itself and to today's, and from today's to it."""
    assert mesh.get(pods.lines, f"http://{pods.orders}/echo").workload == pods.orders
    assert mesh.get(pods.orders, "http://web/echo").workload == "web"
    assert mesh.get("web", f"http://{pods.orders}/echo").workload == pods.orders
    tls, plaintext = mesh.hops(pods.orders)
    assert (tls > 0, plaintext) == (True, 0)


def test_what_allows_and_denies_changes_under_open_connections(mesh: MeshUnderTest, pods: Pods) -> None:
    """The next request is judged by the new rules, and the connection between the sidecars stays."""
    caller = {"from": [{"source": {"principals": [f"cluster.local/ns/shop/sa/{pods.lines}"]}}]}
    allow = guard("AuthorizationPolicy", pods.orders, rules=[caller])
    path = {"to": [{"operation": {"paths": ["/echo"]}}]}
    deny = guard("AuthorizationPolicy", pods.orders, "deny", action="DENY", rules=[path])
    put(mesh, allow)
    connection = http.client.HTTPConnection(mesh.pods[pods.lines].pod_ip, OUTBOUND_PORT, timeout=20)
    taken = r"^listener\.inbound.8080\.downstream_cx_total$"
    with contextlib.closing(connection):
        before = ask(connection, pods), mesh.get("web", f"http://{pods.orders}/echo").status
        connected = mesh.stats(pods.orders, taken)
        put(mesh, allow, deny)
        after = ask(connection, pods), ask(connection, pods, "/echo/other")
        again = mesh.stats(pods.orders, taken)

    assert (before, after) == ((200, 403), (403, 200))
    assert again == connected


def test_tokens_are_verified(mesh: MeshUnderTest, pods: Pods) -> None:
    """Who brings none, one that nobody signed, one without the right claim, and the right one."""
    own = {**ECAlgorithm.to_jwk(KEY.public_key(), as_dict=True), "kid": "1", "alg": "ES256"}
    rule = {"issuer": ISSUER, "jwks": json.dumps({"keys": [own]})}
    alice = {"from": [{"source": {"requestPrincipals": [f"{ISSUER}/alice"]}}]}
    put(
        mesh,
        guard("RequestAuthentication", pods.orders, jwtRules=[rule]),
        guard("AuthorizationPolicy", pods.orders, rules=[alice]),
    )

    def status(key: ec.EllipticCurvePrivateKey | None, subject: str = "alice") -> int:
        claims = {"iss": ISSUER, "sub": subject, "exp": time.time() + 600}
        text = jwt.encode(claims, key, algorithm="ES256", headers={"kid": "1"}) if key else ""
        headers = {"authorization": f"Bearer {text}"} if text else {}
        return mesh.get(pods.lines, f"http://{pods.orders}/echo", headers=headers).status

    stranger = ec.generate_private_key(ec.SECP256R1())
    assert (status(None), status(stranger), status(KEY, "bob"), status(KEY)) == (403, 401, 403, 200)


def test_a_connection_that_is_older_than_the_tokens_rules_is_refused(mesh: MeshUnderTest, pods: Pods) -> None:
    """What no route can bring came after it: it is never let through unverified, and the next one is verified."""
    own = {**ECAlgorithm.to_jwk(KEY.public_key(), as_dict=True), "kid": "1", "alg": "ES256"}
    rule = {"issuer": ISSUER, "jwks": json.dumps({"keys": [own]})}
    connection = http.client.HTTPConnection(mesh.pods[pods.lines].pod_ip, OUTBOUND_PORT, timeout=20)
    with contextlib.closing(connection):
        before = ask(connection, pods)
        put(mesh, guard("RequestAuthentication", pods.orders, jwtRules=[rule]))
        after = ask(connection, pods, authorization="Bearer x.y.z")
        mesh.wait("a new connection", lambda: ask(connection, pods, authorization="Bearer x.y.z") == 401)
        then = ask(connection, pods)

    assert (before, after, then) == (200, 403, 200)


def test_keys_that_nobody_serves_are_told(mesh: MeshUnderTest) -> None:
    """The fetch that fails is counted elsewhere than today, and the control plane knows it all the same."""
    pods = Pods(KEPT[0])
    rule = {"issuer": ISSUER, "jwksUri": f"http://{address()}:9/keys"}
    put(mesh, guard("RequestAuthentication", pods.orders, jwtRules=[rule]))

    def is_told() -> bool:
        said = {
            one.service
            for proxy in mesh.mesh.api.proxies()
            if pods.orders in proxy.id
            for one in proxy.silent
        }
        return "server of keys (JWKS)" in said

    mesh.wait("the control plane knows", is_told, timeout_s=60)


def test_a_rate_limit_holds(mesh: MeshUnderTest, pods: Pods) -> None:
    """Two of three requests pass, and the third is told when to come again."""
    limit = {
        "apiVersion": "proa.dev/v1alpha1",
        "kind": "RateLimit",
        "metadata": {"name": "orders", "namespace": "shop"},
        "spec": {
            "selector": {"matchLabels": {"app": pods.orders}},
            "rules": [{"requests": 2, "interval": "1h"}],
        },
    }
    put(mesh, limit)
    found = [mesh.get(pods.lines, f"http://{pods.orders}/echo") for _ in range(3)]

    assert [one.status for one in found] == [200, 200, 429]
    assert found[2].headers["retry-after"] == "1800"


def test_bytes_are_guarded(mesh: MeshUnderTest, pods: Pods) -> None:
    """A connection passes if its caller may come in, and hears nothing if not."""
    found: list[bytes] = []
    for account in (pods.orders, "web"):
        caller = {"from": [{"source": {"serviceAccounts": [account]}}]}
        put(mesh, guard("AuthorizationPolicy", pods.lines, rules=[caller]))
        found.append(heard(LINES[pods.version]))

    assert found == [b"knock", b""]


def heard(at: tuple[str, int]) -> bytes:
    """What comes back of a line, as far as it is let through."""
    got = b""
    with contextlib.closing(socket.create_connection(at, 10)) as raw, contextlib.suppress(OSError):
        raw.settimeout(10)
        raw.sendall(b"knock\n")
        while b"knock" not in got and (chunk := raw.recv(4096)):
            got += chunk
    return b"knock" if b"knock" in got else b""


def test_requests_are_counted(mesh: MeshUnderTest, pods: Pods) -> None:
    """Under the caller's verified name; before 1.37 only Envoy's own counters are there."""
    mesh.get(pods.lines, f"http://{pods.orders}/echo/counted")
    if not counts_requests(pods):
        called = mesh.stats(pods.lines, rf"^cluster\.outbound.80.*{pods.orders}_.*upstream_rq_total$")
        assert sum(called.values()) > 0
        return
    text = mesh.admin(pods.orders, "/stats/prometheus?filter=istio")
    told = [line for line in text.splitlines() if line.startswith("envoy_istio_requests_total{")]
    served = [line for line in told if 'reporter="destination"' in line and pods.lines in line]

    assert served
    assert all(re.search(r'source_principal="spiffe://[^"]*"', line) for line in served)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("version", KEPT)
def test_decisions_are_those_of_the_reference(tmp_path: Path, version: str) -> None:
    """Of random requests under random policies none is judged otherwise, but for lists in headers before 1.38."""
    report = access_campaign.run(PAIRS, 20_240_301, tmp_path, version=version)
    found = [one for one in report.differences if sees_lines(version) or not is_stricter(one)]

    assert [str(one) for one in found] == []
    assert report.share(Verdict.ALLOW) >= 0.3


def test_a_denied_value_in_a_second_line_is_denied(mesh: MeshUnderTest, pods: Pods) -> None:
    """Also where Envoy joins the lines of a header before it compares them (CVE-2026-26308)."""
    values = ["admin", "root*", "*-owner"]
    team = {"when": [{"key": "request.headers[x-role]", "values": values}]}
    put(mesh, guard("AuthorizationPolicy", pods.orders, action="DENY", rules=[team]))

    def status(*lines: str) -> int:
        connection = http.client.HTTPConnection(mesh.pods[pods.lines].pod_ip, OUTBOUND_PORT, timeout=20)
        with contextlib.closing(connection):
            connection.putrequest("GET", "/echo", skip_host=True)
            connection.putheader("Host", pods.orders)
            for line in lines:
                connection.putheader("x-role", line)
            connection.endheaders()
            return connection.getresponse().status

    denied = [("admin",), ("user", "admin"), ("admin", "user"), ("user", "rooted", "x"), ("a", "the-owner")]
    assert {lines: status(*lines) for lines in denied} == dict.fromkeys(denied, 403)
    assert status("user", "guest") == status("administrator") == 200


def release(version: str) -> tuple[int, ...]:
    """Numbers that can be compared."""
    return tuple(map(int, version.split(".")))


def counts_requests(pods: Pods) -> bool:
    """Whether a release has the logger that counts."""
    return release(pods.version) >= STATS_LOGGER


def sees_lines(version: str) -> bool:
    """Whether a release sees each line of a repeated header."""
    return release(version) >= EACH_LINE


def is_stricter(found: access_campaign.Difference) -> bool:
    """Whether a request was denied that should pass, and has a list in a header."""
    asked = found.pair.http
    if asked is None or (found.expected, found.got.verdict) != (Verdict.ALLOW, Verdict.DENY):
        return False
    names = [name.lower() for name, _ in asked.headers]
    return len(names) > len(set(names)) or any("," in value for _, value in asked.headers)
