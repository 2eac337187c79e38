"""What `proa explain` says: of realistic mistakes the cause, and of every step the object that decides it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from tests.fakes.faults import BASE, Mistake, mistakes
from tests.fakes.fleet import row
from tests.fakes.manifests import objects
from xds.control import ControlPlane
from xds.explain.answer import Answer
from xds.explain.facts import Facts
from xds.explain.located import located
from xds.explain.provenance import server_mode
from xds.explain.question import read_question
from xds.explain.walk import explain
from xds.fields import ConfigError
from xds.ledger import Row, State
from xds.snapshot import ResourceType
from xds.sources.directory import Directory

MISTAKES = mistakes()
NOW = 1_800_000_000
"""A time at which the tokens of the mistakes are what their folders say."""
RULES = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: orders, namespace: shop}
spec:
  host: orders
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}, trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: orders, namespace: shop}
spec:
  hosts: [orders]
  http:
  - match: [{sourceLabels: {app: other}}]
    directResponse: {status: 204}
  - match: [{uri: {prefix: /api/}, headers: {x-user: {exact: qa}}}]
    rewrite: {uri: /}
    timeout: 2s
    mirror: {host: orders, subset: v2}
    route:
    - {destination: {host: orders, subset: v1}, weight: 90}
    - {destination: {host: orders, subset: v2}, weight: 10}
  - route: [{destination: {host: orders, subset: v1}}]
"""


class Shop:
    """A directory of manifests and the control plane that has read it."""

    def __init__(self, root: Path, *edits: str) -> None:
        self._root = root
        (root / "base.yaml").write_text(BASE.read_text("utf-8"), "utf-8")
        self._directory = Directory(root)
        self._plane = ControlPlane()
        for text in edits or ("",):
            (root / "fault.yaml").write_text(text, "utf-8")
            batch = self._directory.rescan()
            self._plane.apply(batch.changes, at=0.0, now=0.0, broken=batch.broken)

    def ask(
        self,
        source: str,
        destination: str,
        request: str = "",
        *headers: str,
        proxies: Sequence[tuple[str, Sequence[Row]]] = (),
    ) -> Answer:
        """Return the answer, with places."""
        plan = self._plane.plan
        problems = (*self._directory.problems(), *self._directory.placed(plan.problems()))
        facts = Facts(plan.world, NOW, problems, self._plane.store.get, lambda _pod: proxies)
        question = read_question(source, destination, request, headers)
        found = located(explain(facts, question), self._directory.placed)
        return strip(found, f"{self._root}/")


def strip(found: Answer, prefix: str) -> Answer:
    """Return the answer with places relative to the directory."""
    return msgspec.json.decode(msgspec.json.encode(found).decode().replace(prefix, ""), type=Answer)


@pytest.mark.parametrize("mistake", MISTAKES, ids=[one.name for one in MISTAKES])
def test_a_mistake_is_named(tmp_path: Path, mistake: Mistake) -> None:
    """The first cause names the objects of the mistake, and the status is what the sender gets."""
    found = Shop(tmp_path, *mistake.written()).ask(*mistake.ask, *mistake.headers)

    assert [cause.code for cause in found.causes][:1] == [mistake.cause]
    assert found.causes[0].text == mistake.says
    assert found.causes[0].status == ("" if mistake.status in {"200", "410", "504"} else mistake.status)


@pytest.mark.parametrize("mistake", MISTAKES, ids=[one.name for one in MISTAKES])
def test_nothing_is_found_where_nothing_is_wrong(tmp_path: Path, mistake: Mistake) -> None:
    """Without the mistake the same question has no cause."""
    if mistake.before:
        assert Shop(tmp_path).ask(*mistake.ask, *mistake.headers).causes == ()


def test_every_step_names_its_object(tmp_path: Path) -> None:
    """Route, place in the file, split, timeout, mirror, subset and both TLS ends."""
    found = Shop(tmp_path, RULES).ask("client.shop", "orders", "GET /api/x?y=1", "X-User: qa")

    assert found.route is not None
    assert (found.route.object, found.route.rule) == ("VirtualService shop/orders", "http[1].match[0]")
    assert found.route.where == "fault.yaml:19:13"
    assert (found.timeout_ms, found.rewrite) == (2000, "uri /")
    assert [(one.subset, one.percent) for one in found.targets] == [("v1", 90), ("v2", 10)]
    assert [one.cluster for one in found.mirrors] == ["outbound|80|v2|orders.shop.svc.cluster.local"]
    assert [one.endpoints.healthy for one in found.targets] == [1, 1]
    assert found.targets[1].tls.client.why == "DestinationRule shop/orders subsets[v2].trafficPolicy.tls"
    assert [(one.rule, one.reason) for one in found.considered] == [
        ("http[0].match[0]", "is for clients with the labels app=other")
    ]


def test_a_host_written_out_with_its_last_dot_is_the_same(tmp_path: Path) -> None:
    """The answer is the one for the name without the dot."""
    shop, host = Shop(tmp_path, RULES), "orders.shop.svc.cluster.local"

    assert shop.ask("client.shop", f"{host}.", "GET /api/x") == shop.ask("client.shop", host, "GET /api/x")


def test_a_rule_that_is_passed_over_says_why(tmp_path: Path) -> None:
    """The first condition that fails is named, in the order of the table."""
    found = Shop(tmp_path, RULES).ask("client.shop", "orders", "GET /api/x")

    assert found.route is not None and found.route.rule == "http[2]"
    assert found.considered[0].reason == "header x-user is absent"


