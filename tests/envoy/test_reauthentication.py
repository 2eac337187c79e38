"""Streams that end so that proxies show their token again: nothing is lost, nothing is sent twice, the newest counts.

It owns the facts about the end of a stream's life with a real Envoy; lives are seconds here and half an hour else.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from rig import App, MeshUnderTest, StartMesh

from xds.demo import admin
from xds.demo.manifests import PodSpec
from xds.state import StateDirectory

_LIFE_S = 2.0

_SERVE = """
import sys
from pathlib import Path
from xds.channel import force_tls13
force_tls13()
from xds.address import Address
from xds.app import Ports, serve
from xds.gate import ServerOptions
from xds.standalone import Options, compose
directory, state, xds, admin, life_s = sys.argv[1:]
options = Options(Path(directory), Path(state), is_insecure=False)
ports = Ports(Address.parse(xds), Address.parse(admin))
sys.exit(serve(compose(options, ports, ServerOptions(stream_life_s=float(life_s)))))
"""


def _serve_with_short_lives(mesh: MeshUnderTest) -> None:
    """Replace the control plane by one whose streams live two seconds."""
    under = mesh.mesh
    assert under.control_plane is not None
    under.family.stop_one(under.control_plane)
    argv = [sys.executable, "-c", _SERVE, str(under.manifests), str(under.state)]
    argv += [f"{under.xds_host}:{under.xds_port}", f"127.0.0.1:{under.admin_port}", str(_LIFE_S)]
    under.control_plane = under.family.start("control-plane-of-short-lives", argv)
    mesh.wait("the control plane is ready", under.api.is_ready, timeout_s=60)
    mesh.wait_synced()


def _events(mesh: MeshUnderTest) -> dict[str, float]:
    """What the server has counted, by event."""
    text = admin.get("127.0.0.1", mesh.mesh.admin_port, "/metrics").decode()
    lines = [line for line in text.splitlines() if line.startswith("proa_server_events_total{")]
    return {line.split('"')[1]: float(line.rpartition(" ")[2]) for line in lines}


def _settled(mesh: MeshUnderTest) -> dict[str, float]:
    """What the server has counted while no stream was beginning: all that are open have had their answers."""
    counted: dict[str, float] = {}

    def is_settled() -> bool:
        before = _events(mesh)
        mesh.wait_synced()
        counted.update(_events(mesh))
        return counted == before

    mesh.wait("no stream is beginning", is_settled)
    return counted


def _unheld(mesh: MeshUnderTest, name: str) -> set[str]:
    """Which resources a proxy has come back without, as its newest stream has said."""
    path = f"/api/v1/proxies/{mesh.pods[name].node_id}/config"
    rows = json.loads(admin.get("127.0.0.1", mesh.mesh.admin_port, path))["resources"]
    return {row["name"] for row in rows if row["state"] != "HELD"} if rows else {"everything"}


def _updated(mesh: MeshUnderTest, name: str) -> dict[str, int]:
    """How often an Envoy has taken a response of each sort, or has rejected one."""
    # Without the token's own secret, which is a file.
    of = r"cluster_manager\.cds|listener_manager\.lds|cluster\..*|http\..*|sds\.(default|ROOTCA)"
    return mesh.stats(name, rf"^({of})\.update_(success|rejected)$")


def test_the_end_of_a_stream_loses_no_request_and_sends_nothing_twice(start_mesh: StartMesh) -> None:
    """Five lives long: every request is answered, and of an unchanged world not one resource is sent again."""
    mesh = start_mesh(App("client"), App("orders"))
    _serve_with_short_lives(mesh)
    traffic = mesh.load("client", "http://orders/echo", rps=100, args=("--new-connections",))
    before, updated = _settled(mesh), _updated(mesh, "client")
    configured = mesh.admin("client", "/config_dump?resource=dynamic_active_clusters")

    def lives() -> float:
        return _events(mesh).get("streams_expired", 0) - before.get("streams_expired", 0)

    mesh.wait("both proxies came back five times", lambda: lives() >= 10, timeout_s=60)
    report = traffic.finish()
    after = _settled(mesh)

    assert report["failed"] == 0, report
    assert report["ok"] > 300
    assert _updated(mesh, "client") == updated
    assert mesh.admin("client", "/config_dump?resource=dynamic_active_clusters") == configured
    mesh.wait("it holds everything but what is absent", lambda: _unheld(mesh, "client") <= {"runtime"})
    # One for each stream: that there is no layer `runtime`, which is no resource.
    assert after["acks"] - before["acks"] <= after["streams_opened"] - before["streams_opened"]
    assert after.get("refused", 0) == before.get("refused", 0) == 0
    assert after.get("stalled", 0) == 0


class Projected:
    """A token's directory as a kubelet keeps it: what is served is one link, and its rename swaps everything."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._secret = (place / "token.sds.json").read_bytes()
        self._number = 0

    def swap(self, token: str) -> None:
        """Write a new version beside the old one, then rename the link (kubelet's AtomicWriter)."""
        self._number += 1
        version = self._place / f"..2026_{self._number}"
        version.mkdir()
        (version / "token").write_text(token, "ascii")
        (version / "token.sds.json").write_bytes(self._secret)
        link = self._place / "..data_tmp"
        link.symlink_to(version.name)
        link.replace(self._place / "..data")
        for name in ("token", "token.sds.json"):
            path = self._place / name
            if not path.is_symlink():  # the first time only
                draft = self._place / f".{name}.tmp"
                draft.symlink_to(f"..data/{name}")
                draft.replace(path)


