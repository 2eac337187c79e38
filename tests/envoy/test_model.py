"""A real Envoy as the model of a client: after any history it runs what a fresh compile of the directory says."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from rig import STRICT, App, MeshUnderTest, StartMesh

from xds.control import ControlPlane
from xds.snapshot import ResourceType
from xds.sources.directory import Directory

NAMES = ("alpha", "beta", "gamma")
STEPS = 25

Versions = dict[str, str]


def _service(name: str, port: int) -> str:
    return f"""
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec: {{selector: {{app: orders}}, ports: [{{name: http, port: {port}, targetPort: 8080}}]}}
"""


def _rule(name: str, subsets: tuple[str, ...], timeout_s: int) -> str:
    listed = ", ".join(f"{{name: {s}, labels: {{version: {s}}}}}" for s in subsets)
    return f"""
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: {name}, namespace: shop}}
spec:
  host: {name}
  trafficPolicy: {{connectionPool: {{tcp: {{connectTimeout: {timeout_s}s}}}}}}
  subsets: [{listed}]
"""


def _split(name: str, weight: int) -> str:
    return f"""
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}, namespace: shop}}
spec:
  hosts: [{name}]
  http:
  - route:
    - {{destination: {{host: {name}, subset: v1}}, weight: {weight}}}
    - {{destination: {{host: {name}, subset: v2}}, weight: {100 - weight}}}
"""


def _edit(mesh: MeshUnderTest, chance: random.Random) -> None:
    """Write or remove one file: a Service, its subsets, its split, or the mesh's mode."""
    name = chance.choice(NAMES)
    drawn: dict[str, Callable[[], str]] = {
        f"{name}-service.yaml": lambda: _service(name, chance.choice((80, 8080))),
        f"{name}-rule.yaml": lambda: _rule(name, ("v1", "v2"), chance.randint(1, 5)),
        f"{name}-split.yaml": lambda: _split(name, chance.randint(1, 99)),
        "manifests.yaml": lambda: STRICT.replace("STRICT", chance.choice(("STRICT", "PERMISSIVE"))),
    }
    file = chance.choice(sorted(drawn))
    path = mesh.mesh.manifests / file
    if path.exists() and file != "manifests.yaml" and chance.random() < 0.3:
        path.unlink()
    else:
        mesh.write(file, drawn[file]())


def _wanted(mesh: MeshUnderTest, pod: str) -> dict[ResourceType, Versions] | None:
    """Return what a fresh control plane would serve to a pod; None while the world is not valid."""
    batch = Directory(mesh.mesh.manifests).load()
    plane = ControlPlane()
    plane.apply(batch.changes, at=0.0, now=0.0, broken=batch.broken)
    view, _ = plane.plan.view(("shop", pod))
    if any(problem.severity.value == "error" for problem in (*batch.problems, *plane.plan.problems())):
        return None
    return {
        kind: {
            name: found.version
            for name in plane.snapshot.names(view, kind)
            if (found := plane.snapshot.resolve(view, kind, name))
        }
        for kind in (ResourceType.CLUSTER, ResourceType.LISTENER, ResourceType.ROUTES)
    }


def _running(mesh: MeshUnderTest, pod: str) -> tuple[dict[ResourceType, Versions], int]:
    """Return the versions that a pod's Envoy runs, and how many clusters and listeners are still warming."""
    dump = {part["@type"].rpartition(".")[2]: part for part in mesh.config_dump(pod)["configs"]}
    clusters = dump["ClustersConfigDump"]
    listeners = _list(dump["ListenersConfigDump"], "dynamic_listeners")
    routes = _list(dump["RoutesConfigDump"], "dynamic_route_configs")
    running: dict[ResourceType, Versions] = {
        ResourceType.CLUSTER: {
            c["cluster"]["name"]: c.get("version_info", "")
            for c in _list(clusters, "dynamic_active_clusters")
        },
        ResourceType.LISTENER: {
            found["name"]: found["active_state"].get("version_info", "")
            for found in listeners
            if "active_state" in found
        },
        ResourceType.ROUTES: {r["route_config"]["name"]: r.get("version_info", "") for r in routes},
    }
    warming = len(_list(clusters, "dynamic_warming_clusters"))
    return running, warming + sum("warming_state" in found for found in listeners)


def _list(part: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return part.get(name, [])


@pytest.mark.parametrize("seed", [1, 2])
def test_envoy_ends_where_a_fresh_compile_does(start_mesh: StartMesh, seed: int) -> None:
    """Services, subsets, splits and modes come and go, the control plane is killed: Envoy converges, nothing warms."""
    chance = random.Random(seed)
    mesh = start_mesh(
        App("client"), App("orders-v1", app="orders"), App("orders-v2", app="orders", version="v2")
    )
    compared = 0

    for step in range(STEPS):
        _edit(mesh, chance)
        if step == STEPS // 2:
            mesh.restart_control_plane()
        if step % 3:
            continue  # let edits overtake each other
        wanted = _wanted(mesh, "client")
        if wanted is None:
            continue
        compared += 1
        mesh.wait(
            f"Envoy runs what the directory says after step {step} of seed {seed}",
            lambda wanted=wanted: _running(mesh, "client") == (wanted, 0),
            timeout_s=60,
        )

    assert compared > 0
    # The last edit may still be on its way to the two proxies that nothing above has waited for.
    mesh.wait_synced()
