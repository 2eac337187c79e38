"""The full form of a cluster: a control plane, a node that runs containers, and DNS.

It owns the order in which they start; it must never know how one of them is configured.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.cluster import control_plane, images, namespaces, node, packages, programs
from tests.cluster.cluster import READY_S, Cluster

_HERE: Final = Path(__file__).resolve().parent


def up(folder: Path, *, is_bound: bool, archives: Sequence[Path] = ()) -> Cluster:
    """Start a cluster in an empty folder, with DNS and the images of the archives; it takes 20 s.

    `is_bound`: all its processes end with this program, however that ends.
    """
    packages.install()
    kube, basic = programs.kube(), images.basic()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    namespaces.start(folder, is_bound=is_bound)
    site = node.site(folder)
    cluster = Cluster(folder, kube, site.url)
    control_plane.write_identity(folder, site)
    node.start_relay(cluster, is_bound=is_bound)
    control_plane.start(cluster, site, has_scheduler=True, is_bound=is_bound)
    node.start_containerd(cluster, [*basic, *archives], is_bound=is_bound)
    node.start_kubelet(cluster, is_bound=is_bound)
    cluster.apply((_HERE / "manifests" / "coredns.yaml").read_text("utf-8"))
    cluster.kubectl("rollout", "status", "deployment/coredns", "-n", "kube-system", timeout_s=READY_S)
    cluster.record()
    return cluster
