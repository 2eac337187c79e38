"""A mesh of real Envoys does what the manifests say; asserted by requests, not by configuration."""

from __future__ import annotations

from rig import STRICT, App, MeshUnderTest, StartMesh, grpc

SPLIT = (
    STRICT
    + """
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: orders, namespace: shop}
spec:
  host: orders
  subsets:
    - {name: v1, labels: {version: v1}}
    - {name: v2, labels: {version: v2}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: orders, namespace: shop}
spec:
  hosts: [orders]
  http:
    - route:
        - {destination: {host: orders, subset: v1}, weight: 100}
        - {destination: {host: orders, subset: v2}, weight: 0}
"""
)


def test_a_call_by_name_reaches_the_service_over_mutual_tls(start_mesh: StartMesh) -> None:
    """The Host decides, the hop is TLS, and an unknown Host is 404."""
    mesh = start_mesh(App("client"), App("orders"))

    assert mesh.get("client", "http://orders/echo").json["workload"] == "orders"
    assert mesh.get("client", "http://orders.shop.svc.cluster.local:80/echo").workload == "orders"
    assert mesh.get("client", "http://nobody/echo").status == 404
    tls, plaintext = mesh.hops("orders")
    assert tls > 0
    assert plaintext == 0


def test_grpc_is_balanced_request_by_request(start_mesh: StartMesh) -> None:
    """Calls over one client connection reach both pods of the service."""
    mesh = start_mesh(App("client"), grpc("stock-a", app="stock"), grpc("stock-b", app="stock"))

    answer = mesh.call_grpc("client", "stock:9090", n=100)

    assert set(answer["by_workload"]) == {"stock-a", "stock-b"}
    assert answer["by_code"] == {"OK": 100}


def test_a_weight_edit_moves_all_traffic(start_mesh: StartMesh) -> None:
    """Once an edit is live, not one request follows the old weights."""
    mesh = start_mesh(App("client"), App("orders-v1", app="orders"), App("orders-v2", app="orders", version="v2"),
                      manifests=SPLIT)  # fmt: skip

    assert {mesh.get("client", "http://orders/echo").workload for _ in range(20)} == {"orders-v1"}
    moved = (
        SPLIT.replace("weight: 100", "weight: -")
        .replace("weight: 0", "weight: 100")
        .replace("weight: -", "weight: 0")
    )
    mesh.edit("manifests.yaml", moved)
    # Envoy acknowledges on its main thread, a moment before its worker has the table.
    mesh.wait("the worker has it", lambda: mesh.get("client", "http://orders/echo").workload == "orders-v2")

    assert {mesh.get("client", "http://orders/echo").workload for _ in range(20)} == {"orders-v2"}


def test_plaintext_to_a_strict_sidecar_is_refused(start_mesh: StartMesh) -> None:
    """A caller without the mesh's certificate gets no answer from a sidecar's inbound port."""
    mesh = start_mesh(App("orders"))

    assert not _answers(mesh, "orders")


def test_the_control_plane_may_die_under_load(start_mesh: StartMesh) -> None:
    """Killed and restarted, it costs no request, and the proxies come back to it."""
    mesh = start_mesh(App("client"), App("orders"))
    traffic = mesh.load("client", "http://orders/echo", rps=100)

    mesh.restart_control_plane()
    mesh.wait_synced()
    report = traffic.finish()

    assert report["failed"] == 0
    assert report["ok"] > 50


def _answers(mesh: MeshUnderTest, name: str) -> bool:
    pod = mesh.pods[name]
    try:
        mesh.request(pod.pod_ip, pod.ports[0], f"http://{name}/echo")
    except OSError:
        return False
    return True
