"""Requests that are lost while a meshed service, its control plane or the apiserver is disturbed, on a real cluster.

It owns the sizes; it must never retry: what a client sees is what counts. Needs root; it starts a cluster of its own,
or uses the one in the folder that PROA_CLUSTER names.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from benchmarks.figures import Result
from tests.cluster import full, losses, removal
from tests.cluster import mesh as proa
from tests.cluster.cluster import Cluster
from xds.demo.report import Second

RPS: Final = 200
SECONDS: Final = 100
"""At least 20,000 requests."""
DOWN_S: Final = 180
PODS: Final = 50

Disturbance = Callable[..., Second]


def run(result: Result) -> None:
    """Count what is lost in each disturbance, and the first calls of fresh Pods that fail."""
    rps, seconds, down_s, pods = (20, 2, 5, 3) if result.is_quick else (RPS, SECONDS, DOWN_S, PODS)
    disturbances: tuple[tuple[str, Disturbance, float], ...] = (
        ("rolling update", losses.rolling_update, seconds),
        ("control plane killed", losses.control_plane_restart, seconds),
        ("apiserver down", losses.apiserver_down, down_s),
    )
    with meshed() as mesh, losses.meshed_echo(mesh) as namespace:
        for name, disturb, length in disturbances:
            final = disturb(mesh, namespace, rps=rps, seconds=length)
            result.add(f"{name}: requests", final.sent, "")
            result.add(f"{name}: lost", final.failed + final.skipped, "", target=0)
        begun = time.monotonic()
        first = losses.first_dials(mesh, namespace, pods)
        result.add(f"first dial, {pods} fresh pods: failed", sum(not one.ok for one in first), "", target=0)
        result.add(f"first dial, {pods} fresh pods: from apply to the last", time.monotonic() - begun, "s")


@contextmanager
def meshed() -> Generator[Cluster]:
    """Yield a cluster in which Proa is installed."""
    folder = os.environ.get("PROA_CLUSTER")
    if folder:
        cluster = Cluster.open(Path(folder))
        proa.install(cluster)
        yield cluster
        return
    with removal.temporary() as place:
        cluster = full.up(place, is_bound=True)
        proa.install(cluster)
        yield cluster
