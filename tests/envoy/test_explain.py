"""What `proa explain` says against a real Envoy: every mistake by its status, random requests by their route."""

from __future__ import annotations

import contextlib
import http.client
import random
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import netns
import pytest
import yaml
from msgspec import structs
from rig import STRICT, App, MeshUnderTest
from transparent import OUTSIDE, StartPods

from tests.fakes.faults import Mistake, mistakes
from xds.control import ControlPlane
from xds.demo import admin
from xds.demo.manifests import OUTBOUND_PORT
from xds.explain.answer import Answer
from xds.explain.facts import Facts
from xds.explain.located import located
from xds.explain.question import read_question
from xds.explain.walk import explain
from xds.sources.directory import Directory

NEEDS = netns.NEEDS

PERMISSIVE = STRICT.replace("STRICT", "PERMISSIVE")
ALL = mistakes()
SEEDS = range(10)
REQUESTS = 100
"""Requests for each table; all seeds together are a thousand pairs."""


def asked_offline(mesh: MeshUnderTest, ask: tuple[str, str, str], *headers: str) -> Answer:
    """Return what `proa explain --dir` says of the mesh's directory."""
    directory = Directory(mesh.mesh.manifests)
    batch = directory.load()
    plane = ControlPlane()
    plane.apply(batch.changes, at=0.0, now=0.0, broken=batch.broken)
    problems = (*batch.problems, *directory.placed(plane.plan.problems()))
    question = read_question(*ask, headers)
    return located(
        explain(Facts(plane.plan.world, time.time(), problems, plane.store.get), question), directory.placed
    )


def asked_live(mesh: MeshUnderTest, ask: tuple[str, str, str], *headers: str) -> Answer:
    """Return what the running control plane says."""
    pairs = zip(("source", "destination", "request"), ask, strict=True)
    query = urllib.parse.urlencode([*pairs, *(("header", text) for text in headers)])
    body = admin.get("127.0.0.1", mesh.mesh.admin_port, f"/api/v1/explain?{query}")
    return msgspec.json.decode(body, type=Answer)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MeshUnderTest]:
    """One mesh for all mistakes, the same as `tests/explain/base.yaml` describes."""
    apps = (
        App("client"),
        App("orders-v1", app="orders"),
        App("orders-v2", app="orders", version="v2"),
        App("visitor", namespace="web"),
    )
    work: Path = tmp_path_factory.mktemp("explain") / "mesh"
    made = MeshUnderTest(work, apps, PERMISSIVE, is_insecure=False)
    try:
        yield made.start()
    finally:
        made.stop()


def sent(mesh: MeshUnderTest, mistake: Mistake) -> str:
    """Send the mistake's request as its source would; return the status, or how the connection ended."""
    source, destination, request = mistake.ask
    method, path = request.split()
    headers = dict(text.split(": ", 1) for text in mistake.headers)
    try:
        if mistake.direct:
            pod = mesh.pods[mistake.direct]
            url = f"http://{destination}{path}"
            return str(mesh.request(pod.pod_ip, pod.ports[0], url, headers, method).status)
        return str(mesh.get(source.partition(".")[0], f"http://{destination}{path}", headers, method).status)
    except (http.client.RemoteDisconnected, ConnectionError):
        return "closed"


@pytest.mark.parametrize("mistake", ALL, ids=[one.name for one in ALL])
def test_a_mistake_does_what_is_said(mesh: MeshUnderTest, mistake: Mistake) -> None:
    """The request fails through a real Envoy as its folder says, and the running control plane names the cause."""
    mesh.write("manifests.yaml", PERMISSIVE)
    (mesh.mesh.manifests / "fault.yaml").unlink(missing_ok=True)
    if mistake.before:
        mesh.wait("the mesh is as it was", lambda: sent(mesh, mistake) == mistake.before)
    *before, last = mistake.written(mesh.apps["orders-v1"].app_address)
    for text in before:
        mesh.write("fault.yaml", text)
        mesh.wait("the first edit shows", lambda: sent(mesh, mistake) == mistake.status)
    mesh.write("fault.yaml", last)
    headers = mistake.headers

    def is_explained() -> bool:
        try:
            causes = asked_live(mesh, mistake.ask, *headers).causes
        except admin.Unreachable:  # 400: its source is not known yet
            return False
        return bool(causes) and causes[0].code == mistake.cause

    mesh.wait("the cause is named", is_explained)
    mesh.wait("the mistake shows", lambda: sent(mesh, mistake) == mistake.status)

    live = structs.replace(asked_live(mesh, mistake.ask, *headers), proxies=())
    assert live.causes[0].text.partition(" (")[0] == mistake.says.partition(" (")[0]
    if not before:  # only what runs knows what was in force before
        assert live == asked_offline(mesh, mistake.ask, *headers)


