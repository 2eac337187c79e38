"""``proa stat``: success, rate and durations of what arrives, by workload, service or namespace.

Owns the table; it must never compute what `xds.traffic.graph` knows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from xds.cli.asking import place_options
from xds.cli.parameters import output_option
from xds.cli.traffic import NOTHING, cells, namespace_option, seen, window_option

if TYPE_CHECKING:
    from xds.traffic.graph import Row

_KINDS: Final = {
    "deploy": "workload",
    "deployment": "workload",
    "workload": "workload",
    "svc": "service",
    "service": "service",
    "ns": "namespace",
    "namespace": "namespace",
}


def _resource(text: str) -> tuple[str, str]:
    """Read KIND or KIND/NAME as a click parameter type."""
    kind, slash, name = text.partition("/")
    kind = kind.removesuffix("s") if kind not in _KINDS and kind.removesuffix("s") in _KINDS else kind
    if kind not in _KINDS or (slash and not name):
        raise click.BadParameter(
            f"must be deploy, svc or ns, or one of them by its name (deploy/web), got {text!r}"
        )
    return _KINDS[kind], name


@click.command("stat")
@click.argument("resource", metavar="[deploy|svc|ns[/NAME]]", type=_resource, default="deploy")
@namespace_option
@window_option
@place_options
@output_option
def command(
    resource: tuple[str, str], namespace: str | None, window_s: int, output: str, **where: Any
) -> None:
    """Show success, rate, latency and open connections of what arrives, over the last minute.

    A workload's figures are those of its own sidecars; a service's are its callers', with what never arrived.
    """
    from xds.traffic.graph import stat

    kind, name = resource
    rows = [
        row
        for row in stat(seen(where, window_s), kind)
        if name in {"", row.name} and namespace in {None, row.namespace}
    ]
    if output == "json":
        import msgspec

        click.echo(msgspec.json.encode({"kind": kind, "rows": rows}))
        return
    if not rows:
        raise click.ClickException(f"nothing is known of {kind} {name or 'at all'}: is it in this mesh?")
    _show(rows)


def _show(rows: list[Row]) -> None:
    from xds.cli.table import show

    columns = (
        "NAMESPACE",
        "NAME",
        "MESHED",
        "SUCCESS",
        "RPS",
        "LATENCY_P50",
        "LATENCY_P95",
        "LATENCY_P99",
        "TCP_CONN",
    )
    show(columns, [_cells(row) for row in rows])


def _cells(row: Row) -> tuple[str, ...]:
    meshed = f"{row.meshed}/{row.pods}" if row.pods else NOTHING
    connections = NOTHING if row.open_connections is None else str(row.open_connections)
    figures = (NOTHING,) * 5 if row.red.success is None else cells(row.red)
    return row.namespace or NOTHING, row.name, meshed, *figures, connections
