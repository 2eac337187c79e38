"""``proa status``: every proxy, what it has accepted, and every problem.

Owns the table; it must never compute what the ledger knows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from xds.cli.asking import place, place_options
from xds.cli.parameters import output_option

if TYPE_CHECKING:
    from xds import report


@click.command("status")
@place_options
@output_option
def command(output: str, **where: Any) -> None:
    """Show every connected proxy, what it has accepted, what its Envoy lacks, whom it has ejected, every problem."""
    import msgspec

    from xds import report

    asked = place(**where)
    found = report.overview(
        asked.ask("/api/v1/proxies", report.Proxies), asked.ask("/api/v1/problems", report.Problems)
    )
    if output == "json":
        click.echo(msgspec.json.encode(found))
    else:
        _show(found)


def _show(found: report.Overview) -> None:
    import time

    from xds.cli.table import age, show
    from xds.report import TYPE_NAMES

    now = time.time()
    kinds = tuple(TYPE_NAMES.values())
    rows = [
        (
            proxy.id,
            proxy.workload or "unknown",
            age(now - proxy.connected_at),
            "yes" if proxy.acked else "no",
            *(_counts(proxy, kind) for kind in kinds),
            proxy.version or "-",
        )
        for proxy in found.proxies
    ]
    if rows:
        show(("PROXY", "WORKLOAD", "CONNECTED", "SYNCED", *(kind.upper() for kind in kinds), "ENVOY"), rows)
    else:
        click.echo("no proxy is connected: start one with `envoy -c` on the output of `proa bootstrap`")
    ejected = [
        (one.pod or one.address, one.address, one.service, proxy.id, age(now - one.since))
        for proxy in found.proxies
        for one in proxy.ejected
    ]
    if ejected:
        click.echo()
        show(("EJECTED", "ENDPOINT", "SERVICE", "BY", "FOR"), ejected)
    silent = [
        (
            f"{one.service} {one.name}".strip(),
            proxy.id,
            str(one.times),
            age(now - one.last),
            ", ".join(one.objects),
        )
        for proxy in found.proxies
        for one in proxy.silent
    ]
    if silent:
        click.echo()
        show(("NO ANSWER FROM", "TO", "TIMES", "LAST", "BECAUSE OF"), silent)
    lacking = [(proxy.version, proxy.id, words) for proxy in found.proxies for words in proxy.lacks]
    if lacking:
        click.echo()
        show(("OLDER ENVOY", "OF", "LACKS"), lacking)
    if found.problems:
        click.echo()
        places = [(p.severity, p.object, p.field, p.reason, p.where) for p in found.problems]
        show(("SEVERITY", "OBJECT", "FIELD", "REASON", "WHERE"), places)


def _counts(proxy: report.Proxy, kind: str) -> str:
    """Return accepted of all, and what was rejected: ``12/13 1 NACK``."""
    for count in proxy.types:
        if count.type == kind:
            total = count.accepted + count.unanswered + count.rejected
            return f"{count.accepted}/{total}" + (f" {count.rejected} NACK" if count.rejected else "")
    return "-"
