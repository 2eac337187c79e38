"""Verbs that ask or change a mesh in a cluster: what they say is what the Pods do."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.cluster import mesh as proa
from tests.cluster import shop
from tests.cluster.cluster import Cluster
from xds.demo.processes import wait_until

REPORTED_S: Final = 45.0
"""Sidecars report every 5 s; a busy machine is no failure."""

SPLIT: Final = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: orders, namespace: NAMESPACE}
spec: {host: orders, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: orders, namespace: NAMESPACE}
spec:
  hosts: [orders]
  http:
    - match: [{uri: {prefix: /echo}}]
      timeout: 3s
      route:
        - {destination: {host: orders, subset: v1}, weight: 100}
        - {destination: {host: orders, subset: v2}, weight: 0}
    - route: [{destination: {host: orders}}]
"""

BUDGET: Final = """
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: orders}
spec: {minAvailable: 2, selector: {matchLabels: {app: orders}}}
"""

READ: Final = (
    "service,endpointslice,pod,serviceaccount,"
    "virtualservice,destinationrule,peerauthentication,authorizationpolicy,serviceentry,sidecar"
)
"""What a directory needs to be the same mesh."""


def asked(mesh: Cluster, *words: str) -> Any:
    """Return the document that a verb prints."""
    done = proa.verb(mesh, *words, "-o", "json")
    assert done.exit_code in {0, 1}, done.output
    return json.loads(done.stdout)


# -- What is told --------------------------------------------------------------------------------


@pytest.fixture
def busy(mesh: Cluster, street: str) -> Iterator[Callable[[], None]]:
    """Yield what makes 50 calls of web to the visitor."""
    with shop.Client(mesh, street, "web") as web:
        yield lambda: web.call("http://visitor/echo", n=50)


def test_the_graph_has_the_edge_that_is_used(mesh: Cluster, street: str, busy: Callable[[], None]) -> None:
    """`graph`, `edges`, `top` and `stat` ask every replica, and say the same of one edge."""
    web, visitor = f"web.{street}", f"visitor.{street}"

    def edge(verb: str) -> dict[str, Any]:
        found: list[dict[str, Any]] = asked(mesh, verb, "-n", street)["edges"]
        of_both = [one for one in found if (one["source"], one["destination"]) == (web, visitor)]
        return of_both[0] if of_both else {}

    def is_seen() -> bool:
        busy()
        return edge("top") != {} and edge("graph").get("security") == "mutual_tls"

    wait_until("the edge", is_seen, timeout_s=REPORTED_S)
    graph = asked(mesh, "graph", "-n", street)
    rows = asked(mesh, "stat", "deploy", "-n", street)["rows"]

    assert {web, visitor} <= {node["name"] for node in graph["nodes"] if node["meshed"] == 1}
    seen = edge("edges")
    assert seen["security"] == "mutual_tls"
    assert seen["source_identity"] == f"spiffe://cluster.local/ns/{street}/sa/web"
    assert seen["destination_identity"] == f"spiffe://cluster.local/ns/{street}/sa/visitor"
    assert seen["service"] == f"visitor.{street}.svc.cluster.local"
    (row,) = (one for one in rows if one["name"] == "visitor")
    assert (row["pods"], row["meshed"], row["red"]["success"]) == (1, 1, 1.0)


def test_an_explanation_is_the_same_offline(mesh: Cluster, street: str, tmp_path: Path) -> None:
    """The replicas, and a directory of what kubectl prints of the same namespaces, answer alike."""
    folder = tmp_path / "mesh"
    folder.mkdir()
    question = (f"web.{street}", "orders", "GET /echo/tea")
    mesh.apply(SPLIT.replace("NAMESPACE", street))
    try:
        wait_until(
            "the rule",
            lambda: "http[0].match[0]" in str(asked(mesh, "explain", *question)["route"]),
            timeout_s=REPORTED_S,
        )
        documents = [
            *(mesh.get(kind, name) for kind, name in (("namespace", street), ("namespace", proa.NAMESPACE))),
            mesh.get("-n", proa.NAMESPACE, "configmap", "proa"),
            *mesh.get("nodes,servicecidrs")["items"],
            *mesh.get("-n", street, READ)["items"],
        ]
        (folder / "all.yaml").write_text(yaml.safe_dump_all(documents), "utf-8")
        live = asked(mesh, "explain", *question)
        offline = json.loads(proa_offline(mesh, folder, question))
    finally:
        mesh.kubectl("delete", "virtualservice/orders", "destinationrule/orders", "-n", street)

    assert live["outcome"] == "forwarded to 2 endpoints"  # one Pod, two addresses
    assert [one["percent"] for one in live["targets"]] == [100.0]
    assert live["proxies"] == [{"id": live["proxies"][0]["id"], "rejected": [], "unanswered": []}]
    assert without(live) == without(offline)


