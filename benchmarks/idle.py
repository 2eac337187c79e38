"""A control plane while nothing happens, with every version of its watches too old: requests a minute, and CPU.

It owns the time and the bounds; it must never ask the control plane anything meanwhile. It starts the light form of a
cluster of its own.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final

from benchmarks.figures import Result
from tests.cluster import light, outside, removal, rights
from xds import install
from xds.demo.processes import Family

IDLE_S: Final = 360.0
"""Longer than the five minutes after which etcd forgets its history."""


def run(result: Result) -> None:
    """Start one, let every version expire, and record what it does."""
    idle_s = 10.0 if result.is_quick else IDLE_S
    with removal.temporary() as folder, tempfile.TemporaryDirectory() as own:
        cluster = light.up(folder, is_bound=True)
        cluster.apply(install.carried())
        cluster.kubectl("-n", "proa-system", "scale", "deployment", "proa", "--replicas=0")
        family = Family(Path(own) / "logs")
        try:
            child, _, _ = outside.serve(cluster, family, rights.as_control_plane(cluster, Path(own)))
            outside.expire(cluster)
            idle = outside.record(cluster, child, idle_s)
        finally:
            family.stop()
    result.add("recorded", idle.seconds, "s")
    result.add("requests a minute", idle.requests.total() * 60 / idle.seconds, "", target=250)
    kinds = {what: idle.a_minute(what) for what in idle.requests if what.startswith("watch ")}
    result.add("watches a minute, most of a kind", max(kinds.values()), "", target=6.5)
    result.add("CPU, share of a core", idle.cpu * 100, "%", target=3)
