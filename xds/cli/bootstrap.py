"""``proa bootstrap``: print the document that one workload's Envoy is started with.

Owns the flags and the two files; it must never write a token, only name the file that holds one.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from xds import settings
from xds.cli.parameters import server

if TYPE_CHECKING:
    from xds.api.core import Pod
    from xds.bootstrap import Collector, Spec, Tls


def _workload(text: str) -> tuple[str, str]:
    namespace, slash, name = text.partition("/")
    if not (namespace and slash and name):
        raise click.BadParameter(f"must be NAMESPACE/POD, got {text!r}")
    return namespace, name


def _needs_less(text: str) -> bool:
    """Tell whether an Envoy of this version does not read the whole bootstrap."""
    major, _, minor = text.partition(".")
    minor = minor.partition(".")[0]
    if not (major.isdecimal() and minor.isdecimal()):
        raise click.BadParameter(f"must be MAJOR.MINOR or MAJOR.MINOR.PATCH, got {text!r}")
    return (int(major), int(minor)) < settings.WHOLE_BOOTSTRAP


@click.command("bootstrap")
@click.option("--workload", type=_workload, metavar="NS/POD", help="The pod that it is for.")
@click.option(
    "--transparent",
    is_flag=True,
    help="For a pod whose traffic is redirected to it (`proa redirect`); without --workload, for any pod of a cluster.",
)
@click.option(
    "--from",
    "directory",
    default=".",
    show_default=True,
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Directory of manifests, in which the pod's address is found.",
)
@click.option(
    "--state",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    default=settings.STATE_DIRECTORY,
    show_default=True,
    help="State directory of the control plane, whose channel root is inlined.",
)
@click.option(
    "--roots",
    metavar="FILE",
    type=click.File("r", "utf-8"),
    help="PEM file of the control channel's roots, the newest first, instead of --state; - is stdin.",
)
@click.option(
    "--xds",
    type=server,
    metavar="HOST:PORT",
    default=settings.XDS_ADDRESS,
    show_default=True,
    help="Address of the control plane.",
)
@click.option(
    "--token-file",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File that holds the join token, see `proa token`; Envoy reads it again when it is replaced.",
)
@click.option(
    "--otlp-metrics",
    type=server,
    metavar="HOST:PORT",
    help="An OTLP collector (gRPC; without TLS unless --otlp-metrics-ca is given) that gets the counters as well.",
)
@click.option(
    "--otlp-metrics-ca",
    metavar="FILE",
    type=click.File("r", "utf-8"),
    help="PEM file of the authorities that vouch for the collector: it is asked by TLS.",
)
@click.option(
    "--envoy-version",
    "is_older",
    type=_needs_less,
    metavar="VERSION",
    default="1.40",
    help="The Envoy that it is for; it matters before 1.37, which does not read all of it.",
)
@click.option("--insecure", is_flag=True, help="Plaintext to a loopback control plane, without a token.")
@click.option("--zone", default="", help="Zone of the proxy, for locality; by default the pod's label.")
@click.option(
    "-o",
    "--out",
    metavar="FILE",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="File to write instead of stdout; name it *.json, which is how Envoy knows the format.",
)
def command(  # noqa: PLR0913  # one parameter an option
    *,
    workload: tuple[str, str] | None,
    transparent: bool,
    directory: Path,
    state: Path,
    roots: TextIO | None,
    xds: tuple[str, int],
    token_file: Path | None,
    otlp_metrics: tuple[str, int] | None,
    otlp_metrics_ca: TextIO | None,
    is_older: bool,
    zone: str,
    out: Path | None,
    insecure: bool,
) -> None:
    """Print a complete Envoy bootstrap for one workload, ready for `envoy -c FILE`.

    With a token, a second file is written: FILE.sds.json beside the token names it to Envoy. What is printed with
    --transparent and without --workload fits every pod: Envoy is told its node by --service-node and
    --service-cluster, Kubernetes expands $(POD_NAME) and its like, and no second file is written.
    """
    from xds import bootstrap

    if not insecure and token_file is None:
        raise click.UsageError(
            "--token-file FILE is missing (`proa token --out FILE` writes one), or --insecure"
        )
    if workload is None and not transparent:
        raise click.UsageError(
            "--workload NS/POD is missing, or --transparent for a document that fits every pod"
        )
    if otlp_metrics is None and otlp_metrics_ca is not None:
        raise click.UsageError("--otlp-metrics-ca is of the collector that --otlp-metrics HOST:PORT names")
    try:
        collector = _collector(otlp_metrics, otlp_metrics_ca)
        channel = bootstrap.Plaintext() if insecure or token_file is None else _tls(state, roots, token_file)
        spec = bootstrap.template(
            xds_host=xds[0], xds_port=xds[1], channel=channel, collector=collector, is_older=is_older
        )
        if workload is not None:
            pod = _find(directory, *workload)
            spec = replace(
                spec,
                pod=pod.meta.name,
                namespace=pod.meta.namespace,
                workload=pod.workload or pod.meta.name,
                service_account=pod.service_account,
                pod_ip=pod.ip,
                zone=zone or pod.zone,
                is_transparent=transparent,
                is_template=False,
            )
        text = bootstrap.render(spec)
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    _write(text, spec, out)


def _write(text: str, spec: Spec, out: Path | None) -> None:
    from xds import bootstrap

    channel = spec.channel
    try:
        if isinstance(channel, bootstrap.Tls) and not spec.is_template:
            bootstrap.write_secret(channel)
        if out is None:
            click.echo(text, nl=False)
        else:
            out.write_text(text, "utf-8")
    except OSError as error:
        raise click.ClickException(f"{error.filename}: cannot be written: {error.strerror}") from None


def _find(directory: Path, namespace: str, name: str) -> Pod:
    """Return the Pod as the control plane would read it from the directory."""
    from xds.api.core import Key, Pod
    from xds.sources.directory import Directory

    batch = Directory(directory).load()
    for key, found in batch.changes:
        if key == Key("Pod", namespace, name) and isinstance(found, Pod):
            return found
    said = [str(problem) for problem in batch.problems if problem.subject == f"Pod {namespace}/{name}"]
    raise click.ClickException("\n".join([*said, f"{directory}: there is no Pod {namespace}/{name}"]))


def _collector(at: tuple[str, int] | None, roots: TextIO | None) -> Collector | None:
    from xds import bootstrap

    if at is None:
        return None
    return bootstrap.Collector(*at) if roots is None else bootstrap.collector(*at, roots.read())


def _tls(state: Path, roots: TextIO | None, token_file: Path) -> Tls:
    from xds import bootstrap
    from xds.state import StateError

    if roots is not None:
        return bootstrap.tls_of_roots(roots.read(), token_file)
    try:
        return bootstrap.tls_of_state(state, token_file)
    except StateError as error:
        raise click.ClickException(str(error)) from None
