"""ServiceEntry and Sidecar for applications that call their sidecar by its address: the Host decides."""

from __future__ import annotations

import yaml
from rig import App, StartMesh

CLIENT, ORDERS, STOCK = App("client"), App("orders"), App("stock")

NARROW = """
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: narrow, namespace: shop}
spec:
  workloadSelector: {labels: {app: client}}
  egress: [{hosts: [./orders.shop.svc.cluster.local]}]
"""


def entry(address: str, port: int) -> str:
    """Return a ServiceEntry of one host with one endpoint, and a VirtualService that changes what it is asked for."""
    return yaml.safe_dump_all(
        [
            {
                "apiVersion": "networking.istio.io/v1",
                "kind": "ServiceEntry",
                "metadata": {"name": "api", "namespace": "shop"},
                "spec": {
                    "hosts": ["api.example.com"],
                    "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}],
                    "resolution": "STATIC",
                    "endpoints": [{"address": address, "ports": {"http": port}}],
                },
            },
            {
                "apiVersion": "networking.istio.io/v1",
                "kind": "VirtualService",
                "metadata": {"name": "api", "namespace": "shop"},
                "spec": {
                    "hosts": ["api.example.com"],
                    "http": [
                        {
                            "rewrite": {"uri": "/echo"},
                            "route": [{"destination": {"host": "api.example.com"}}],
                        }
                    ],
                },
            },
        ]
    )


def test_a_host_outside_is_called_by_its_name(start_mesh: StartMesh) -> None:
    """An entry comes with its rule, is called, and is gone with its file; nobody else has the host."""
    mesh = start_mesh(CLIENT, ORDERS)
    pod = mesh.pods["orders"]

    assert mesh.get("client", "http://api.example.com/").status == 404
    mesh.edit("entry.yaml", entry(pod.app_address, pod.ports[0]), cause="ServiceEntry shop/api")
    mesh.wait("the entry is served", lambda: mesh.get("client", "http://api.example.com/").status == 200)
    assert mesh.get("client", "http://api.example.com/").workload == "orders"
    (mesh.mesh.manifests / "entry.yaml").unlink()
    mesh.wait("the entry is gone", lambda: mesh.get("client", "http://api.example.com/").status == 404)


def test_a_sidecar_holds_what_its_namespace_needs(start_mesh: StartMesh) -> None:
    """What it does not import has no route and no cluster there; what it imports goes on; other Pods see all."""
    mesh = start_mesh(CLIENT, ORDERS, STOCK)

    def seen(source: str) -> list[int]:
        return [mesh.get(source, f"http://{host}/echo").status for host in ("orders", "stock")]

    assert seen("client") == [200, 200]
    (mesh.mesh.manifests / "narrow.yaml").write_text(NARROW, encoding="utf-8")
    mesh.wait("the Sidecar holds", lambda: seen("client") == [200, 404])
    assert seen("orders") == [200, 200]
    mesh.wait("the cluster is gone", lambda: "stock.shop" not in mesh.admin("client", "/clusters"))
    (mesh.mesh.manifests / "narrow.yaml").unlink()
    mesh.wait("the Sidecar is gone", lambda: seen("client") == [200, 200])
