"""``proa top``: the busiest edges, again and again.

Owns the screen and its pace; it must never compute what `xds.traffic.graph` knows.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

import click

from xds.cli.asking import place_options
from xds.cli.edges import SECURED
from xds.cli.parameters import output_option
from xds.cli.traffic import SILENT, cells, namespace_option, seen

if TYPE_CHECKING:
    from xds.traffic.graph import Link

_HOME: Final = "\x1b[H\x1b[J"
"""Cursor to the upper left, and everything below it gone."""

_EVERY_S: Final = 5.0
"""How often sidecars report: asked more often, the answer would be the same."""


@click.command("top")
@namespace_option
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
@place_options
@output_option
def command(namespace: str | None, every_s: float, count: int, output: str, **where: Any) -> None:
    """Show the busiest edges until Ctrl-C; in a pipe, or with -o json, one look unless --count says more.

    Edges are workload, service, workload: no sidecar counts by path, because each path would be a series that stays.
    """
    import time

    count = count or (0 if sys.stdout.isatty() and output == "table" else 1)
    looks = 0
    while True:
        links = _busiest(where, namespace)
        if sys.stdout.isatty() and output == "table":
            click.echo(_HOME, nl=False)
        _show(links, output)
        looks += 1
        if count and looks >= count:
            return
        time.sleep(every_s)


def _busiest(where: dict[str, Any], namespace: str | None) -> list[Link]:
    from xds.traffic.graph import graph_of, split

    found = [
        link
        for link in graph_of(seen(where)).edges
        if link.red.success is not None
        and (namespace is None or namespace in {split(link.source)[1], split(link.destination)[1]})
    ]
    return sorted(found, key=lambda link: (-link.red.requests_per_s, link.source, link.destination))


def _show(links: list[Link], output: str) -> None:
    from xds.cli.table import show

    if output == "json":
        import msgspec

        click.echo(msgspec.json.encode({"edges": links}))
    elif links:
        columns = ("SOURCE", "DESTINATION", "SERVICE", "SECURED", "SUCCESS", "RPS", "P50", "P95", "P99")
        show(columns, [_cells(link) for link in links])
    else:
        click.echo(SILENT)


def _cells(link: Link) -> tuple[str, ...]:
    secured = SECURED.get(link.security, link.security)
    return link.source, link.destination, link.service, secured, *cells(link.red)
