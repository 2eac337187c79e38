"""The command line against a mesh that serves: all is well, and what a user changes for the worse is found."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any, Final

import pytest

from tests.cluster import rights, shop
from tests.cluster.cluster import Cluster
from tests.cluster.mesh import LABEL
from tests.cluster.mesh import verb as proa
from xds import install
from xds.demo.processes import DemoError, wait_until

SYNCED_S: Final = 60.0


@pytest.fixture(scope="module")
def namespace(mesh: Cluster) -> Iterator[str]:
    """Yield a namespace with one meshed workload that serves."""
    with mesh.namespace("checked", LABEL) as name:
        echo = shop.Workload(name="echo", serves="echo").manifest()
        mesh.apply(f"{echo}\n---\n{shop.service('echo')}", name)
        shop.wait(mesh, name)
        yield name


def bad(mesh: Cluster) -> dict[str, Any]:
    """Return the results that are not ok, by check."""
    results = json.loads(proa(mesh, "check", "-o", "json").stdout)["results"]
    return {one["check"]: one for one in results if one["severity"] != "ok"}


def test_a_mesh_that_serves_is_all_ok(mesh: Cluster, namespace: str) -> None:
    """Every check, with every replica asked through a port-forward."""
    del namespace
    found: list[dict[str, Any]] = []

    def is_ok() -> bool:
        found[:] = [bad(mesh)]
        return found == [{}]

    # What another test has just taken away may still be on its way to the proxies.
    with contextlib.suppress(DemoError):
        wait_until("all is well", is_ok, timeout_s=SYNCED_S)
    assert found == [{}]


def test_status_shows_the_proxy_and_its_replica_answers(mesh: Cluster, namespace: str) -> None:
    """By port-forward into the replicas; the proxy holds all that it was sent."""
    mine: list[dict[str, Any]] = []

    def is_synced() -> bool:
        document = json.loads(proa(mesh, "status", "-o", "json").stdout)
        mine[:] = [one for one in document["proxies"] if one["id"].endswith(f".{namespace}")]
        return [one["acked"] for one in mine] == [True]

    wait_until("the proxy has acknowledged everything", is_synced, timeout_s=SYNCED_S)
    config = json.loads(proa(mesh, "proxy", "config", mine[0]["id"], "-o", "json").stdout)

    assert {"listeners", "secrets"} <= {one["type"] for one in config["resources"]}


def test_the_leader_shows_the_roots(mesh: Cluster) -> None:
    """The one that holds the Lease."""
    found = json.loads(proa(mesh, "ca", "status", "-o", "json").stdout)

    assert [found[name]["phase"] for name in ("workload", "channel")] == ["steady", "steady"]


def test_a_broken_object_is_found_and_mended(mesh: Cluster, namespace: str) -> None:
    """`objects.in-force` names it, with the command that edits it."""
    route = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": "odd"},
        "spec": {
            "hosts": ["echo"],
            "http": [{"timeout": "soon", "route": [{"destination": {"host": "echo"}}]}],
        },
    }
    mesh.apply(json.dumps(route), namespace)
    wait_until("it is told", lambda: "objects.in-force" in bad(mesh), timeout_s=SYNCED_S)
    found = bad(mesh)["objects.in-force"]
    mesh.kubectl("-n", namespace, "delete", "virtualservice", "odd")
    wait_until("it is gone", lambda: bad(mesh) == {}, timeout_s=SYNCED_S)

    assert found["fix"] == f"kubectl -n {namespace} edit virtualservice odd"


def test_uninstall_refuses_and_names_the_workload(mesh: Cluster, namespace: str) -> None:
    """Nothing is printed that could be piped into a delete."""
    result = proa(mesh, "uninstall")

    assert (result.exit_code, result.stdout) == (1, "")
    assert f"kubectl -n {namespace} rollout restart deployment/echo" in result.stderr


def test_the_control_plane_was_refused_nothing(mesh: Cluster, namespace: str) -> None:
    """In all that this cluster has seen: the printed rights are enough, and the audit log is there to say so."""
    del namespace
    needed, others = rights.used(mesh, rights.granted(install.carried()))

    assert needed and others == []
