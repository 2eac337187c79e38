"""One question to the control plane: where it is, the request, and what to say when it fails.

Owns the way to the admin API, of one control plane by its address or of every replica in a cluster; it must never
print an answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from xds import settings
from xds.address import Address
from xds.cli.cluster import Access, context_option, kubeconfig_option

if TYPE_CHECKING:
    from xds.kube.client import Client
    from xds.kube.forward import Answer

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., object])

_OK = 200


def admin_url(text: str) -> str:
    """Read ``HOST:PORT`` or an ``http(s)://`` URL as a click parameter type."""
    if text.startswith(("http://", "https://")):
        return text.rstrip("/")
    try:
        return f"http://{Address.parse(text)}"
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


_admin_option = click.option(
    "--admin",
    "url",
    metavar="HOST:PORT",
    type=admin_url,
    default=settings.ADMIN_ADDRESS,
    show_default=True,
    envvar="PROA_ADMIN",
    show_envvar=True,
    help="Admin address of the control plane, or its URL.",
)
"""``--admin``, with the same default as ``proa serve --admin``."""

_kubernetes_option = click.option(
    "--kubernetes",
    is_flag=True,
    help="Ask the replicas in the cluster, by port-forward to their admin ports.",
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where to ask: one address, or every replica of a cluster."""

    url: str
    access: Access | None

    def ask(self, path: str, answer: type[T]) -> list[T]:
        """Return the decoded answers to ``GET path``, one for each control plane that gave one.

        Raises ClickException (exit code 1) when none did; those that stay silent are named on stderr.
        """
        if self.access is None:
            return [ask(self.url, path, answer)]
        return self.access.run(lambda client: _ask_replicas(client, path, answer))


def cluster_options(command: F) -> F:
    """Add the options that name a cluster's control plane."""
    for option in (context_option, kubeconfig_option, _kubernetes_option):
        command = option(command)
    return command


def place_options(command: F) -> F:
    """Add the options that say where the control plane is; the command gets them as ``**where``, see `place`."""
    return cluster_options(_admin_option(command))


def access(*, kubernetes: bool, kubeconfig: Path | None, context: str | None) -> Access | None:
    """Return the cluster that the options name, None for none; a context or a file means one."""
    return Access(kubeconfig, context) if kubernetes or kubeconfig or context else None


def place(*, url: str, kubernetes: bool, kubeconfig: Path | None, context: str | None) -> Place:
    """Return the place that the options name."""
    return Place(url, access(kubernetes=kubernetes, kubeconfig=kubeconfig, context=context))


def ask(url: str, path: str, answer: type[T]) -> T:
    """Return the decoded answer to ``GET url/path``; raises ClickException that says what to do (exit code 1)."""
    import urllib.error
    import urllib.request

    import msgspec

    try:
        with urllib.request.urlopen(f"{url}{path}", timeout=settings.ADMIN_TIMEOUT_S) as reply:  # noqa: S310  # admin_url
            return msgspec.json.decode(reply.read(), type=answer)
    except urllib.error.HTTPError as error:
        with error:
            raise click.ClickException(f"{url}: {error.read().decode(errors='replace').strip()}") from None
    except msgspec.MsgspecError as error:
        raise click.ClickException(f"{url}: is not the admin API of this version of Proa: {error}") from None
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise click.ClickException(
            f"{url}: cannot be reached: {reason}; start the control plane with `proa serve --from DIR`, "
            "name its admin address with --admin, or ask a cluster's with --kubernetes"
        ) from None


async def _ask_replicas(client: Client, path: str, answer: type[T]) -> list[T]:
    import msgspec

    found: list[T] = []
    silent: list[str] = []
    refused: list[str] = []
    for pod, reply in (await replies(client, path)).items():
        if isinstance(reply, str):
            silent.append(f"{pod}: {reply}")
        elif reply.status != _OK:
            refused.append(f"{pod}: {reply.body.decode(errors='replace').strip()}")
        else:
            try:
                found.append(msgspec.json.decode(reply.body, type=answer))
            except msgspec.MsgspecError as error:
                silent.append(f"{pod}: is not the admin API of this version of Proa: {error}")
    if not found:
        raise click.ClickException("\n".join([*silent, *refused]) or "no replica runs: try `proa check`")
    for words in silent:
        click.echo(words, err=True)
    return found


async def replies(
    client: Client, path: str, *, method: str = "GET", only: str = ""
) -> dict[str, Answer | str]:
    """Return what each running replica, or one of them, answered, or why it did not; raises ApiError."""
    import asyncio

    from xds.kube import survey
    from xds.kube.forward import exchange
    from xds.sources.transport import ApiError

    async def one(pod: str) -> Answer | str:
        try:
            return await exchange(client, survey.NAMESPACE, pod, survey.ADMIN_PORT, path, method=method)
        except ApiError as error:
            return str(error)

    pods = [pod for pod in await survey.replicas(client) if only in {"", pod}]
    return dict(zip(pods, await asyncio.gather(*map(one, pods)), strict=True))
