"""What `proa explain` evaluates, against what the compiler serves and what an evaluator that knows no compiler says."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
import yaml

from tests.access_reference import Connection, Http, Mesh, Verdict, Workload
from tests.access_reference import decide as reference
from tests.fakes.manifests import endpoints, objects, pod, service
from tests.path_reference import normalise
from xds import ir
from xds.api.mesh import PathNormalization
from xds.callers import class_of
from xds.compile.hosts import foreign_host, virtual_hosts
from xds.compile.lens import Lens
from xds.control import ControlPlane
from xds.explain.paths import written
from xds.explain.question import read_question
from xds.explain.walk import explain
from xds.explain.way import by_domain
from xds.pb.envoy.config.endpoint.v3 import endpoint_pb2
from xds.snapshot import ResourceType

# -- policies ----------------------------------------------------------------------------------

_TEXTS: dict[str, tuple[str, ...]] = {
    "principals": (
        "cluster.local/ns/shop/sa/web",
        "*/sa/web",
        "cluster.local/ns/shop/*",
        "*",
        "other/ns/shop/sa/web",
    ),
    "namespaces": ("shop", "other", "sh*", "*op", "*"),
    "ipBlocks": ("10.0.0.1", "10.0.0.0/24", "192.0.2.0/24"),
    "remoteIpBlocks": ("10.0.0.0/24", "192.0.2.1"),
    "requestPrincipals": ("*", "issuer/*"),
    "hosts": ("orders", "ORDERS.shop", "orders*", "*.shop", "*"),
    "ports": ("8080", "80"),
    "methods": ("GET", "POST", "P*", "*"),
    "paths": ("/a", "/a/*", "*/b", "/{*}/b", "/a/{**}", "*"),
}
_FROM = ("principals", "namespaces", "ipBlocks", "remoteIpBlocks", "requestPrincipals")
_TO = ("hosts", "ports", "methods", "paths")
_WHEN: dict[str, tuple[str, ...]] = {
    "request.headers[x-user]": ("qa", "q*", "*a", "*"),
    "source.ip": ("10.0.0.1", "192.0.2.0/24"),
    "source.namespace": ("shop", "other"),
    "destination.port": ("8080", "81"),
    "request.auth.claims[group]": ("admin",),
    "connection.sni": ("outbound_.80_._.orders.shop.svc.cluster.local", "*.shop.svc.cluster.local"),
}


def _part(chance: random.Random, names: tuple[str, ...]) -> dict[str, list[str]]:
    out: dict[str, list[str]] = {}
    for name in chance.sample(names, chance.choice((1, 1, 2))):
        is_not = chance.random() < 0.25
        field = f"not{name[0].upper()}{name[1:]}" if is_not else name
        out[field] = chance.sample(_TEXTS[name], chance.choice((1, 1, 2)))
    return out


def _rule(chance: random.Random) -> dict[str, Any]:
    out: dict[str, Any] = {}
    if chance.random() < 0.6:
        out["from"] = [{"source": _part(chance, _FROM)} for _ in range(chance.choice((1, 2)))]
    if chance.random() < 0.6:
        out["to"] = [{"operation": _part(chance, _TO)} for _ in range(chance.choice((1, 2)))]
    if chance.random() < 0.4:
        key = chance.choice(sorted(_WHEN))
        field = "notValues" if chance.random() < 0.3 else "values"
        out["when"] = [{"key": key, field: chance.sample(_WHEN[key], 1)}]
    return out


def _policy(chance: random.Random, name: str) -> dict[str, Any]:
    spec: dict[str, Any] = {"action": chance.choice(("ALLOW", "ALLOW", "DENY"))}
    spec["rules"] = [_rule(chance) for _ in range(chance.choice((1, 1, 2)))]
    meta = {"name": name, "namespace": chance.choice(("shop", "shop", "proa-system"))}
    kind = {"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy"}
    return {**kind, "metadata": meta, "spec": spec}


def _disabled(*, plain: bool) -> str:
    return """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: orders, namespace: shop}
