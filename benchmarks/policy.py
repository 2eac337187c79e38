"""A changed AuthorizationPolicy: how long until every Envoy has it, and whether open connections obey at once.

It owns the edits and reads the time from the ledger; it must never replace an Envoy by something cheaper.
"""

from __future__ import annotations

import contextlib
import http.client
import shutil
import statistics
import time
from pathlib import Path

from benchmarks.figures import Result
from benchmarks.fleet import laboratory
from xds.demo import programs
from xds.demo.manifests import OUTBOUND_PORT, PodSpec, read_pods
from xds.demo.mesh import Mesh
from xds.demo.processes import wait_until

LIVE_S = 10.0
"""A change that is not live by then never will be."""

POLICY = """apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: policy, namespace: proa-system}
spec: {rules: [{to: [{operation: {methods: [%s]}}]}]}
"""


def run(result: Result) -> None:
    """Let a policy of the whole mesh allow GET and not allow it, in turn, under requests on an open connection."""
    edits = 4 if result.is_quick else 100
    with laboratory() as lab:
        shutil.copytree(programs.examples() / "mesh", lab.work / "manifests")
        mesh = Mesh(lab.work)
        try:
            mesh.serve()
            pods = read_pods(mesh.manifests)
            for pod, child in [(pod, mesh.start_sidecar(pod)) for pod in pods]:
                mesh.wait_ready(pod, child)
            _write(mesh, "GET")
            wait_until("every proxy has everything", lambda: _is_quiet(mesh, len(pods)), timeout_s=60)
            found = _edits(mesh, pods, edits)
        finally:
            mesh.stop()
    times = [took for took, _ in found]
    name = f"policy edit → ACKed by {len(pods)} Envoys, {edits} edits"
    result.add(f"{name}: p50", statistics.median(times), "ms")
    result.add(f"{name}: p99", sorted(times)[max(0, round(0.99 * edits) - 1)], "ms", target=500)
    result.add(f"{name}: slowest", max(times), "ms")
    obeyed = [took for _, took in found]
    name = f"policy edit → decides a request of an open connection, {edits} edits"
    result.add(f"{name}: p50", statistics.median(obeyed), "ms")
    result.add(f"{name}: p99", sorted(obeyed)[max(0, round(0.99 * edits) - 1)], "ms", target=500)


def _edits(mesh: Mesh, pods: tuple[PodSpec, ...], edits: int) -> list[tuple[float, float]]:
    connection = http.client.HTTPConnection(pods[0].pod_ip, OUTBOUND_PORT, timeout=LIVE_S)
    with contextlib.closing(connection):
        return [_edit(mesh, connection, allows=number % 2 == 1) for number in range(edits)]


def _edit(mesh: Mesh, connection: http.client.HTTPConnection, *, allows: bool) -> tuple[float, float]:
    """Return milliseconds from the rename to the last ACK, and to the first request that is decided anew."""
    before = mesh.api.pushes()[0].id
    edited_at = _write(mesh, "GET" if allows else "PUT")
    deadline, obeyed_at = time.monotonic() + LIVE_S, 0.0
    while time.monotonic() < deadline:
        if not obeyed_at and _passes(connection) == allows:
            obeyed_at = time.time()
        newest = mesh.api.pushes()[0]
        if obeyed_at and newest.id > before and newest.live_ms is not None:
            return (newest.at - edited_at) * 1000 + newest.live_ms, (obeyed_at - edited_at) * 1000
        time.sleep(0.02)
    message = "the policy did not become live"
    raise AssertionError(message)


def _passes(connection: http.client.HTTPConnection) -> bool:
    """Tell whether a request is let through; no application runs, so that it is answered 503 then."""
    connection.request("GET", "/", headers={"Host": "orders"})
    answer = connection.getresponse()
    answer.read()
    return answer.status != 403


def _write(mesh: Mesh, method: str) -> float:
    """Put the policy in place with one rename; return its time (epoch, seconds)."""
    path = Path(mesh.manifests, "policy.yaml")
    draft = path.with_name(".policy.draft")
    draft.write_text(POLICY % method, "utf-8")
    at = time.time()
    draft.replace(path)
    return at


def _is_quiet(mesh: Mesh, proxies: int) -> bool:
    found = mesh.api.proxies()
    return len(found) == proxies and all(proxy.acked for proxy in found)