def proa_offline(mesh: Cluster, folder: Path, question: tuple[str, ...]) -> str:
    """Return what `explain --dir` prints."""
    return proa.verb(mesh, "explain", *question, "--dir", str(folder), "-o", "json").stdout


def without(answer: dict[str, Any]) -> dict[str, Any]:
    """Return an answer without what only a running mesh has, and without places in files."""
    text = json.dumps({name: value for name, value in answer.items() if name != "proxies"})
    found: dict[str, Any] = json.loads(
        text, object_hook=lambda one: {**one, "where": ""} if "where" in one else one
    )
    return found


def test_waiting_tells_what_is_in_force_from_what_is_not(mesh: Cluster, street: str, tmp_path: Path) -> None:
    """What was applied is accepted by every proxy that uses it; a file that differs is not in force: exit code 1."""
    file = tmp_path / "rules.yaml"
    file.write_text(SPLIT.replace("NAMESPACE", street), "utf-8")
    with shop.Client(mesh, street, "web") as web:
        web.call("http://orders/echo")
    try:
        mesh.kubectl("apply", "-f", str(file))
        applied = proa.verb(mesh, "wait", "-f", str(file))
        file.write_text(file.read_text("utf-8").replace("3s", "4s"), "utf-8")
        edited = proa.verb(mesh, "wait", "-f", str(file), "--timeout", "1s")
    finally:
        mesh.kubectl("delete", "-f", str(file))

    assert applied.exit_code == 0, applied.output
    assert f"VirtualService {street}/orders: in force, accepted by every proxy" in applied.stdout
    assert edited.exit_code == 1
    assert f"VirtualService {street}/orders: another version, or none, is in force" in edited.stderr


# -- What is done --------------------------------------------------------------------------------


def test_a_fault_ends_by_itself(mesh: Cluster, street: str) -> None:
    """Abort and delay, put in force by the command line and ended by the control plane's clock."""

    def call() -> tuple[int, float]:
        begun = time.monotonic()
        status = web.call("http://orders/echo", timeout="9s")["status"]
        return status, time.monotonic() - begun

    def inject(*words: str) -> None:
        done = proa.verb(mesh, "fault", *words, "--for", "20s")
        assert done.exit_code == 0, done.output

    with shop.Client(mesh, street, "web") as web:
        inject("delay", f"orders.{street}", "1s")
        wait_until("the delay", lambda: call()[1] >= 1, timeout_s=15)
        inject("abort", f"orders.{street}", "418")
        wait_until("the abort", lambda: call()[0] == 418, timeout_s=15)
        wait_until("its end", lambda: call()[0] == 200, timeout_s=60)
    ended = proa.verb(mesh, "fault", "end", f"orders.{street}")

    assert ended.exit_code == 0, ended.output
    assert not mesh.exists("faults", "-n", street)


def test_a_pod_is_taken_away_if_all_agree(mesh: Cluster, street: str) -> None:
    """Not unless the mesh allows it, and not below a disruption budget; else by eviction, and another one comes."""
    before = {pod["metadata"]["name"] for pod in proa.pods(mesh, street, "app=orders")}
    victim = min(before)

    def kill() -> tuple[int, str]:
        done = proa.verb(mesh, "fault", "kill-pod", f"{victim}.{street}", "--yes")
        return done.exit_code, done.output

    off = kill()
    mesh.apply(BUDGET, street)
    with proa.settings(mesh, evictPods=True):
        held = kill()
        mesh.kubectl("delete", "pdb/orders", "-n", street)
        evicted = kill()
    left = {pod["metadata"]["name"] for pod in proa.pods(mesh, street, "app=orders")}
    shop.wait(mesh, street)

    assert off[0] == 1
    assert f"set evictPods: true in ConfigMap {proa.NAMESPACE}/proa data.mesh" in off[1]
    assert (held[0], "a disruption budget holds Pod" in held[1]) == (1, True)
    assert evicted == (0, f"Pod {street}/{victim} is evicted\n")
    assert victim not in left
