"""Limits of an instance, as clients and handler count them: a token bucket under load, requests at once.

It owns the load and the counts; it must never replace the sidecars by something cheaper.
"""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.figures import Result
from benchmarks.fleet import laboratory

_Found = tuple[Any, Any]

CLIENTS, AT_ONCE, LIMIT = 3, 50, 10

LIMITS = """
apiVersion: proa.dev/v1alpha1
kind: RateLimit
metadata: {name: orders, namespace: shop}
spec: {selector: {matchLabels: {app: orders}}, rules: [{requests: 10, burst: 20}]}
---
apiVersion: proa.dev/v1alpha1
kind: RateLimit
metadata: {name: gated, namespace: shop}
spec: {selector: {matchLabels: {app: gated}}, concurrency: 10}
---
apiVersion: v1
kind: Service
metadata: {name: gate, namespace: shop}
spec: {selector: {app: gated}, ports: [{name: http, port: 80, targetPort: gate}]}
"""


def run(result: Result) -> None:
    """Measure a rate under 100 requests a second, and requests at once with one worker, two, and clients that leave."""
    found = _rig()
    _rate(result, found, 3 if result.is_quick else 30)
    rounds = 1 if result.is_quick else 10
    _at_once(result, found, workers=1, rounds=rounds)
    _at_once(result, found, workers=2, rounds=rounds)
    _abandoned(result, found, rounds=1 if result.is_quick else 3)


def _rig() -> _Found:
    """Return the rig of the tests with real Envoys and their server that counts, which are no package."""
    place = str(Path(__file__).resolve().parent.parent / "tests" / "envoy")
    if place not in sys.path:
        sys.path.insert(0, place)
    return importlib.import_module("rig"), importlib.import_module("gate")


def _rate(result: Result, found: _Found, seconds: int) -> None:
    rig, _ = found
    with laboratory() as lab:
        mesh = rig.MeshUnderTest(
            lab.work, (rig.App("client"), rig.App("orders")), f"{rig.STRICT}---{LIMITS}", is_insecure=False
        )
        try:
            mesh.start()
            load = mesh.load("client", "http://orders/echo", rps=100, args=("--duration", f"{seconds}s"))
            load.child.process.wait(timeout=4 * seconds + 30)
            report = load.finish()
        finally:
            mesh.stop()
    admitted, wanted = report["by_status"]["200"], 20 + 10 * report["seconds"]
    name = f"10/s burst 20 under 100 rps for {seconds} s"
    result.add(f"{name}: admitted", admitted, "")
    result.add(f"{name}: wanted, 20 + 10·t", wanted, "")
    result.add(f"{name}: off by", 100 * abs(admitted / wanted - 1), "%", target=5)
    lost = report["sent"] - admitted - report["by_status"]["429"]
    result.add(f"{name}: neither 200 nor 429", lost, "", target=0)


def _at_once(result: Result, found: _Found, *, workers: int, rounds: int) -> None:
    gate = found[1].Gate()
    statuses = _gated(found, gate, workers, lambda calls: found[1].all_at_once(calls, rounds))
    name = f"{CLIENTS} clients × {AT_ONCE} at once, {rounds} rounds, {workers} worker{'s' * (workers > 1)}"
    # Each worker looks before it counts, so that one of them may be one too late for each other one.
    result.add(f"{name}: most that the handler saw", gate.most, "", target=LIMIT if workers == 1 else None)
    result.add(f"{name}: served", statuses[200], "")
    result.add(f"{name}: refused with 503", statuses[503], "")


def _abandoned(result: Result, found: _Found, *, rounds: int) -> None:
    """Report apart: of clients that leave at once, the handler still holds what the sidecar counts no more."""
    gate = found[1].Gate()

    def leave(calls: list[Callable[[], object]]) -> None:
        for _ in range(rounds):
            threads = [threading.Thread(target=_left, args=(call,)) for call in calls]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    _gated(found, gate, 1, leave, timeout_s=0.1)
    name = f"{CLIENTS} clients × {AT_ONCE} that leave after 0.1 s, {rounds} rounds, handler stays 0.3 s"
    result.add(f"{name}: most that the handler saw", gate.most, "")


def _left(call: Callable[[], object]) -> None:
    try:
        call()
    except OSError:
        return


def _gated(  # one mesh, called in three ways
    found: _Found,
    gate: Any,
    workers: int,
    use: Callable[[list[Callable[[], object]]], object],
    *,
    timeout_s: float = 20,
) -> Any:
    """Start clients and a server that holds requests, let them be used, and return what that gave."""
    rig, _ = found
    gated = rig.App("gated", more=(rig.Container("gate", 8081, listen=gate.listen),))
    names = [f"client-{number}" for number in range(CLIENTS)]
    with laboratory() as lab:
        mesh = rig.MeshUnderTest(
            lab.work, (*map(rig.App, names), gated), f"{rig.STRICT}---{LIMITS}", is_insecure=False
        )
        mesh.mesh.concurrency = workers
        try:
            mesh.start()
            calls = [
                lambda name=name: mesh.get(name, "http://gate/held", timeout_s=timeout_s)
                for name in names
                for _ in range(AT_ONCE)
            ]
            return use(calls)
        finally:
            mesh.stop()