spec: {host: orders, trafficPolicy: {tls: {mode: DISABLE}}}
""" if plain else ""  # fmt: skip


@pytest.mark.parametrize("seed", range(6))
def test_a_verdict_is_that_of_the_reference(seed: int) -> None:
    """Of random policies and requests: allowed or denied as Istio's pages say; "depends" for tokens alone."""
    chance, seen = random.Random(seed), Counter[str]()
    for _ in range(30):
        policies = [_policy(chance, f"p{n}") for n in range(chance.choice((1, 2, 3)))]
        plain = chance.random() < 0.25
        made = ControlPlane()
        slices = endpoints("orders", "10.0.0.9=orders-0")
        world = (
            service("orders"),
            slices,
            pod("orders-0", "orders", "10.0.0.9"),
            pod("web-0", "web", "10.0.0.1"),
        )
        made.apply(objects(*world, yaml.safe_dump_all(policies), _disabled(plain=plain)), at=0.0, now=0.0)
        for _ in range(5):
            method, path = (
                chance.choice(("GET", "POST", "PUT")),
                chance.choice(("/a", "/a/b", "/b/b", "/x?y=/a", "/")),
            )
            host = chance.choice(("orders", "orders.shop"))
            headers = [("x-user", chance.choice(("qa", "q", "b"))) for _ in range(chance.choice((0, 1, 2)))]
            found = explain(
                made.known(0.0),
                read_question("shop/web-0", host, f"{method} {path}", [": ".join(h) for h in headers]),
            )
            verdict = found.targets[0].authorization.verdict
            peer = "" if plain else "cluster.local/ns/shop/sa/web"
            sni = "" if plain else "outbound_.80_._.orders.shop.svc.cluster.local"
            said = reference(
                policies,
                Workload("shop", {"app": "orders", "version": "v1"}, frozenset({"orders"})),
                Connection(peer, "10.0.0.1", "10.0.0.9", 8080, sni),
                Http(method, path, (("Host", host), *headers)),
                Mesh(root_namespace="proa-system"),
            )
            seen[verdict] += 1
            told = yaml.safe_dump(
                [policies, method, path, host, headers, found.targets[0].authorization.reason]
            )
            assert verdict == ("allow" if said is Verdict.ALLOW else "deny"), told
    assert min(seen["allow"], seen["deny"]) > 20


@pytest.mark.parametrize("form", PathNormalization)
def test_a_path_is_written_as_the_reference_does(form: PathNormalization) -> None:
    """Of any path of dots, slashes and escapes, in every form."""
    chance = random.Random(form.value)
    for _ in range(3000):
        path = "/" + "".join(chance.choice(_PIECES) for _ in range(chance.randint(0, 7)))
        assert written(f"{path}?a=/../b", form) == f"{normalise(path, form.value)}?a=/../b"


_PIECES = (
    "/",
    "//",
    ".",
    "..",
    "/./",
    "/../",
    "a",
    "b",
    "\\",
    "%2F",
    "%2f",
    "%5C",
    "%2e",
    "%2E%2e",
    "%41",
    "%7e",
    ";",
    "%",
)


# -- what is served ----------------------------------------------------------------------------

_ENTRY = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: NAME, namespace: shop}
spec:
  hosts: [HOST]
  ports: [{number: PORT, name: http, protocol: HTTP}]
  resolution: DNS
  endpoints: [{address: a.example.com}]
