"""The graph as real sidecars report it: by the verbs, from pushes of real Envoys."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner
from rig import STRICT, App, MeshUnderTest, StartMesh

from xds.__main__ import main

pytestmark = pytest.mark.envoy

ORDERS = "orders.shop.svc.cluster.local"
RPS = 40
PUSHED_S = 60.0
"""Sidecars push every 5 s, and a rate needs two pushes."""


def ask(mesh: MeshUnderTest, *arguments: str) -> str:
    """Run a verb against the mesh's control plane."""
    found = CliRunner().invoke(main, [*arguments, "--admin", f"127.0.0.1:{mesh.mesh.admin_port}"])
    assert found.exit_code == 0, found.output
    return found.output


def edges(mesh: MeshUnderTest) -> dict[tuple[str, str], dict[str, Any]]:
    """The edges of `proa graph -o json`, by their ends."""
    listed = json.loads(ask(mesh, "graph", "-o", "json"))["edges"]
    return {(edge["source"], edge["destination"]): edge for edge in listed}


def test_sidecars_report_who_calls_whom(start_mesh: StartMesh) -> None:
    """Rates, success, identities and mutual TLS of an edge, and open connections, without any Prometheus."""
    mesh = start_mesh(App("web"), App("orders-v1", app="orders"), manifests=STRICT)
    load = mesh.load("web", "http://orders/echo", rps=RPS)
    key = "web.shop", "orders-v1.shop"
    mesh.wait("both ends are reported with a rate", lambda: is_complete(mesh, key), timeout_s=PUSHED_S)
    edge = edges(mesh)[key]
    stat = ask(mesh, "stat", "deploy/orders-v1")
    shown = ask(mesh, "edges")
    picture = ask(mesh, "graph", "-o", "svg")
    report = load.finish()

    assert report["failed"] == 0
    assert edge["service"] == ORDERS
    assert edge["red"]["success"] == 1
    assert edge["red"]["requests_per_s"] == pytest.approx(RPS, rel=0.25)
    assert edge["red"]["p50_ms"] > 0
    columns = stat.splitlines()[1].split()
    assert columns[:4] == ["shop", "orders-v1", "1/1", "100.00%"]
    assert int(columns[-1]) > 0
    words = next(line for line in shown.splitlines() if ORDERS in line).split()
    assert words[5:] == ["mTLS", "web.shop", "orders-v1.shop"]
    assert "web.shop" in picture


def is_complete(mesh: MeshUnderTest, key: tuple[str, str]) -> bool:
    """Tell whether an edge has its whole rate, and the called side has said that it was encrypted.

    The first rate may be that of a time in which there was no load yet.
    """
    found = edges(mesh).get(key)
    is_whole = found and found["red"]["requests_per_s"] == pytest.approx(RPS, rel=0.25)
    return bool(is_whole and found and found["source_identity"]) and (
        found is not None and found["security"] == "mutual_tls" and stat_has_rate(mesh)
    )


def stat_has_rate(mesh: MeshUnderTest) -> bool:
    """Tell whether the called sidecar has reported twice."""
    rows = json.loads(ask(mesh, "stat", "deploy/orders-v1", "-o", "json"))["rows"]
    return bool(rows) and rows[0]["red"]["success"] is not None and rows[0]["open_connections"] > 0
