"""``proa top``: the busiest edges, or sampled requests by kind, again and again.

Owns the screen and its pace; it must never compute what `xds.traffic.graph` knows.
"""

from __future__ import annotations

import sys
from typing import Any, Final, NamedTuple

import click

from xds.cli.asking import place_options
from xds.cli.edges import SECURED
from xds.cli.parameters import output_option
from xds.cli.traffic import (
    NOTHING,
    SILENT,
    SWITCH_ON,
    cells,
    ms,
    namespace_option,
    sampling,
    seen,
    sightings,
    since,
    window_option,
)

_HOME: Final = "\x1b[H\x1b[J"
"""Cursor to the upper left, and everything below it gone."""

_EVERY_S: Final = 5.0
"""How often sidecars report: asked more often, the answer would be the same."""


@click.command("top")
@namespace_option
@click.option(
    "--requests", is_flag=True, help="Sampled requests by method and route, in place of all by edge."
)
@click.option(
    "--every",
    "every_s",
    metavar="SECONDS",
    type=click.FloatRange(min=0.1),
    default=_EVERY_S,
    show_default=True,
)
@click.option(
    "--count", metavar="N", type=click.IntRange(min=0), default=0, help="End after N looks; 0: never."
)
@window_option
@place_options
@output_option
def command(  # noqa: PLR0913 -- one argument for each flag
    *,
    namespace: str | None,
    requests: bool,
    every_s: float,
    count: int,
    window_s: int,
    output: str,
    **where: Any,
) -> None:
    """Show the busiest edges until Ctrl-C; in a pipe, or with -o json, one look unless --count says more.

    Edges are workload, service, workload: no sidecar counts by path, because each path would be a series that stays.
    With --requests it is the requests that were sampled (mesh setting `evidence`) by method and route: a route stands
    for the paths that it takes.
    """
    import time

    count = count or (0 if sys.stdout.isatty() and output == "table" else 1)
    looks = 0
    while True:
        found = (_requests if requests else _edges)(where, namespace, window_s)
        if sys.stdout.isatty() and output == "table":
            click.echo(_HOME, nl=False)
        _show(found, output)
        looks += 1
        if count and looks >= count:
            return
        time.sleep(every_s)


class _Look(NamedTuple):
    """What one look has found, as a document and as a table; ``note`` is said where there is nothing."""

    document: dict[str, Any]
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    note: str


def _edges(where: dict[str, Any], namespace: str | None, window_s: int) -> _Look:
    from xds.traffic.graph import graph_of

    found = [
        link
        for link in graph_of(seen(where, window_s)).edges
        if link.red.success is not None and _is_in(namespace, link.source, link.destination)
    ]
    found.sort(key=lambda link: (-link.red.requests_per_s, link.source, link.destination))
    columns = ("SOURCE", "DESTINATION", "SERVICE", "SECURED", "SUCCESS", "RPS", "P50", "P95", "P99")
    rows = [
        (
            link.source,
            link.destination,
            link.service,
            SECURED.get(link.security, link.security),
            *cells(link.red),
        )
        for link in found
    ]
    return _Look({"edges": found}, columns, rows, SILENT)


def _requests(where: dict[str, Any], namespace: str | None, window_s: int) -> _Look:
    import time

    from xds.traffic.calls import calls

    evidence = sightings(where)
    recent = since((one for each in evidence for one in each.sightings), window_s, now=time.time())
    found = [one for one in calls(recent) if _is_in(namespace, one.source, one.destination)]
    columns = ("SOURCE", "DESTINATION", "METHOD", "ROUTE", "COUNT", "BEST", "WORST", "LAST", "SUCCESS")
    rows = [
        (
            one.source or NOTHING,
            one.destination,
            one.method,
            one.route or NOTHING,
            str(one.count),
            *map(ms, (one.best_ms, one.worst_ms, one.last_ms)),
            f"{one.success:.2%}",
        )
        for one in found
    ]
    is_on = sampling(evidence) > 0
    note = f"no request was sampled in the last {window_s} s" if is_on else f"evidence is off: {SWITCH_ON}"
    return _Look({"requests": found, "sampling": sampling(evidence)}, columns, rows, note)


def _is_in(namespace: str | None, source: str, destination: str) -> bool:
    from xds.traffic.graph import split

    return namespace is None or namespace in {split(source)[1], split(destination)[1]}


def _show(found: _Look, output: str) -> None:
    from xds.cli.table import show

    if output == "json":
        import msgspec

        click.echo(msgspec.json.encode(found.document))
    elif found.rows:
        show(found.columns, found.rows)
    else:
        click.echo(found.note)
