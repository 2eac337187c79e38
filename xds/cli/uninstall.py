"""``proa uninstall``: print what is to be deleted, once no sidecar needs it any more.

Owns the refusal and the commands that end it; it must never delete anything itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from xds.cli.cluster import Access, context_option, kubeconfig_option

if TYPE_CHECKING:
    from xds.kube.survey import Meshed


@click.command("uninstall")
@kubeconfig_option
@context_option
def command(kubeconfig: Path | None, context: str | None) -> None:
    """Print what `kubectl delete --ignore-not-found -f -` removes; refuse while meshed pods run.

    A sidecar whose control plane is gone goes on with what it has until its certificate ends, and its pod cannot
    be made again while the webhook stands. The kinds stay: deleting one deletes all its objects.
    """
    from xds import install
    from xds.kube import survey

    meshed = Access(kubeconfig, context).run(survey.meshed)
    if meshed.pods:
        raise click.ClickException(_refusal(meshed))
    click.echo(install.removing(install.documents(install.carried())), nl=False)


def _refusal(meshed: Meshed) -> str:
    """Return the commands that end the mesh, in the order in which they work."""
    names = sorted({pod.pod.meta.namespace for pod in meshed.pods})
    lines = [f"{len(meshed.pods)} pods have a sidecar; restart them without it first:"]
    lines += [
        f"  kubectl label namespace {name} {word}-" for name in names for word in meshed.labels_of(name)
    ]
    lines += [f"  {restart}" for restart in dict.fromkeys(pod.restart() for pod in meshed.pods)]
    return "\n".join(lines)
