"""``proa validate``: a directory through the server's own reader and compiler, and every problem with its place.

Owns what is printed; it must never check anything that the server does not check.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from xds.cli.parameters import output_option
from xds.cli.table import printable

if TYPE_CHECKING:
    from xds.fields import Problem


@click.command("validate")
@click.argument("directory", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@output_option
def command(directory: Path, output: str) -> None:
    """Check the manifests in DIR with the server's own compiler and print each problem with its place.

    Exit code 1 when there is an error; warnings and remarks alone exit 0.
    """
    from xds.fields import Severity

    problems = problems_of(directory)
    errors = sum(problem.severity is Severity.ERROR for problem in problems)
    if output == "json":
        import msgspec

        from xds import report

        click.echo(msgspec.json.encode(report.problems(problems)))
    else:
        for problem in problems:
            click.echo(printable(str(problem)))
        click.echo(f"{_count(errors, 'error')}, {_count(len(problems) - errors, 'other remark')}", err=True)
    raise SystemExit(1 if errors else 0)


def problems_of(directory: Path) -> tuple[Problem, ...]:
    """Return everything that is wrong with a directory: what reading finds, then what compiling every proxy finds."""
    from xds.plan import Plan
    from xds.snapshot import Snapshot
    from xds.sources.directory import Directory
    from xds.sources.store import Store

    source = Directory(directory)
    batch = source.load()
    plan = Plan(Snapshot())
    plan.apply(Store().apply_all(batch.changes), batch.broken)
    for pod in tuple(plan.world.pods()):
        plan.view(pod)  # what a Pod's own proxy would be told is compiled when it asks
    return (*batch.problems, *source.placed(plan.problems()))


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
