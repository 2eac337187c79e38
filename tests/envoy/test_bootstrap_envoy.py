"""What a real Envoy makes of our bootstrap: accepted, private, ready only when configured, token re-read."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from rig import STRICT, App, StartMesh, address

from tests.envoy import releases
from xds.bootstrap import (
    ADMIN_PORT,
    METRICS_PORT,
    READY_PORT,
    Plaintext,
    Spec,
    Tls,
    render,
    tls_of_state,
    write_secret,
)
from xds.cli.token import duration
from xds.demo import programs
from xds.demo.mesh import Mesh, is_taken
from xds.demo.processes import wait_until
from xds.state import StateDirectory, write_private

NEEDS = releases.NEEDS


def _spec(tmp_path: Path, *, is_insecure: bool) -> Spec:
    return Spec(
        pod="web-1",
        namespace="shop",
        workload="web",
        service_account="web",
        pod_ip=address(),
        xds_host="127.0.0.1",
        xds_port=1,
        channel=Plaintext() if is_insecure else _channel(tmp_path),
        zone="z1",
    )


def _channel(tmp_path: Path) -> Tls:
    token = tmp_path / "token"
    token.write_text("t")
    channel = tls_of_state(tmp_path / "state", token)
    write_secret(channel)
    return channel


@pytest.mark.parametrize("version", ["", *releases.kept()])
@pytest.mark.parametrize("is_insecure", [False, True], ids=["tls", "insecure"])
def test_envoy_accepts_the_bootstrap_without_a_warning(
    tmp_path: Path,
    is_insecure: bool,  # noqa: FBT001
    version: str,
) -> None:
    """`envoy --mode validate` takes it, and has nothing to warn of; before 1.37 the one that is made for it."""
    document = tmp_path / "bootstrap.json"
    spec = replace(_spec(tmp_path, is_insecure=is_insecure), is_older=version.startswith("1.36."))
    document.write_text(render(spec))

    envoy = releases.envoy(version) if version else programs.envoy()
    argv = [str(envoy), "--mode", "validate", "-l", "warning", "-c", str(document)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_a_sidecar_without_a_control_plane_is_not_ready(tmp_path: Path) -> None:
    """It opens no readiness door before LDS and CDS have answered (their fetch has no timeout)."""
    mesh = Mesh(tmp_path)
    spec = _spec(tmp_path, is_insecure=True)
    document = tmp_path / "bootstrap.json"
    document.write_text(render(spec))
    argv = [
        str(programs.envoy()),
        "-c",
        str(document),
        "--concurrency",
        "1",
        "--disable-hot-restart",
        "-l",
        "off",
    ]
    child = mesh.family.start("envoy", argv)
    try:
        wait_until("admin answers", lambda: is_taken(spec.pod_ip, ADMIN_PORT), timeout_s=20, child=child)
        state = mesh_get(spec.pod_ip, "/ready")

        assert state == (503, "PRE_INITIALIZING\n")
        assert not is_taken(spec.pod_ip, READY_PORT)
    finally:
        mesh.stop()


def test_doors_show_readiness_and_metrics_and_nothing_else(start_mesh: StartMesh) -> None:
    """15021 answers /ready, 15090 /stats/prometheus; the admin endpoint does not take orders to quit."""
    mesh = start_mesh(App("web"))
    pod_ip = mesh.pods["web"].pod_ip

    assert mesh.request(pod_ip, READY_PORT, "http://x/ready").status == 200
    assert mesh.request(pod_ip, READY_PORT, "http://x/config_dump").status == 404
    assert mesh.request(pod_ip, READY_PORT, "http://x/ready", method="POST").status == 404
    assert b"envoy_server_live" in mesh.request(pod_ip, METRICS_PORT, "http://x/stats/prometheus").body
    assert mesh.request(pod_ip, METRICS_PORT, "http://x/clusters").status == 404
    assert mesh.request(pod_ip, ADMIN_PORT, "http://x/quitquitquit", method="POST").status == 403


def test_a_cluster_keeps_what_tells_failures_and_little_else(start_mesh: StartMesh) -> None:
    """Of about 130 counters per cluster at most 35 stay, at most 18 before its first use."""
    mesh = start_mesh(App("client"), App("orders"))
    mesh.get("client", "http://orders/echo")

    used = {
        name.rpartition("cluster_local.")[2] for name in mesh.stats("client", "^cluster.outbound.*orders_")
    }
    idle = mesh.stats("client", "^cluster.outbound.*client_")

    assert used >= {"ssl.handshake", "ssl.fail_verify_san", "membership_healthy", "upstream_rq_retry",
                    "upstream_rq_pending_overflow", "circuit_breakers.default.rq_open"}  # fmt: skip
    assert not used & {"upstream_rq_2xx", "upstream_rq_200", "lb_healthy_panic", "ssl.ciphers"}
    assert len(used) <= 35
    assert len(idle) <= 18


def test_a_replaced_token_is_presented_on_the_next_stream(start_mesh: StartMesh) -> None:
    """After the first token has expired, a control plane that restarts admits the sidecar by its second one."""
    mesh = start_mesh(App("web"))
    pod = mesh.pods["web"]
    token = mesh.mesh.proxies_directory / pod.node_id / "token"
    first = token.read_bytes()
    key = StateDirectory.open(mesh.mesh.state).token_key()

    def issue(ttl_s: int) -> None:
        text = key.issue(
            namespace=pod.namespace,
            pod=pod.name,
            service_account=pod.service_account,
            trust_domain="cluster.local",
            now=time.time(),
            octets=os.urandom,
            ttl_s=ttl_s,
        )
        write_private(token, text.encode())

    issue(1)
    expired_at = time.time() + 1
    mesh.wait("the short token has expired", lambda: time.time() > expired_at + 0.5)
    mesh.restart_control_plane()
    with pytest.raises(Exception, match="not within"):
        mesh.wait("it is admitted", lambda: bool(mesh.mesh.api.proxies()), timeout_s=4)

    issue(duration("1h"))
    mesh.wait_synced()

    assert token.read_bytes() != first


def test_the_command_writes_what_the_mesh_runs_with(start_mesh: StartMesh, tmp_path: Path) -> None:
    """`proa bootstrap` finds address and channel root by itself, and Envoy accepts its file."""
    mesh = start_mesh(App("web"), manifests=STRICT)
    out, token = tmp_path / "b.json", mesh.mesh.proxies_directory / "web.shop" / "token"
    argv = [
        sys.executable,
        "-m",
        "xds",
        "bootstrap",
        "--workload",
        "shop/web",
        "--from",
        str(mesh.mesh.manifests),
    ]
    argv += ["--state", str(mesh.mesh.state), "--xds", f"127.0.0.1:{mesh.mesh.xds_port}"]
    argv += ["--token-file", str(token), "-o", str(out)]

    subprocess.run(argv, check=True)

    assert out.read_text() == (mesh.mesh.proxies_directory / "web.shop.json").read_text()


def mesh_get(host: str, path: str) -> tuple[int, str]:
    """Return status and body of a GET on an admin endpoint."""
    import http.client

    connection = http.client.HTTPConnection(host, ADMIN_PORT, timeout=5)
    connection.request("GET", path)
    response = connection.getresponse()
    try:
        return response.status, response.read().decode()
    finally:
        connection.close()
