"""``proa install``: print the manifest that installs the control plane.

Owns which definitions of kinds are printed; it must never apply anything itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from xds.cli.cluster import Access, context_option, kubeconfig_option

if TYPE_CHECKING:
    from xds.install import Document


@click.command("install")
@click.option(
    "--crds",
    type=click.Choice(["auto", "all", "none"]),
    default="auto",
    show_default=True,
    help="Istio's kinds that Proa reads: those that the cluster lacks, all without asking it, or none.",
)
@kubeconfig_option
@context_option
def command(crds: str, kubeconfig: Path | None, context: str | None) -> None:
    """Print the manifest for `kubectl apply -f -`: namespace, kinds, rights, control plane and webhook.

    It is what helm makes of the chart with its defaults; for other values use helm and deploy/helm/proa. Kinds
    that somebody else brought (Istio) stay as they are. Repeating it is the upgrade.
    """
    from xds import install

    found = install.documents(install.carried())
    match crds:
        case "none":
            left_out = {one.name for one in found if one.is_definition}
        case "auto":
            left_out = _foreign(found, Access(kubeconfig, context))
        case _:
            left_out = set[str]()
    click.echo(install.installing(found, without=left_out), nl=False)


def _foreign(found: tuple[Document, ...], access: Access) -> set[str]:
    """Return the kinds that are there already and are not ours, and say so."""
    from xds.checks.cluster import is_ours
    from xds.kube import survey

    defined = {one.name for one in found if one.is_definition}
    foreign = {one.metadata.name for one in access.run(survey.definitions) if not is_ours(one)} & defined
    for name in sorted(foreign):
        click.echo(f"proa install: left out {name}, which the cluster has from somebody else", err=True)
    return foreign
