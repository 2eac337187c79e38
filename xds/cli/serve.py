"""``proa serve``: the control plane over a directory of manifests, or over a cluster.

Owns the flags of the server; it must never import grpc before the channel is set to TLS 1.3.
"""

from __future__ import annotations

import socket
from pathlib import Path

import click

from xds import settings
from xds.address import Address
from xds.cli.parameters import address, duration, server


@click.command
@click.option(
    "--from",
    "directory",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Directory of Kubernetes manifests, watched for changes.",
)
@click.option(
    "--kubernetes", is_flag=True, help="Watch a cluster: the one that this runs in, or the kubeconfig's."
)
@click.option(
    "--kubeconfig",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="With --kubernetes: this file instead of the one that kubectl would read.",
)
@click.option("--context", metavar="NAME", help="With --kubernetes: this context of the kubeconfig.")
@click.option(
    "--xds",
    metavar="HOST:PORT",
    type=address,
    default=settings.XDS_ADDRESS,
    show_default=True,
    help="Address that proxies connect to.",
)
@click.option(
    "--admin",
    metavar="HOST:PORT",
    type=address,
    default=settings.ADMIN_ADDRESS,
    show_default=True,
    help="Address of health, metrics and the API that `proa status` reads.",
)
@click.option(
    "--health",
    metavar="HOST:PORT",
    type=address,
    help="Address of health and metrics alone, for a kubelet and a scraper.",
)
@click.option(
    "--webhook",
    metavar="HOST:PORT",
    type=address,
    help="With --kubernetes: address of the injection webhook; without it, nothing is injected.",
)
@click.option(
    "--proxy-image",
    metavar="IMAGE",
    default=settings.PROXY_IMAGE,
    show_default=True,
    help="With --webhook: image of sidecars and of their init containers.",
)
@click.option(
    "--otlp-metrics",
    metavar="HOST:PORT",
    type=server,
    help="With --webhook: an OTLP collector (gRPC) that gets the sidecars' counters of traffic as well.",
)
@click.option(
    "--otlp-metrics-ca",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="PEM file of the authorities that vouch for the collector: sidecars ask it by TLS; without it, they do not.",
)
@click.option(
    "--istio-labels",
    type=click.Choice(["auto", "on", "off"]),
    default="auto",
    show_default=True,
    help="With --webhook: honour istio-injection=enabled; auto: while no Istio injector selects the namespace.",
)
@click.option(
    "--ca-secret",
    metavar="NAME",
    default="",
    help="With --kubernetes: a CA of your own, a Secret with tls.crt, tls.key and ca.crt; without it one is made.",
)
@click.option(
    "--namespace",
    envvar="POD_NAMESPACE",
    default="proa-system",
    show_default=True,
    help="With --kubernetes: where our own objects are (POD_NAMESPACE).",
)
@click.option(
    "--pod", envvar="POD_NAME", default="", help="With --kubernetes: this replica (POD_NAME; the host name)."
)
@click.option("--pod-uid", envvar="POD_UID", default="", hidden=True)
@click.option(
    "--state",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    default=settings.STATE_DIRECTORY,
    show_default=True,
    help="Directory that keeps the certificate authority, readable by its owner only.",
)
@click.option(
    "--leaf-ttl",
    "leaf_ttl_s",
    metavar="DURATION",
    type=duration,
    default="24h",
    show_default=True,
    help="Life of a workload certificate; it is renewed at half of it.",
)
@click.option(
    "--insecure", is_flag=True, help="Plaintext xDS without tokens; loopback only, serves no secret."
)
def command(  # noqa: PLR0913 -- one argument for each flag
    *,
    directory: Path | None,
    kubernetes: bool,
    kubeconfig: Path | None,
    context: str | None,
    xds: Address,
    admin: Address,
    health: Address | None,
    webhook: Address | None,
    proxy_image: str,
    otlp_metrics: tuple[str, int] | None,
    otlp_metrics_ca: Path | None,
    istio_labels: str,
    ca_secret: str,
    namespace: str,
    pod: str,
    pod_uid: str,
    state: Path,
    leaf_ttl_s: int,
    insecure: bool,
) -> None:
    """Serve the manifests of a directory, or of a cluster, to Envoy over xDS, until SIGINT or SIGTERM."""
    _check(directory, kubernetes=kubernetes, insecure=insecure, addresses=(xds, admin))
    # First the channel is set to TLS 1.3, then what imports grpc is imported: see ``xds.channel``.
    from xds.channel import force_tls13, poll_in_place

    force_tls13()
    poll_in_place()
    from xds.app import Ports, serve

    ports = Ports(xds, admin, health)
    if directory is not None:
        from xds import standalone

        options = standalone.Options(directory, state, is_insecure=insecure, leaf_ttl_s=leaf_ttl_s)
        raise SystemExit(serve(standalone.compose(options, ports)))
    from xds import kubernetes as cluster
    from xds.injection.istio import IstioLabels

    wanted = cluster.Options(
        kubeconfig=kubeconfig,
        context=context,
        namespace=namespace,
        pod=pod or socket.gethostname(),
        pod_uid=pod_uid,
        webhook=webhook,
        proxy_image=proxy_image,
        collector=otlp_metrics,
        collector_ca=otlp_metrics_ca,
        istio_labels=IstioLabels(istio_labels),
        ca_secret=ca_secret,
        leaf_ttl_s=leaf_ttl_s,
    )
    raise SystemExit(serve(cluster.compose(wanted, ports)))


def _check(
    directory: Path | None, *, kubernetes: bool, insecure: bool, addresses: tuple[Address, Address]
) -> None:
    """Refuse what contradicts itself, in the words of the flags."""
    if (directory is None) is not kubernetes:
        raise click.UsageError("one source is needed: --from DIR, or --kubernetes")
    if insecure and kubernetes:
        raise click.BadOptionUsage(
            "--insecure", "--insecure is for --from DIR: a cluster's sidecars need certificates"
        )
    if insecure and not all(address.is_loopback for address in addresses):
        message = (
            "needs loopback addresses for --xds and --admin: without TLS anybody who connects is believed"
        )
        raise click.BadOptionUsage("--insecure", f"--insecure {message}")
