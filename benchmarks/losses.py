"""Requests that are lost while a meshed service or its control plane is disturbed, on a real cluster.

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
PODS: Final = 50

Disturbance = Callable[..., Second]


def run(result: Result) -> None:
    """Count what is lost in each disturbance, and the first calls of fresh Pods that fail."""
    rps, seconds, pods = (20, 2, 3) if result.is_quick else (RPS, SECONDS, PODS)
    disturbances: tuple[tuple[str, Disturbance], ...] = (
        ("rolling update", losses.rolling_update),
        ("control plane killed", losses.control_plane_restart),
    )
    with meshed() as mesh, losses.meshed_echo(mesh) as namespace:
        for name, disturb in disturbances:
            count(result, name, disturb(mesh, namespace, rps=rps, seconds=seconds))
        begun = time.monotonic()
        first = losses.first_dials(mesh, namespace, pods)
        result.add(f"first dial, {pods} fresh pods: failed", sum(not one.ok for one in first), "", target=0)
        result.add(f"first dial, {pods} fresh pods: from apply to the last", time.monotonic() - begun, "s")


def count(result: Result, name: str, final: Second) -> None:
    """Report what a load has sent, and what of it was lost."""
    result.add(f"{name}: requests", final.sent, "")
    result.add(f"{name}: lost", final.failed + final.skipped, "", target=0)


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