# -- random requests through random rules ----------------------------------------------------------

_PATHS = (
    "/",
    "/a",
    "/a/b",
    "/A/b",
    "/ab",
    "/a/../b",
    "/a/./b",
    "/a//b",
    "/%61/b",
    "/a%2Fb",
    "/a%2fb/",
    "/b/..",
    "/a;x=1/b",
)
_QUERIES = ("", "?", "?q=1", "?q=1&q=2", "?q=2&p", "?p=%31", "?q", "?Q=1")
_VALUES = ("1", "qa", "QA", "q", "a,b", "")
_REGEXES = ("[a-z]+", "q.*", "1|2", "/a.*", "/[ab]/b", "(?i)/A/B", ".*")


def _comparison(chance: random.Random, values: tuple[str, ...]) -> dict[str, str]:
    kind = chance.choice(("exact", "prefix", "regex"))
    return {kind: chance.choice(_REGEXES if kind == "regex" else [value for value in values if value])}


def _condition(chance: random.Random) -> dict[str, Any]:
    present = {"headers": 0.4, "withoutHeaders": 0.2, "queryParams": 0.3}
    out: dict[str, Any] = {}
    if chance.random() < 0.7:
        out["uri"] = _comparison(chance, _PATHS)
        if "regex" not in out["uri"] and chance.random() < 0.3:
            out["ignoreUriCase"] = True
    for field, share in present.items():
        if chance.random() < share:
            name = chance.choice("pq" if field == "queryParams" else ("x-a", "x-b"))
            out[field] = {name: chance.choice(({}, _comparison(chance, _VALUES)))}
    if chance.random() < 0.3:
        out["method"] = _comparison(chance, ("GET", "POST", "P"))
    if chance.random() < 0.2:
        out["authority"] = _comparison(chance, ("orders", "orders.shop", "orders:80"))
    if chance.random() < 0.1:
        out["scheme"] = chance.choice(({"exact": "http"}, {"exact": "https"}))
    return out or {"uri": {"prefix": "/a"}}


def _rules(chance: random.Random, seed: int) -> str:
    """Return a VirtualService whose rules answer with their own place, the first at a path that this seed alone has."""
    http: list[dict[str, Any]] = [{"match": [{"uri": {"exact": f"/seed/{seed}"}}]}]
    http += [{"match": [_condition(chance) for _ in range(chance.choice((1, 1, 2)))]} for _ in range(8)]
    for index, rule in enumerate(http):
        rule["directResponse"] = {"status": 200, "body": {"string": f"http[{index}]"}}
    meta = {"name": "orders", "namespace": "shop"}
    kind = {"apiVersion": "networking.istio.io/v1", "kind": "VirtualService"}
    return yaml.safe_dump({**kind, "metadata": meta, "spec": {"hosts": ["orders"], "http": http}})


def _request(chance: random.Random) -> tuple[str, str, list[tuple[str, str]]]:
    method, path = chance.choice(("GET", "POST", "PUT")), chance.choice(_PATHS) + chance.choice(_QUERIES)
    names = [chance.choice(("x-a", "x-b", "X-A")) for _ in range(chance.randint(0, 3))]
    host = chance.choice(("orders", "orders.shop", "orders:80", "ORDERS", "orders.shop.svc.cluster.local"))
    return method, path, [("Host", host), *((name, chance.choice(_VALUES)) for name in names)]


def _answered(mesh: MeshUnderTest, method: str, path: str, headers: list[tuple[str, str]]) -> str:
    connection = http.client.HTTPConnection(mesh.pods["client"].pod_ip, OUTBOUND_PORT, timeout=10)
    with contextlib.closing(connection):
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in (*headers, ("Content-Length", "0")):
            connection.putheader(name, value)
        connection.endheaders()
        found = connection.getresponse()
        body = found.read().decode()
        return body if found.status == 200 else str(found.status)