"""


def test_the_virtual_host_is_that_of_the_whole_table() -> None:
    """The few virtual hosts that a Host can mean hold the one that the whole table would choose."""
    wild = _ENTRY.replace("NAME", "wild").replace("HOST", "'*.example.com'").replace("PORT", "80")
    wilder = _ENTRY.replace("NAME", "wilder").replace("HOST", "'*.y.example.com'").replace("PORT", "80")
    exact = _ENTRY.replace("NAME", "exact").replace("HOST", "api.example.com").replace("PORT", "8080")
    texts = [
        service(name, namespace, port)
        for name in ("a", "b")
        for namespace in ("shop", "web")
        for port in (80,)
    ]
    made = ControlPlane()
    made.apply(
        objects(*texts, service("c", "web", 8080), wild, wilder, exact, pod("web-0", "web", "10.0.0.1")),
        at=0.0,
        now=0.0,
    )
    world = made.plan.world
    client, lens = class_of(world, "shop", ()), Lens(world)
    table = [host for name in world.services() for host in virtual_hosts(lens, name, client)]
    table += [host for name in world.foreign_hosts() for host in foreign_host(lens, name, client)]
    names = ("a", "b", "c", "api", "x.y")
    tails = ("", ".shop", ".web", ".shop.svc", ".web.svc.cluster.local", ".example.com", ".nowhere")
    for host in (f"{name}{tail}{port}" for name in names for tail in tails for port in ("", ":80", ":8080")):
        wanted = by_domain(host, table)
        found = explain(made.known(0.0), read_question("shop/web-0", host))
        assert found.virtual_host == (wanted.name if wanted else ""), host


def test_the_longest_wildcard_has_a_host() -> None:
    """Of several wildcards that end a Host, the longest; an exact domain goes before all."""
    domains = ("*.example.com", "*.y.example.com", "x.y.example.com", "*")
    hosts = [ir.VirtualHost(domain, (domain,), ()) for domain in domains]

    chosen = [by_domain(host, hosts) for host in ("x.y.example.com", "a.y.example.com", "y.example.com", "b")]
    assert [found.name if found else "" for found in chosen] == [
        "x.y.example.com",
        "*.y.example.com",
        "*.example.com",
        "*",
    ]


_SLICE = """
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: orders-NUMBER, namespace: shop, labels: {kubernetes.io/service-name: orders}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: ENDPOINTS
"""


@pytest.mark.parametrize("seed", range(10))
def test_endpoints_are_those_that_are_served(seed: int) -> None:
    """Healthy and draining endpoints, by zone, are those of the load assignment that the proxy gets."""
    chance = random.Random(seed)
    slices: list[str] = []
    for number in range(2):
        listed = [
            {
                "addresses": [f"10.0.{number}.{n}"],
                "zone": chance.choice(("a", "b", "")),
                "conditions": {
                    "ready": chance.random() < (0.4 if seed % 2 else 0),
                    "serving": chance.random() < 0.6,
                    "terminating": chance.random() < 0.5,
                },
            }
            for n in range(1, 5)
        ]
        slices.append(
            _SLICE.replace("NUMBER", str(number)).replace(
                "ENDPOINTS", yaml.safe_dump(listed, default_flow_style=True)
            )
        )
    made = ControlPlane()
    made.apply(objects(service("orders"), *slices, pod("web-0", "web", "10.9.0.1")), at=0.0, now=0.0)

    counted = explain(made.known(0.0), read_question("shop/web-0", "orders")).targets[0].endpoints
    served = made.snapshot.get("mesh", ResourceType.ENDPOINTS, "outbound|80||orders.shop.svc.cluster.local")
    assert served is not None
    found = endpoint_pb2.ClusterLoadAssignment.FromString(served.body)
    zones: Counter[str] = Counter()
    draining = 0
    for group in found.endpoints:
        for one in group.lb_endpoints:
            is_draining = one.health_status == 3
            draining += is_draining
            if not is_draining and group.locality.zone:
                zones[group.locality.zone] += 1
    total = sum(len(group.lb_endpoints) for group in found.endpoints)
    assert (counted.healthy + counted.draining, counted.draining) == (total, draining)
    assert dict(counted.zones) == dict(zones)
