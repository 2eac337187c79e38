"""``proa edges``: who calls whom, and whether both have shown who they are.

Owns the table; it must never compute what `xds.traffic.graph` knows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from xds.cli.asking import place_options
from xds.cli.parameters import output_option
from xds.cli.traffic import NOTHING, SILENT, namespace_option, seen, short

if TYPE_CHECKING:
    from xds.traffic.graph import Link

SECURED: Final = {"mutual_tls": "mTLS", "none": "plaintext"}


@click.command("edges")
@namespace_option
@place_options
@output_option
def command(namespace: str | None, output: str, **where: Any) -> None:
    """Show who calls whom, whether by mutual TLS, and the identities that were verified.

    Security is what the called side saw. A caller in plaintext has shown nobody who it is: it is `unknown` there.
    """
    from xds.traffic.graph import graph_of, split

    links = [
        link
        for link in graph_of(seen(where)).edges
        if namespace is None or namespace in {split(link.source)[1], split(link.destination)[1]}
    ]
    if output == "json":
        import msgspec

        click.echo(msgspec.json.encode({"edges": links}))
    elif links:
        _show(links)
    else:
        click.echo(SILENT)


def _show(links: list[Link]) -> None:
    from xds.cli.table import show
    from xds.traffic.graph import split

    rows: list[tuple[str, ...]] = []
    for link in links:
        (source, source_ns), (destination, destination_ns) = split(link.source), split(link.destination)
        secured = SECURED.get(link.security, link.security)
        identities = short(link.source_identity), short(link.destination_identity)
        ends = source, destination, source_ns or NOTHING, destination_ns or NOTHING
        rows.append((*ends, link.service, secured, *identities))
    show(("SRC", "DST", "SRC_NS", "DST_NS", "SERVICE", "SECURED", "CLIENT", "SERVER"), rows)
