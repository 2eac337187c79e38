"""Clusters by hand: ``python -m tests.cluster up|down|api|build``, what `make cluster-up` and `cluster-down` run.

It owns words on the terminal and where a cluster of one's own lives; it must never know how one is made.
"""

from __future__ import annotations

import signal
from pathlib import Path

import click

from tests.cluster import full, images, light, node, programs, removal
from tests.cluster.cluster import Cluster


@click.group()
def main() -> None:
    """Start and stop a real Kubernetes on this machine."""


@main.command()
def build() -> None:
    """Build what is not in the cache yet, and say where it stands."""
    click.echo(programs.kube())
    for archive in images.basic():
        click.echo(archive)


@main.command()
@click.argument("folder", type=click.Path(path_type=Path), required=False)
def up(folder: Path | None) -> None:
    """Start a cluster with one node and Proa's images, or what is missing of it, and say how to use it."""
    place = (folder or _own()).absolute()
    try:
        cluster = Cluster.open(place)
        cluster.start_dead()
    except (FileNotFoundError, RuntimeError):  # there is none, or its node is gone with all that ran on it
        removal.remove(place)
        cluster = full.up(place, is_bound=False)
    for image in ("control", "proxy"):
        node.import_image(place, images.proa(image))
    click.echo(
        f"export KUBECONFIG={cluster.kubeconfig} PROA_CLUSTER={place} PATH={cluster.kube.parent}:$PATH"
    )
    click.echo(f"# on the node: {' '.join(cluster.inside('bash'))}")
    click.echo(
        f"# an image: ctr --address {place}/containerd.sock --namespace k8s.io images import ARCHIVE.tar"
    )


@main.command()
@click.argument("folder", type=click.Path(path_type=Path), required=False)
def down(folder: Path | None) -> None:
    """End the cluster that `up` started, whatever state it is in, and those whose owner was killed."""
    for place in (folder or _own()).absolute(), *removal.orphans():
        removal.remove(place)


@main.command()
def api() -> None:
    """Start the light form, without nodes, and end it at Ctrl-C or SIGTERM."""
    signals = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    with removal.temporary() as folder:
        cluster = light.up(folder, is_bound=True)
        click.echo(f"export KUBECONFIG={cluster.kubeconfig} PATH={cluster.kube.parent}:$PATH")
        signal.sigwait(signals)


def _own() -> Path:
    """Return the folder of this user's cluster: state that a restart of the machine may end."""
    return Path.home() / ".local" / "state" / "proa" / "cluster"


if __name__ == "__main__":
    main()