def _swap(mesh: MeshUnderTest, projected: Projected, pod: PodSpec, *, ttl_s: int) -> float:
    """Swap in a new token and wait until Envoy has read it; return when it expires (epoch, seconds)."""

    def read() -> int:
        return sum(mesh.stats(pod.name, r"^sds\.control-plane-token\.update_success$").values())

    before = read()
    expires_at = time.time() + ttl_s
    projected.swap(_token(mesh, pod, ttl_s=ttl_s))
    mesh.wait("Envoy has read the swapped token", lambda: read() > before)
    return expires_at


def test_a_projected_token_that_is_swapped_is_the_next_streams_proof(start_mesh: StartMesh) -> None:
    """The link `..data` changes; when the first token has expired, streams go on opening with the second one."""
    mesh = start_mesh(App("client"), App("orders"))
    pod = mesh.pods["client"]
    projected = Projected(mesh.mesh.proxies_directory / pod.node_id)
    _serve_with_short_lives(mesh)
    traffic = mesh.load("client", "http://orders/echo", rps=50, args=("--new-connections",))
    updated = _updated(mesh, "client")
    expires_at = _swap(mesh, projected, pod, ttl_s=20)
    _swap(mesh, projected, pod, ttl_s=3600)
    mesh.wait("the first token has expired", lambda: time.time() > expires_at, timeout_s=30)
    then = _events(mesh)

    def opened() -> float:
        return _events(mesh)["streams_opened"] - then["streams_opened"]

    mesh.wait("the proxies came back with a token three times", lambda: opened() >= 6, timeout_s=30)
    mesh.wait_synced()
    report = traffic.finish()

    assert report["failed"] == 0, report
    assert _events(mesh).get("refused", 0) == 0
    assert _updated(mesh, "client") == updated


def test_a_token_that_nobody_renews_is_refused_and_costs_no_traffic(start_mesh: StartMesh) -> None:
    """The stream ends and is not opened again; the proxy keeps what it has, and serves."""
    mesh = start_mesh(App("client"), App("orders"))
    pod = mesh.pods["client"]
    _serve_with_short_lives(mesh)
    _swap(mesh, Projected(mesh.mesh.proxies_directory / pod.node_id), pod, ttl_s=3)
    mesh.wait("the token is refused", lambda: _events(mesh).get("refused", 0) >= 2, timeout_s=30)
    mesh.wait("the proxy is gone", lambda: pod.node_id not in {one.id for one in mesh.mesh.api.proxies()})

    assert mesh.get("client", "http://orders/echo").workload == "orders"


def _token(mesh: MeshUnderTest, pod: PodSpec, *, ttl_s: int) -> str:
    return (
        StateDirectory.open(mesh.mesh.state)
        .token_key()
        .issue(
            namespace=pod.namespace,
            pod=pod.name,
            service_account=pod.service_account,
            trust_domain="cluster.local",
            now=time.time(),
            octets=os.urandom,
            ttl_s=ttl_s,
        )
    )
