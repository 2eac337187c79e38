"""``proa inject``: write sidecars into manifests, where no webhook is to do it.

Owns the flags and where the control channel's roots come from; it must never change the cluster.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING, Final, TextIO

import click

from xds import settings
from xds.cli.cluster import Access, context_option, kubeconfig_option
from xds.cli.parameters import server

if TYPE_CHECKING:
    from xds.injection.template import Template
    from xds.kube.client import Client

_XDS: Final = f"{settings.CHANNEL_SERVER_NAME}:15010"
_REGISTRATION: Final = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/proa-injector"


@click.command("inject")
@click.option(
    "-f",
    "--filename",
    "source",
    type=click.File("r", "utf-8"),
    required=True,
    metavar="FILE",
    help="YAML or JSON manifests; - is stdin.",
)
@click.option("-n", "--namespace", default="default", show_default=True, help="Of objects that name none.")
@click.option(
    "--xds",
    type=server,
    metavar="HOST:PORT",
    default=_XDS,
    show_default=True,
    help="Address of the control plane, as pods reach it.",
)
@click.option(
    "--roots",
    metavar="FILE",
    type=click.File("r", "utf-8"),
    help="PEM file of the control channel's roots; without it the cluster is asked for them.",
)
@click.option("--proxy-image", default=settings.PROXY_IMAGE, show_default=True, help="Image of the sidecar.")
@click.option(
    "-o",
    "--out",
    metavar="FILE",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="File to write instead of stdout.",
)
@kubeconfig_option
@context_option
def command(  # noqa: PLR0913  # one parameter an option
    *,
    source: TextIO,
    namespace: str,
    xds: tuple[str, int],
    roots: TextIO | None,
    proxy_image: str,
    out: Path | None,
    kubeconfig: Path | None,
    context: str | None,
) -> None:
    """Print manifests with a sidecar in every pod that does not opt out.

    Pods, Deployments, StatefulSets, DaemonSets, ReplicaSets, Jobs, CronJobs and Lists of them are changed, all other
    documents stay as they are. What became of each is told on stderr. A wrong annotation prints nothing (exit code 1).
    For what runs already: `kubectl get deployment web -o yaml | proa inject -f - | kubectl apply -f -`.
    """
    from xds.documents import DocumentError
    from xds.fields import Severity
    from xds.injection.manifest import inject_text

    pem = roots.read() if roots is not None else Access(kubeconfig, context).run(_roots)
    template = _template(pem, xds, proxy_image)
    try:
        found = inject_text(source.read(), template, namespace)
    except DocumentError as error:
        raise click.ClickException(f"{source.name}:{error}") from None
    except UnicodeDecodeError:
        raise click.ClickException(f"{source.name}: is not UTF-8") from None
    for note in found.notes:
        click.echo(str(note), err=True)
    if any(note.severity is Severity.ERROR for note in found.notes):
        raise click.ClickException("nothing was written")
    if out is None:
        click.echo(found.text, nl=False)
        return
    try:
        out.write_text(found.text, "utf-8")
    except OSError as error:
        raise click.ClickException(f"{error.filename}: cannot be written: {error.strerror}") from None


async def _roots(client: Client) -> str:
    """Return the roots that the apiserver believes the webhook under: the control channel's (ADR 0024)."""
    import msgspec

    from xds.fields import ConfigError, Reader

    raw = msgspec.json.decode(await client.call("GET", _REGISTRATION))
    try:
        webhooks = Reader(raw, "", []).objects("webhooks")
        configs = [config for webhook in webhooks if (config := webhook.object("clientConfig"))]
        bundle = next((config.text("caBundle", "", limit=1 << 20) for config in configs), "")
        pem = base64.b64decode(bundle, validate=True).decode("ascii")
    except (ConfigError, ValueError) as error:
        raise click.ClickException(f"MutatingWebhookConfiguration proa-injector: {error}") from None
    if not pem:
        raise click.ClickException(
            "MutatingWebhookConfiguration proa-injector has no caBundle yet: is the control plane running?"
        )
    return pem


def _template(pem: str, xds: tuple[str, int], image: str) -> Template:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    from xds import bootstrap
    from xds.bootstrap.probes import watch
    from xds.fields import ConfigError
    from xds.injection.names import TOKEN_FILE
    from xds.injection.template import Template

    try:
        # The newest first, whoever wrote them down: a sidecar reports that it knows this one.
        found = sorted(
            x509.load_pem_x509_certificates(pem.encode()),
            key=lambda root: root.not_valid_before_utc,
            reverse=True,
        )
        newest_first = "".join(root.public_bytes(Encoding.PEM).decode("ascii") for root in found)
        channel = bootstrap.tls_of_roots(newest_first, Path(TOKEN_FILE))
        document = bootstrap.build(bootstrap.template(xds_host=xds[0], xds_port=xds[1], channel=channel))
        return Template(image=image, bootstrap=document, watch=watch)
    except (ValueError, ConfigError) as error:
        raise click.ClickException(str(error)) from None
