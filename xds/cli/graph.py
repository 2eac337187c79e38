"""``proa graph``: the graph of calls as a table, as JSON, for Graphviz, or drawn.

Owns the choice of the form; it must never compute what `xds.traffic.graph` knows, nor draw.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from xds.cli.asking import place_options
from xds.cli.traffic import SILENT, cells, namespace_option, seen, window_option

if TYPE_CHECKING:
    from xds.traffic.graph import Graph


@click.command("graph")
@namespace_option
@click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "json", "dot", "svg"]),
    default="table",
    show_default=True,
    help="A table, one JSON document, Graphviz' language, or a picture.",
)
@window_option
@place_options
def command(namespace: str | None, output: str, window_s: int, **where: Any) -> None:
    """Show the graph of calls: `proa graph -o svg > mesh.svg`."""
    import msgspec

    from xds.traffic import drawing
    from xds.traffic.graph import graph_of, narrow

    found = graph_of(seen(where, window_s))
    if namespace is not None:
        found = narrow(found, namespace)
    if output == "json":
        click.echo(msgspec.json.encode(found))
    elif output == "table":
        _show(found)
    else:
        click.echo(drawing.dot(found) if output == "dot" else drawing.svg(found), nl=False)


def _show(graph: Graph) -> None:
    from xds.cli.table import show
    from xds.traffic.drawing import label

    if not graph.edges:
        click.echo(SILENT)
        return
    rows = [
        (link.source, link.destination, link.service, link.security, label(link), *cells(link.red)[2:])
        for link in graph.edges
    ]
    show(("SOURCE", "DESTINATION", "SERVICE", "SECURITY", "CARRIES", "P50", "P95", "P99"), rows)
