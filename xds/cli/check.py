"""``proa check``: what is wrong with a cluster or its mesh, and the command that mends it.

Owns the output and the exit code; it must never judge a fact itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from xds.cli.cluster import Access, context_option, kubeconfig_option

if TYPE_CHECKING:
    from xds.checks.facts import Grant
    from xds.checks.finding import Result

_MARKS: Final = {"ok": "ok", "warning": "WARN", "error": "FAIL"}


@click.command("check")
@click.option("--pre", is_flag=True, help="Before the installation: may it work here?")
@click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "json", "junit"]),
    default="table",
    show_default=True,
    help="A table for people, one JSON document, or JUnit's XML.",
)
@kubeconfig_option
@context_option
def command(output: str, kubeconfig: Path | None, context: str | None, *, pre: bool) -> None:
    """Check the cluster, the control plane, and every meshed namespace, Pod and Service.

    Exit codes: 0 all is well, 1 something is broken, 2 usage or no cluster, 3 warnings only.
    """
    from xds.checks import show
    from xds.checks.finding import exit_code
    from xds.checks.run import run
    from xds.kube.survey import survey

    grants = _wanted() if pre else ()
    results = run(Access(kubeconfig, context).run(lambda client: survey(client, grants)), pre=pre)
    match output:
        case "json":
            click.echo(show.as_json(results))
        case "junit":
            click.echo(show.as_junit(results), nl=False)
        case _:
            _show(results)
    raise SystemExit(exit_code(results))


def _wanted() -> tuple[Grant, ...]:
    """Return the rights that applying the manifest takes."""
    from xds import install
    from xds.checks.facts import Grant

    found = install.documents(install.carried())
    resources = dict.fromkeys(
        (f"{one.resource}.{one.group}" if one.group else one.resource, one.namespace) for one in found
    )
    return tuple(
        Grant(verb, resource, namespace, is_allowed=False)
        for resource, namespace in resources
        for verb in ("get", "create", "patch")
    )


def _show(results: Sequence[Result]) -> None:
    from xds.cli.table import printable, show

    rows = [(_MARKS[one.severity.value], one.check, one.subject or "-", one.message) for one in results]
    show(("", "CHECK", "SUBJECT", "RESULT"), rows)
    fixes = dict.fromkeys((one.check, one.fix) for one in results if one.fix)
    if fixes:
        click.echo()
    for check, fix in fixes:
        click.echo(printable(f"{check}: {fix}"))
