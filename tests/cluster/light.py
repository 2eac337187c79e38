"""The light form of a cluster: apiserver, etcd and controllers on a loopback address, without nodes and without root.

It owns the start of that form; it must never touch the network namespace beyond its own sockets.
"""

from __future__ import annotations

from pathlib import Path

from tests.cluster import control_plane, programs
from tests.cluster.cluster import Cluster


def up(folder: Path, *, is_bound: bool) -> Cluster:
    """Start a cluster in an empty folder; `is_bound`: it ends with this program, however that ends."""
    kube = programs.kube()
    site = control_plane.loopback(folder)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    control_plane.write_identity(folder, site)
    cluster = Cluster(folder, kube, site.url)
    cluster.record()
    control_plane.start(cluster, site, has_scheduler=False, is_bound=is_bound)
    return cluster
