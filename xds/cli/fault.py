"""``proa fault``: faults that end by themselves, as an object of ours beside everybody's rules, and a Pod taken away.

Owns how a fault is typed and where its object goes; it must never change an object that a user wrote.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from xds.cli.asking import access, cluster_options
from xds.cli.parameters import duration

if TYPE_CHECKING:
    from xds.cli.cluster import Access
    from xds.sources.transport import Transport

F = TypeVar("F", bound=Callable[..., object])

MAX_S: Final = 86_400
"""Longest fault, one day: longer is no experiment but a rule, and rules belong into a VirtualService."""

_API: Final = "proa.dev/v1alpha1"
_NOT_FOUND: Final = 404


@click.group("fault")
def command() -> None:
    """Make a service slow or fail on purpose, for a while, or take a Pod away.

    Delays and aborts are objects of kind Fault: they end at their time, whether or not this program runs.
    """


def _options(function: F) -> F:
    """Add what delay and abort share."""
    for option in (
        _place_options,
        click.option("--for", "seconds", metavar="DURATION", type=duration, default="10m", show_default=True,
                     help="How long it lasts, at most 24h."),
        click.option("--percent", type=click.FloatRange(0, 100, min_open=True), default=100.0, show_default=True,
                     help="Share of the requests."),
    ):  # fmt: skip
        function = option(function)
    return function


def _place_options(function: F) -> F:
    """Add where the object goes."""
    directory = click.option(
        "--dir",
        "directory",
        metavar="DIR",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        help="Write it into a directory of manifests.",
    )
    return directory(cluster_options(function))


@command.command("delay")
@click.argument("service", metavar="SERVICE.NAMESPACE")
@click.argument("delay", metavar="DURATION")
@_options
def delay_(service: str, delay: str, percent: float, seconds: int, **where: Any) -> None:
    """Hold requests to a service, such as `proa fault delay orders.shop 2s --for 5m`."""
    _put(service, {"delay": {"fixedDelay": delay, "percentage": {"value": percent}}}, seconds, **where)


@command.command("abort")
@click.argument("service", metavar="SERVICE.NAMESPACE")
@click.argument("status", metavar="STATUS")
@_options
def abort(service: str, status: str, percent: float, seconds: int, **where: Any) -> None:
    """Answer requests to a service with STATUS, 200 to 599 or a name of gRPC such as UNAVAILABLE."""
    said = {"httpStatus": int(status)} if status.isascii() and status.isdecimal() else {"grpcStatus": status}
    _put(service, {"abort": {**said, "percentage": {"value": percent}}}, seconds, **where)


@command.command("end")
@click.argument("service", metavar="SERVICE.NAMESPACE")
@_place_options
def end(service: str, directory: Path | None, **where: Any) -> None:
    """End a service's fault before its time, and remove what is left of one that is over."""
    name, namespace = _split(service)
    cluster = _only_one(directory, access(**where))
    if directory is not None:
        _file(directory, namespace, name).unlink(missing_ok=True)
    elif cluster is not None:
        cluster.run(lambda client: _delete(client, namespace, name))
    click.echo(f"Fault {namespace}/{_named(name)} is gone")


@command.command("kill-pod")
@click.argument("pod", metavar="POD.NAMESPACE")
@click.option("--yes", is_flag=True, help="Really do it.")
@cluster_options
def kill_pod(pod: str, *, yes: bool, **where: Any) -> None:
    """Evict a Pod of the mesh, if its disruption budgets and the mesh setting `evictPods: true` allow it.

    Its controller makes another one.
    """
    name, namespace = _split(pod)
    cluster = access(**where)
    if cluster is None:
        raise click.UsageError("a Pod can only be taken from a cluster: add --kubernetes")
    if not yes:
        raise click.UsageError(f"this takes Pod {namespace}/{name} away: add --yes")
    cluster.run(lambda client: _evict(client, namespace, name))
    click.echo(f"Pod {namespace}/{name} is evicted")


