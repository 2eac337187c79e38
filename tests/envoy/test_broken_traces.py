"""An application that loses the trace is named by `proa analyze traces`, from what real sidecars saw."""

from __future__ import annotations

import json
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from rig import STRICT, App, Container, MeshUnderTest, StartMesh, address

from tests.fakes import otlp
from xds.__main__ import main
from xds.demo.manifests import OUTBOUND_PORT

SETTINGS = """
---
apiVersion: v1
kind: ConfigMap
metadata: {name: proa, namespace: proa-system}
data:
  mesh: |
    evidence: {sampling: 100}
    defaultProviders: {tracing: [collector]}
    extensionProviders:
    - {name: collector, opentelemetry: {service: collector.example.com, port: PORT}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: collector, namespace: shop}
spec:
  hosts: [collector.example.com]
  ports: [{number: PORT, name: grpc, protocol: GRPC}]
  resolution: STATIC
  endpoints: [{address: 127.0.0.1}]
---
apiVersion: v1
kind: Service
metadata: {name: careless, namespace: shop}
spec: {selector: {app: b}, ports: [{name: http, port: 80, targetPort: 8081, appProtocol: http}]}
"""

CALLS = 10


def careless(sidecar: str) -> Any:
    """Return what listens for a handler that calls c without any header of the request that it answers."""

    class Careless(BaseHTTPRequestHandler):
        """Forgets where a call came from."""

        def do_GET(self) -> None:
            """Ask c, and pass its answer on."""
            request = urllib.request.Request(f"http://{sidecar}:{OUTBOUND_PORT}/echo", headers={"Host": "c"})
            with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310  # an address of the test
                body = answer.read()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the overridden method's name
            """Keep the test's output quiet."""

    def listen(host: str, port: int) -> None:
        server = ThreadingHTTPServer((host, port), Careless)
        threading.Thread(target=server.serve_forever, daemon=True).start()

    return listen


def analyze(mesh: MeshUnderTest, *arguments: str) -> str:
    """Run the verb against the mesh's control plane."""
    argv = ["analyze", "traces", *arguments, "--admin", f"127.0.0.1:{mesh.mesh.admin_port}"]
    found = CliRunner().invoke(main, argv)
    assert found.exit_code == 0, found.output
    return found.output


def test_an_application_that_drops_the_trace_is_named(start_mesh: StartMesh, tmp_path: Path) -> None:
    """Beside one that copies it; the sidecars trace one per cent, which is no matter."""
    own = address()
    b = App("b", pod_ip=own, more=(Container("careless", 8081, listen=careless(own)),))
    with otlp.sink(tmp_path) as sink:
        manifests = STRICT + SETTINGS.replace("PORT", str(sink.port))
        mesh = start_mesh(App("client"), App("a"), b, App("c"), manifests=manifests)
        for _ in range(CALLS):
            assert mesh.get("client", "http://a/call?url=http://c/echo").status == 200
            assert mesh.get("client", "http://careless/").status == 200

        def judged() -> dict[str, Any]:
            listed = json.loads(analyze(mesh, "-o", "json"))["workloads"]
            return {each["workload"]: each for each in listed}

        def is_seen() -> bool:
            return {"a.shop", "b.shop"} <= {w for w, each in judged().items() if each["made"] >= CALLS}

        mesh.wait("the evidence has come", is_seen, timeout_s=30)
        found, shown = judged(), analyze(mesh)

    assert found["a.shop"]["verdict"] == "keeps"
    assert found["b.shop"]["verdict"] == "loses the trace"
    assert "b.shop: calls of c.shop.svc.cluster.local begin traces of their own; copy traceparent," in shown
