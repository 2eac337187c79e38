"""An apiserver that is away for minutes: how long after its return each kind is followed again, and by how many lists.

It owns the outage; it must never help the source that it measures. It starts the light form of a cluster of its own,
and follows it with the rights of the control plane.
"""

from __future__ import annotations

import asyncio
import signal
import tempfile
import time
from pathlib import Path
from typing import Final

from benchmarks.figures import Result
from tests.cluster import light, removal, rights
from tests.cluster.cluster import Cluster
from xds import install
from xds.kube.client import Client
from xds.sources.informer import Status
from xds.sources.kubernetes import Kubernetes

AWAY_S: Final = 150
"""Long enough for every wait to have grown to its longest."""
TARGET_S: Final = 5
_PATIENCE_S: Final = 120.0


def run(result: Result) -> None:
    """Take the apiserver away once and report the last kind."""
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