def _put(service: str, fault: dict[str, Any], seconds: int, *, directory: Path | None, **where: Any) -> None:
    from datetime import UTC, datetime, timedelta

    if seconds > MAX_S:
        raise click.BadParameter("must be at most 24h", param_hint="--for")
    name, namespace = _split(service)
    until = (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
    spec = {"targetRef": {"kind": "Service", "name": name}, "expiresAt": until, "fault": fault}
    manifest = {
        "apiVersion": _API,
        "kind": "Fault",
        "metadata": {"name": _named(name), "namespace": namespace},
        "spec": spec,
    }
    _check(manifest)
    cluster = _only_one(directory, access(**where))
    if directory is not None:
        _write(directory, namespace, name, manifest)
    elif cluster is not None:
        cluster.run(lambda client: apply(client, namespace, name, manifest))
    click.echo(f"Fault {namespace}/{_named(name)} holds for Service {namespace}/{name} until {until}")


def _split(text: str) -> tuple[str, str]:
    name, dot, namespace = text.partition(".")
    if not (name and dot and namespace):
        raise click.UsageError(f"must be NAME.NAMESPACE, got {text}")
    return name, namespace


def _named(service: str) -> str:
    """Return the name of a service's Fault: one at a time, so that the newest word counts."""
    return f"{service}-fault"


def _file(directory: Path, namespace: str, service: str) -> Path:
    return directory / f"fault-{namespace}-{service}.yaml"


def _check(manifest: dict[str, Any]) -> None:
    """Refuse what the control plane would refuse, in its words."""
    from xds.api.manifest import read
    from xds.fields import ConfigError

    try:
        read(manifest)
    except ConfigError as error:
        raise click.UsageError(str(error)) from None


def _only_one(directory: Path | None, cluster: Access | None) -> Access | None:
    if (directory is None) is (cluster is None):
        raise click.UsageError("one place is needed: --dir DIR, or --kubernetes")
    return cluster


def _write(directory: Path, namespace: str, service: str, manifest: dict[str, Any]) -> None:
    """Put the file in place with one rename, if the directory has the Service."""
    import yaml

    from xds.api.core import Key
    from xds.sources.directory import Directory

    known = {key for key, _ in Directory(directory).load().changes}
    if Key("Service", namespace, service) not in known:
        raise click.ClickException(f"there is no Service {namespace}/{service} in {directory}")
    path = _file(directory, namespace, service)
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(yaml.safe_dump(manifest, sort_keys=False), "utf-8")
    draft.replace(path)


async def apply(client: Transport, namespace: str, service: str, manifest: dict[str, Any]) -> None:
    """Put the object in force by server-side apply; raise ClickException where there is no such Service."""
    from xds.sources.transport import ApiError

    try:
        await client.call("GET", f"/api/v1/namespaces/{namespace}/services/{service}")
    except ApiError as error:
        if error.status == _NOT_FOUND:
            raise click.ClickException(f"there is no Service {namespace}/{service}") from None
        raise
    await client.call(
        "PATCH",
        _path(namespace, service),
        query={"fieldManager": "proa-fault", "force": "true"},
        body=manifest,
        content_type="application/apply-patch+yaml",
    )


async def _delete(client: Transport, namespace: str, service: str) -> None:
    from xds.sources.transport import ApiError

    try:
        await client.call("DELETE", _path(namespace, service))
    except ApiError as error:
        if error.status != _NOT_FOUND:
            raise


def _path(namespace: str, service: str) -> str:
    return f"/apis/{_API}/namespaces/{namespace}/faults/{_named(service)}"


async def _evict(client: Transport, namespace: str, name: str) -> None:
    from xds.kube.evict import NotEvicted, evict

    try:
        await evict(client, namespace, name)
    except NotEvicted as reason:
        raise click.ClickException(str(reason)) from None
