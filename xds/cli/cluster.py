"""What verbs share that ask a cluster: the options, the connection, and what to say when there is none.

Owns the exit code 2 of an unreachable cluster; it must never choose a cluster that kubectl would not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

if TYPE_CHECKING:
    from xds.kube.client import Client

T = TypeVar("T")


class Unreachable(click.ClickException):
    """The cluster does not answer, or not to this user."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Access:
    """Which cluster, as kubectl would be told."""

    kubeconfig: Path | None
    context: str | None

    def run(self, job: Callable[[Client], Awaitable[T]]) -> T:
        """Return what a job makes of a connection; raises Unreachable with the API's own words."""
        from xds.sources.transport import ApiError

        try:
            return asyncio.run(self._run(job))
        except ApiError as error:
            message = f"the Kubernetes API: {error}; try `kubectl{self._flags()} auth whoami`"
            raise Unreachable(message) from None

    async def _run(self, job: Callable[[Client], Awaitable[T]]) -> T:
        from xds.kube.client import Client

        async with await Client.connect(self.kubeconfig, self.context) as client:
            return await job(client)

    def _flags(self) -> str:
        return (f" --kubeconfig {self.kubeconfig}" if self.kubeconfig else "") + (
            f" --context {self.context}" if self.context else ""
        )


kubeconfig_option = click.option(
    "--kubeconfig",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Kubeconfig file, instead of the one that kubectl uses.",
)
context_option = click.option("--context", metavar="NAME", help="Context of the kubeconfig.")
