"""What an intercepted Pod pays for a large mesh: its sidecar's memory and configuration, and its first requests.

It owns the world and the requests; everything else is real: Envoys in network namespaces, nft rules, `proa serve`.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import yaml

from benchmarks.figures import Result
from benchmarks.fleet import laboratory
from xds.demo import admin

BURST = 30
"""Requests to services that are new to the proxy, at once."""

STRIDE = 389
"""A prime that divides no number of services here."""

HTTP_OK = 200


def run(result: Result) -> None:
    """Let one Pod use some services of many, first one by one, then in bursts."""
    known, used, alone, together = (60, 4, 8, 30) if result.is_quick else (1000, 20, 100, 300)
    ruled, used_with_rules = (known * 3 // 10, max(1, used * 3 // 10))
    rig, transparent = _rig()
    with laboratory() as lab:
        apps = (rig.App("client"), rig.App("orders"))
        world = yaml.safe_dump_all(_world(known, ruled), sort_keys=False)
        mesh = transparent.TransparentMesh(lab.work / "pods", apps, f"{rig.STRICT}\n---\n{world}")
        try:
            mesh.start()
            name = f"{known} services known, {ruled} with a VirtualService"
            result.add(f"{name}, none used: RSS of the sidecar", _rss_mib(mesh), "MiB")
            result.add(f"{name}, none used: configuration", _configuration_kb(mesh), "KB")
            chosen = [*range(used_with_rules), *range(ruled, ruled + used - used_with_rules)]
            for number in chosen:
                _ask(mesh, number)
            mesh.wait_synced()
            name += f", {used} used, {used_with_rules} of them with rules"
            result.add(f"{name}: RSS of the sidecar", _rss_mib(mesh), "MiB", target=80)
            result.add(f"{name}: configuration", _configuration_kb(mesh), "KB", target=60)
            # A stride mixes those with rules among the others, as they are in the mesh.
            mixed = sorted(set(range(known)).difference(chosen), key=lambda number: number * STRIDE % known)
            rest = iter(mixed)
            times = [_ask(mesh, next(rest)) for _ in range(alone)]
            _tell(result, f"first request, one at a time, {alone}", times, 50)
            before = _cpu_s(mesh)
            with ThreadPoolExecutor(BURST) as pool:
                numbers = [next(rest) for _ in range(together)]
                times = list(pool.map(partial(_ask, mesh), numbers))
            _tell(result, f"first request, {BURST} at a time, {together}", times, 250)
            for who, spent in zip(
                ("control plane", "sidecar that calls", "sidecar that answers"), _cpu_s(mesh), strict=True
            ):
                cpu_ms = 1000 * (spent - before.pop(0)) / together
                result.add(f"first request, {BURST} at a time, {together}: CPU of the {who}", cpu_ms, "ms")
            again = [_ask(mesh, number) for number in chosen for _ in range(5)]
            _tell(result, "request to a service in use", again, None)
        finally:
            mesh.stop()


def _tell(result: Result, name: str, times: list[float], target: float | None) -> None:
    ordered = sorted(times)
    result.add(f"{name}: p50", ordered[len(ordered) // 2], "ms")
    result.add(f"{name}: p99", ordered[max(0, round(0.99 * len(ordered)) - 1)], "ms", target=target)
    result.add(f"{name}: slowest", ordered[-1], "ms")


def _rig() -> tuple[Any, Any]:
    """Return the rig of the tests with real Envoys, which is no package."""
    place = str(Path(__file__).resolve().parent.parent / "tests" / "envoy")
    if place not in sys.path:
        sys.path.insert(0, place)
    return importlib.import_module("rig"), importlib.import_module("transparent")


def _address(number: int) -> str:
    return f"10.100.{number // 250}.{number % 250 + 1}"


def _world(known: int, ruled: int) -> list[dict[str, Any]]:
    """Return Services before one application, the first of them with a rule of two matches and a timeout."""
    documents: list[dict[str, Any]] = []
    for number in range(known):
        meta = {"name": f"service-{number}", "namespace": "shop"}
        port = {"name": "main", "port": 80, "targetPort": 8080, "appProtocol": "http"}
        ip = _address(number)
        spec = {"selector": {"app": "orders"}, "clusterIP": ip, "clusterIPs": [ip], "ports": [port]}
        documents.append({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec})
        if number < ruled:
            documents.append(_rule(meta))
    return documents


def _rule(meta: dict[str, str]) -> dict[str, Any]:
    route = [{"destination": {"host": meta["name"]}}]
    canary = {"match": [{"headers": {"x-canary": {"exact": "yes"}}}], "route": route, "timeout": "3s"}
    spec = {"hosts": [meta["name"]], "http": [canary, {"route": route, "timeout": "10s"}]}
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": meta,
        "spec": spec,
    }


def _ask(mesh: Any, number: int) -> float:
    """Send one request on a connection of its own; return its milliseconds from the first packet on."""
    with mesh.inside("client"):
        began = time.perf_counter()
        reply = mesh.request(_address(number), 80, f"http://service-{number}/echo")
        took_ms = (time.perf_counter() - began) * 1000
    if reply.status != HTTP_OK:
        message = f"service-{number} answered {reply.status}"
        raise AssertionError(message)
    return took_ms


def _cpu_s(mesh: Any) -> list[float]:
    """Return the processor time of the control plane, of the sidecar that calls and of the one that answers."""
    children = (mesh.mesh.control_plane, mesh.sidecars["client"], mesh.sidecars["orders"])
    times = [psutil.Process(child.process.pid).cpu_times() for child in children]
    return [found.user + found.system for found in times]


def _rss_mib(mesh: Any) -> float:
    process = psutil.Process(mesh.sidecars["client"].process.pid)
    return float(process.memory_info().rss) / 2**20


def _configuration_kb(mesh: Any) -> float:
    """Return the size of every resource that the client's sidecar holds, as the ledger has it."""
    mesh.wait_synced()
    document = json.loads(admin.get("127.0.0.1", mesh.mesh.admin_port, "/api/v1/proxies/client.shop/config"))
    return sum(one["size_bytes"] for one in document["resources"]) / 1000
