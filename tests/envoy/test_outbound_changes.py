"""What changes under an intercepted application that calls: rules, services, the control plane, its own sidecar."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Generator, Mapping

import netns
import yaml
from rig import STRICT, App
from transparent import StartPods, TransparentMesh

NEEDS = netns.NEEDS

ABORT = {"fault": {"abort": {"httpStatus": 418, "percentage": {"value": 100}}}}

REGISTRY_ONLY = """
apiVersion: v1
kind: ConfigMap
metadata: {name: proa, namespace: proa-system}
data:
  mesh: |
    outboundTrafficPolicy: {mode: REGISTRY_ONLY}
"""


def rule(service: str, http: Mapping[str, object]) -> str:
    """Return a VirtualService of one rule."""
    return yaml.safe_dump(
        {
            "apiVersion": "networking.istio.io/v1",
            "kind": "VirtualService",
            "metadata": {"name": service, "namespace": "shop"},
            "spec": {"hosts": [service], "http": [{"route": [{"destination": {"host": service}}], **http}]},
        }
    )


@contextlib.contextmanager
def calling(mesh: TransparentMesh, service: str) -> Generator[Counter[int]]:
    """Call a service from the client without a pause; the count of each status."""
    seen: Counter[int] = Counter()
    is_over = threading.Event()

    def call() -> None:
        while not is_over.is_set():
            seen[mesh.ask("client", mesh.vip(service), 80, f"http://{service}/echo").status] += 1

    thread = threading.Thread(target=call, name="calling")
    thread.start()
    try:
        yield seen
    finally:
        is_over.set()
        thread.join()


def test_rule_comes_and_goes_without_a_lost_request(start_pods: StartPods) -> None:
    """A VirtualService takes effect where its service is used already, and ends; nothing fails on the way."""
    mesh = start_pods(App("client"), App("orders"))
    with calling(mesh, "orders") as seen:
        mesh.wait("the service is called", lambda: seen[200] > 10)
        mesh.edit("rule.yaml", rule("orders", ABORT), cause="VirtualService shop/orders")
        mesh.wait("the rule holds", lambda: seen[418] > 10)
        before = seen[200]
        (mesh.mesh.manifests / "rule.yaml").unlink()
        mesh.wait("the rule has gone", lambda: seen[200] > before + 10)

    assert set(seen) == {200, 418}


def test_known_services_outlive_the_control_plane(start_pods: StartPods) -> None:
    """While it is away what is known works on and the rest fails in time; back again, it changes no cluster."""
    mesh = start_pods(App("client"), App("orders"), App("stock"))
    mesh.ask("client", mesh.vip("orders"), 80, "http://orders/echo")
    mesh.wait_synced()
    control_plane = mesh.mesh.control_plane
    assert control_plane is not None
    control_plane.process.kill()
    control_plane.process.wait()

    known = mesh.ask("client", mesh.vip("orders"), 80, "http://orders/echo").status
    unknown = mesh.ask("client", mesh.vip("stock"), 80, "http://stock/echo").status
    before = mesh.stats("client", r"cluster_manager\.cluster_(added|modified|removed)$")
    mesh.restart_control_plane()
    mesh.wait_synced()
    after = mesh.stats("client", r"cluster_manager\.cluster_(added|modified|removed)$")
    later = mesh.ask("client", mesh.vip("stock"), 80, "http://stock/echo").status

    assert (known, unknown, later) == (200, 503, 200)
    assert after["cluster_manager.cluster_modified"] == before["cluster_manager.cluster_modified"]
    assert after["cluster_manager.cluster_removed"] == before["cluster_manager.cluster_removed"]


def test_next_sidecar_of_a_workload_starts_with_what_the_last_one_used(start_pods: StartPods) -> None:
    """Clusters and rules are there before the first request, which then works without a control plane."""
    mesh = start_pods(App("client"), App("orders"), manifests="\n---\n".join((STRICT, rule("orders", ABORT))))
    mesh.ask("client", mesh.vip("orders"), 80, "http://orders/echo")
    mesh.wait_synced()
    mesh.mesh.family.stop_one(mesh.sidecars["client"])
    mesh.sidecars["client"] = mesh.start_sidecar(mesh.pods["client"])
    mesh.mesh.wait_ready(mesh.pods["client"], mesh.sidecars["client"])
    control_plane = mesh.mesh.control_plane
    assert control_plane is not None
    control_plane.process.kill()
    control_plane.process.wait()

    assert mesh.ask("client", mesh.vip("orders"), 80, "http://orders/echo").status == 418


def test_service_that_comes_later_is_found(start_pods: StartPods) -> None:
    """An address that was nobody's when it was first called belongs to a Service as soon as there is one."""
    mesh = start_pods(App("client"), App("orders"))
    bridge = mesh.mesh.xds_host  # somebody is there, and refuses
    meta = {"name": "late", "namespace": "shop"}
    port = {"name": "main", "port": 80, "targetPort": 8080, "appProtocol": "http"}
    spec = {"selector": {"app": "orders"}, "clusterIP": bridge, "clusterIPs": [bridge], "ports": [port]}
    early = mesh.ask("client", bridge, 80, "http://late/echo").status
    mesh.write(
        "late.yaml", yaml.safe_dump({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec})
    )

    mesh.wait("the service answers", lambda: mesh.ask("client", bridge, 80, "http://late/echo").status == 200)

    assert early == 503


def test_registry_only_closes_what_nobody_declared(start_pods: StartPods) -> None:
    """With REGISTRY_ONLY strangers are unreachable, within the ranges of the cluster and without."""
    mesh = start_pods(App("client"), App("orders"), manifests="\n---\n".join((STRICT, REGISTRY_ONLY)))

    for address in ("10.96.200.1", "203.0.113.9"):
        with mesh.connect("client", address, 5000) as raw:
            raw.settimeout(10)
            with contextlib.suppress(ConnectionError):
                assert raw.recv(1) == b""
    assert mesh.ask("client", mesh.vip("orders"), 80, "http://orders/echo").status == 200


CANARY = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: orders, namespace: shop}
spec:
  host: orders
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: orders, namespace: shop}
spec:
  hosts: [orders]
  http:
  - match: [{headers: {x-canary: {exact: "yes"}}}]
    route: [{destination: {host: orders, subset: v2}}]
    mirror: {host: shadow}
  - route: [{destination: {host: orders, subset: v1}}]
"""


def test_subsets_and_mirrors_hold_from_the_first_request(start_pods: StartPods) -> None:
    """Clusters that only a rule names are there with it, those included that nobody waits for."""
    apps = (App("client"), App("orders-v1", app="orders"), App("orders-v2", app="orders", version="v2"))
    mesh = start_pods(*apps, App("shadow"), manifests="\n---\n".join((STRICT, CANARY)))
    canary = mesh.ask("client", mesh.vip("orders"), 80, "http://orders/echo", {"x-canary": "yes"})
    others = [mesh.ask("client", mesh.vip6("orders"), 80, "http://orders/echo") for _ in range(5)]

    def is_mirrored() -> bool:
        return mesh.stats("shadow", "downstream_rq_total").get("http.inbound|8080.downstream_rq_total") == 1

    mesh.wait("the mirrored request arrives", is_mirrored)
    assert (canary.status, canary.workload) == (200, "orders-v2")
    assert {(reply.status, reply.workload) for reply in others} == {(200, "orders-v1")}