@pytest.mark.parametrize(
    ("source", "destination", "asked", "words"),
    [
        ("", "orders", "", "source: is missing"),
        ("nobody.shop", "orders", "", "no Pod or workload nobody is known in namespace shop"),
        ("nowhere", "orders", "", "no namespace nowhere is known"),
        ("client.shop", "orders:0", "", "port must be 1..65535"),
        ("client.shop", "orders", "GET x", "path must begin with /"),
        ("client.shop", "orders", "get /x", "method must be in capital letters"),
        ("client.shop", "orders", "GET /x#y", "must not hold a #"),
        ("client.shop", "orders\n", "", "control characters"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused(
    tmp_path: Path, source: str, destination: str, asked: str, words: str
) -> None:
    """The word that is wrong is named, and what would be right."""
    with pytest.raises(ConfigError, match=words):
        Shop(tmp_path).ask(source, destination, asked)


def test_a_namespace_asks_for_its_pods_without_labels(tmp_path: Path) -> None:
    """A bare namespace is the class of clients that no rule tells apart."""
    found = Shop(tmp_path, RULES).ask("web", "orders.shop", "GET /echo")

    assert found.source.identity == "spiffe://cluster.local/ns/web/sa/default"
    assert found.route is not None and found.route.rule == "http[2]"


def test_what_a_proxy_has_not_accepted_is_told(tmp_path: Path) -> None:
    """A rejected resource of the source's proxy is part of the answer, in Envoy's words."""
    rejected = row(ResourceType.ROUTES, "outbound", state=State.NACKED, error="Only unique values")
    shop = Shop(tmp_path)

    waiting = row(name="new", state=State.SENT)
    found = shop.ask("client.shop", "orders", proxies=[("client.shop", (row(), rejected, waiting))])

    assert [(one.id, one.rejected, one.unanswered) for one in found.proxies] == [
        ("client.shop", ("outbound: Only unique values",), ("new",))
    ]


def test_modes_are_those_in_force() -> None:
    """The mode that a policy is said to set is the one that the Pod's port has, for every mix of policies."""
    modes = (None, "STRICT", "PERMISSIVE", "DISABLE")
    for mesh, namespace, workload, port in itertools.product(modes, repeat=4):
        policies = [
            _policy("default", "proa-system", mesh),
            _policy("default", "shop", namespace),
            _policy("orders", "shop", workload, port),
        ]
        plane = ControlPlane()
        plane.apply(objects(BASE.read_text("utf-8"), *policies), at=0.0, now=0.0)
        world = plane.plan.world
        pod = world.pod(("shop", "orders-v1"))
        assert pod is not None
        mode, why = server_mode(world, pod, 8080)
        said = {
            "PeerAuthentication shop/orders portLevelMtls[8080]": port,
            "PeerAuthentication shop/orders": workload,
            "PeerAuthentication shop/default": namespace,
            "PeerAuthentication proa-system/default": mesh,
            "the default": "PERMISSIVE",
        }
        assert said[why] == mode.value


def _policy(name: str, namespace: str, mode: str | None, port: str | None = None) -> str:
    selector = "selector: {matchLabels: {app: orders}}, " if name == "orders" else ""
    ports = f", portLevelMtls: {{'8080': {{mode: {port}}}}}" if port else ""
    return f"""
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{{selector}mtls: {{mode: {mode or "UNSET"}}}{ports}}}
"""


def test_a_cause_of_one_destination_says_its_share(tmp_path: Path) -> None:
    """A subset that nobody has concerns its share of the requests, and the outcome says how many."""
    text = RULES.replace("{version: v2}, trafficPolicy", "{version: v9}, trafficPolicy")
    found = Shop(tmp_path, text).ask("client.shop", "orders", "GET /api/x", "x-user: qa")

    assert (found.causes[0].code, found.causes[0].percent) == ("empty-subset", 10)
    assert found.outcome.startswith("503 for 10 % of the requests: subset v2")


def test_a_cause_of_every_destination_is_said_once(tmp_path: Path) -> None:
    """What stops both halves of a split stops the whole."""
    closed = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: nobody, namespace: shop}
spec: {}
"""
    found = Shop(tmp_path, f"{RULES}---{closed}").ask("client.shop", "orders", "GET /api/x", "x-user: qa")

    assert [(one.code, one.percent) for one in found.causes] == [("denied", 100)]
    assert found.outcome.startswith(
        "403: AuthorizationPolicy shop/nobody must allow it, and no rule there can"
    )
    assert found.targets[0].authorization.policy == "AuthorizationPolicy shop/nobody"


def test_a_fault_that_ends_by_itself_is_named(tmp_path: Path) -> None:
    """Not the rule whose place it takes, but the Fault."""
    text = """
apiVersion: proa.dev/v1alpha1
kind: Fault
metadata: {name: orders-fault, namespace: shop}
spec:
  targetRef: {kind: Service, name: orders}
  expiresAt: "2100-01-01T00:00:00Z"
  fault: {abort: {httpStatus: 503, percentage: {value: 50}}, delay: {fixedDelay: 1s, percentage: {value: 5}}}
"""
    found = Shop(tmp_path, text).ask("client.shop", "orders")

    assert found.fault is not None and found.fault.object == "Fault shop/orders-fault"
    assert [one.text for one in found.causes] == [
        "Fault shop/orders-fault aborts 50 % of the requests on purpose, with 503",
        "Fault shop/orders-fault delays 5 % of the requests by 1000 ms on purpose, before any timeout counts",
    ]
