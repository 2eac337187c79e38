"""An apiserver that is away for minutes: what is lost meanwhile, and how soon after its return changes arrive again.

It owns the two outages; it must never help what it measures. One is of a meshed service under load, on a whole cluster
(as root; its own, or that in the folder which PROA_CLUSTER names): a control plane dies in it, and its proxies go to
another one. The other is of the light form of a cluster of its own, followed with the rights of the control plane.
"""

from __future__ import annotations

import asyncio
import signal
import tempfile
import time
from pathlib import Path
from typing import Final

from benchmarks.figures import Result
from benchmarks.losses import count, meshed
from tests.cluster import light, losses, removal, rights
from tests.cluster.cluster import Cluster
from xds import install
from xds.kube.client import Client
from xds.sources.informer import Status
from xds.sources.kubernetes import Kubernetes

RPS: Final = 200
DOWN_S: Final = 180
AWAY_S: Final = 150
"""Long enough for every wait to have grown to its longest."""
TARGET_S: Final = 5
_PATIENCE_S: Final = 120.0


def run(result: Result) -> None:
    """Take the apiserver away from a mesh, and then from a source alone."""
    _of_a_mesh(result)
    _of_a_source(result)


def _of_a_mesh(result: Result) -> None:
    rps, down_s = (20, 5) if result.is_quick else (RPS, DOWN_S)
    with meshed() as mesh, losses.meshed_echo(mesh) as namespace:
        outage = losses.apiserver_down(mesh, namespace, rps=rps, seconds=down_s)
    count(result, "apiserver down", outage.final)
    result.add("proxies that went to another control plane meanwhile", outage.moved, "")
    result.add("apiserver ready → new rule ACKed by the last proxy", outage.followed_s, "s", target=TARGET_S)


def _of_a_source(result: Result) -> None:
    away_s = 3 if result.is_quick else AWAY_S
    with removal.temporary() as folder, tempfile.TemporaryDirectory() as own:
        cluster = light.up(folder, is_bound=True)
        cluster.apply(install.carried())
        back_s, before, after = asyncio.run(
            _outage(cluster, rights.as_control_plane(cluster, Path(own)), away_s)
        )
    lists = {status.kind: status.lists for status in before}
    result.add("kinds", len(before), "")
    result.add("apiserver ready → last kind followed again", back_s, "s", target=TARGET_S)
    result.add(
        "most lists of a kind", max(status.lists - lists[status.kind] for status in after), "", target=1
    )


async def _outage(
    cluster: Cluster, kubeconfig: Path, away_s: float
) -> tuple[float, tuple[Status, ...], tuple[Status, ...]]:
    async with await Client.connect(kubeconfig) as client, asyncio.TaskGroup() as tasks:
        source = Kubernetes(client)
        running = tasks.create_task(source.run(), name="source")
        await source.load()
        before = source.statuses()
        await asyncio.to_thread(cluster.kill, "kube-apiserver", signal.SIGKILL)
        await asyncio.sleep(away_s)
        await asyncio.to_thread(cluster.start, "kube-apiserver")
        await asyncio.to_thread(cluster.wait_ready)
        returned_at = time.monotonic()
        last_at = returned_at
        # A watch that opens may still be told that its version is gone: the last failure that is seen counts.
        while time.monotonic() - last_at < TARGET_S and time.monotonic() - returned_at < _PATIENCE_S:
            if any(status.failure for status in source.statuses()):
                last_at = time.monotonic()
            await asyncio.sleep(0.02)
        after = source.statuses()
        running.cancel()
    return last_at - returned_at, before, after