def _shown(found: Answer, done: str) -> list[str]:
    """Return what the explanation thinks of the rule that Envoy took."""
    rules = [*found.considered, *([found.route] if found.route else [])]
    return [
        f"{one.rule}: {getattr(one, 'reason', '') or getattr(one, 'match', '')}"
        for one in rules
        if done in one.rule
    ]


@pytest.mark.parametrize("seed", SEEDS)
def test_the_same_rule_takes_a_request(mesh: MeshUnderTest, seed: int) -> None:
    """Of random rules, the one that `explain` names is the one that answers; at least a third find one."""
    chance = random.Random(seed)
    mesh.write("fault.yaml", _rules(chance, seed))
    url = f"http://orders/seed/{seed}"
    mesh.wait("the rules are used", lambda: mesh.get("client", url).body == b"http[0]")
    directory = Directory(mesh.mesh.manifests)
    plane = ControlPlane()
    plane.apply(directory.load().changes, at=0.0, now=0.0)
    facts, taken = Facts(plane.plan.world, 0.0), 0

    for _ in range(REQUESTS):
        method, path, headers = _request(chance)
        question = read_question(
            "client.shop", "orders", f"{method} {path}", [": ".join(one) for one in headers]
        )
        found = explain(facts, question)
        said = found.route.rule.partition(".")[0] if found.route else found.causes[0].status
        taken += found.route is not None
        done = _answered(mesh, method, path, headers)
        assert said == done, (method, path, headers, _shown(found, done))
    assert taken >= REQUESTS / 3


# -- redirected traffic ----------------------------------------------------------------------------

_REDIRECTED = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: orders, namespace: shop}
spec:
  hosts: [orders]
  http:
  - match: [{headers: {x-user: {exact: qa}}}]
    directResponse: {status: 410}
  - match: [{method: {exact: GET}}]
    route: [{destination: {host: orders}}]
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: narrow, namespace: shop}
spec:
  workloadSelector: {labels: {app: client}}
  egress: [{hosts: [./orders.shop.svc.cluster.local, ./lines.shop.svc.cluster.local]}]
"""


def test_the_dialled_address_decides(start_pods: StartPods) -> None:
    """Of redirected traffic the answer follows the address; each status is what a real sidecar gives."""
    lines = App(
        "lines", serves="tcp", protocol="tcp", service_port=3306, port=3306, args=("--banner", "hello")
    )
    apps = (App("client"), App("orders"), App("stock"), lines, App("plain", labels=OUTSIDE))
    mesh = start_pods(*apps, manifests=f"{STRICT}---{_REDIRECTED}")

    def told(source: str, host: str, request: str = "GET /echo", *headers: str) -> Answer:
        return asked_live(mesh, (f"{source}.shop", host, request), *headers)

    def done(source: str, service: str, method: str = "GET", headers: Mapping[str, str] | None = None) -> str:
        try:
            url = f"http://{service}/echo"
            return str(mesh.ask(source, mesh.vip(service), 80, url, headers, method).status)
        except (http.client.HTTPException, OSError):
            return "closed"

    qa = {"x-user": "qa"}
    assert told("client", "orders").source.is_intercepted
    assert (told("client", "orders").outcome, done("client", "orders")) == ("forwarded to 1 endpoint", "200")
    assert told("client", "orders").listener.endswith("(HTTP by address)")
    assert (
        told("client", "orders", "GET /echo", "x-user: qa").action,
        done("client", "orders", headers=qa),
    ) == (
        "answer 410",
        "410",
    )
    missed = told("client", "orders", "POST /echo")
    assert (missed.causes[0].status, done("client", "orders", "POST")) == ("404", "404")
    hidden = told("client", "stock")
    assert (hidden.causes[0].code, hidden.causes[0].status, done("client", "stock")) == (
        "not-imported",
        "503",
        "503",
    )
    assert told("client", "lines:3306").listener.endswith("(bytes by address)")
    assert told("client", "lines:3306").targets[0].inbound == "inbound|3306"
    plain = told("plain", "orders")
    assert (plain.causes[0].code, plain.causes[0].status) == ("tls", "closed")
    with pytest.raises((http.client.HTTPException, OSError)):
        mesh.ask("plain", mesh.at("orders").ip, 8080, "http://orders/echo")
