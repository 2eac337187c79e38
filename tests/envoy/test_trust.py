"""Keys change under load: leaves and roots are replaced while every request opens a new connection."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from rig import STRICT, App, MeshUnderTest, StartMesh

PERMISSIVE = STRICT.replace("STRICT", "PERMISSIVE")
ONE_PORT_OPEN = (
    STRICT
    + """
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: orders, namespace: shop}
spec:
  selector: {matchLabels: {app: orders}}
  mtls: {mode: STRICT}
  portLevelMtls: {"8080": {mode: DISABLE}}
"""
)


FRESH = (
    STRICT
    + """
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: orders, namespace: shop}
spec:
  host: orders
  trafficPolicy: {connectionPool: {http: {maxRequestsPerConnection: 1}}}
"""
)
"""One request for each connection between sidecars: every request is a handshake."""


def _ca(mesh: MeshUnderTest, *words: str) -> dict[str, Any]:
    argv = [sys.executable, "-m", "xds", "ca", *words, "--state", str(mesh.mesh.state), "-o", "json"]
    return json.loads(subprocess.run(argv, check=True, capture_output=True, timeout=30).stdout)


def _plaintext(mesh: MeshUnderTest, name: str) -> int:
    """Return the status of a plaintext request to a pod's inbound port, 0 when the connection is refused or cut."""
    pod = mesh.pods[name]
    try:
        return mesh.request(pod.pod_ip, pod.ports[0], f"http://{name}/echo").status
    except OSError:
        return 0


def test_root_rotation_loses_no_request(start_mesh: StartMesh) -> None:
    """Prepare, wait for every proxy, activate, retire: not one request is lost, and the old root is gone."""
    mesh = start_mesh(App("client"), App("orders"), manifests=FRESH)
    before = _ca(mesh, "status")["workload"]["roots"]
    traffic = mesh.load("client", "http://orders/echo", rps=50, args=("--new-connections",))

    _ca(mesh, "rotate")
    mesh.wait(
        "the rotation is over",
        lambda: (
            _ca(mesh, "status")["workload"]["phase"] == "steady"
            and _ca(mesh, "status")["workload"]["roots"] != before
        ),
        timeout_s=90,
    )
    report = traffic.finish()
    after = _ca(mesh, "status")["workload"]["roots"]

    assert report["failed"] == 0, report
    assert _handshakes(mesh) >= report["ok"] * 0.9
    assert report["ok"] > 200
    assert len(after) == 1
    assert after[0]["fingerprint"] != before[0]["fingerprint"]


def test_leaf_renewal_loses_no_request(start_mesh: StartMesh) -> None:
    """Leaves that live 20 s are replaced at half of it, again and again, without a lost request."""
    mesh = start_mesh(App("client"), App("orders"), manifests=FRESH, serve_args=("--leaf-ttl", "20s"))
    first = _leaf_serial(mesh)
    traffic = mesh.load("client", "http://orders/echo", rps=50, args=("--new-connections",))

    seen = {first}

    def is_renewed_twice() -> bool:
        seen.add(_leaf_serial(mesh))
        return len(seen) >= 3

    mesh.wait("two renewals", is_renewed_twice, timeout_s=60)
    report = traffic.finish()

    assert report["failed"] == 0, report
    assert _handshakes(mesh) >= report["ok"] * 0.9
    assert report["ok"] > 200


def _handshakes(mesh: MeshUnderTest) -> int:
    return sum(mesh.stats("client", r"^cluster\.outbound.80..orders.*\.ssl\.handshake$").values())


def _leaf_serial(mesh: MeshUnderTest) -> str:
    """Return the serial of the certificate that the sidecar of orders shows; the channel has only a root."""
    found = json.loads(mesh.admin("orders", "/certs"))["certificates"]
    (serial,) = {leaf["serial_number"] for entry in found for leaf in entry["cert_chain"]}
    return serial


def test_permissive_takes_both(start_mesh: StartMesh) -> None:
    """PERMISSIVE: the mesh speaks mutual TLS, a stranger is answered in plaintext."""
    mesh = start_mesh(App("client"), App("orders"), manifests=PERMISSIVE)

    assert mesh.get("client", "http://orders/echo").workload == "orders"
    assert mesh.hops("orders") == (1, 0)
    assert _plaintext(mesh, "orders") == 200


def test_strict_comes_into_force_live(start_mesh: StartMesh) -> None:
    """An edit to STRICT closes the port to strangers; callers of the mesh notice nothing."""
    mesh = start_mesh(App("client"), App("orders"), manifests=PERMISSIVE)
    before = _plaintext(mesh, "orders")
    mesh.edit("manifests.yaml", STRICT)
    mesh.wait("strangers are refused", lambda: _plaintext(mesh, "orders") == 0)

    assert before == 200
    assert mesh.get("client", "http://orders/echo").workload == "orders"


def test_port_level_disable_is_called_in_plaintext(start_mesh: StartMesh) -> None:
    """A port that is DISABLE is called in plaintext by the mesh itself."""
    mesh = start_mesh(App("client"), App("orders"), manifests=ONE_PORT_OPEN)

    assert mesh.get("client", "http://orders/echo").workload == "orders"
    assert mesh.hops("orders") == (0, 1)


def test_control_plane_returns_after_the_first_tokens_have_expired(start_mesh: StartMesh) -> None:
    """``proa token --renew`` keeps the file fresh, and a sidecar joins again with what the file holds by then."""
    mesh = start_mesh(App("client"), App("orders"))
    files = {
        name: mesh.mesh.proxies_directory / mesh.pods[name].node_id / "token" for name in ("client", "orders")
    }
    renewers = [_renew(mesh, name, file) for name, file in files.items()]
    seen: dict[str, set[str]] = {name: set() for name in files}

    def are_renewed() -> bool:
        for name, file in files.items():
            seen[name].add(file.read_text("ascii"))
        return all(len(tokens) >= 5 for tokens in seen.values())  # each lives 4 s and is replaced after 2

    try:
        mesh.wait("every token that a sidecar joined with has expired", are_renewed, timeout_s=60)
        mesh.restart_control_plane()
        mesh.wait_synced()
    finally:
        for renewer in renewers:
            renewer.terminate()
            renewer.wait(10)

    assert mesh.get("client", "http://orders/echo").workload == "orders"


def _renew(mesh: MeshUnderTest, name: str, file: Path) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-m", "xds", "token", "--workload", f"shop/{name}", "--service-account", name]
    argv += ["--out", str(file), "--ttl", "4s", "--renew", "--state", str(mesh.mesh.state)]
    return subprocess.Popen(argv)
