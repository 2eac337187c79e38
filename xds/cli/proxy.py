"""``proa proxy config``: what one proxy was sent, where that stands, and why it was sent.

Owns the table; it must never show the body of a resource.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from xds.cli.asking import place, place_options
from xds.cli.parameters import output_option

if TYPE_CHECKING:
    from xds import report

_TYPES: Final = ("clusters", "endpoints", "listeners", "routes", "secrets")
"""The names in ``xds.report.TYPE_NAMES``, repeated because they are options and that module is not light."""


@click.group("proxy")
def command() -> None:
    """Show what one proxy was sent, and why."""


@command.command("config")
@click.argument("node_id", metavar="ID")
@click.option("--type", "kind", type=click.Choice(_TYPES), help="Only resources of this type.")
@place_options
@output_option
def config(node_id: str, kind: str | None, output: str, **where: Any) -> None:
    """Show what the proxy ID holds, and why.

    ID is POD.NAMESPACE as `proa status` shows it, or NAMESPACE/POD. For each resource: version, state, time,
    bytes and cause.
    """
    import urllib.parse

    import msgspec

    from xds import report

    namespace, slash, pod = node_id.partition("/")
    node_id = f"{pod}.{namespace}" if slash else node_id
    query = "" if kind is None else f"?type={kind}"
    path = f"/api/v1/proxies/{urllib.parse.quote(node_id, safe='')}/config{query}"
    found = place(**where).ask(path, report.Config)[0]
    if output == "json":
        click.echo(msgspec.json.encode(found))
    else:
        _show(found)


def _show(found: report.Config) -> None:
    import time

    from xds.cli.table import age, printable, show

    now = time.time()
    rows = [
        (
            resource.type,
            resource.name,
            resource.version,
            resource.state,
            "-" if resource.sent_at is None else age(now - resource.sent_at),
            str(resource.size_bytes),
            ", ".join(resource.cause),
        )
        for resource in found.resources
    ]
    show(("TYPE", "NAME", "VERSION", "STATE", "AGE", "BYTES", "CAUSE"), rows)
    for resource in found.resources:
        if resource.error:
            click.echo()
            click.echo(printable(f"{resource.type} {resource.name} was rejected: {resource.error}"))
