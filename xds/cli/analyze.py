"""``proa analyze``: what sampled requests and the rules in force say about a mesh's habits.

Owns the group and the tables of its findings; it must never compute what `xds.traffic.amplification` knows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from xds.cli.asking import place, place_options
from xds.cli.parameters import duration, output_option
from xds.cli.traffic import SWITCH_ON, sampling, sightings, since

if TYPE_CHECKING:
    from xds.traffic.amplification import Chain, Party
    from xds.traffic.propagation import Propagation


@click.group("analyze")
def command() -> None:
    """Find habits that hurt, in what the sidecars report.

    Sampled requests are asked for by the mesh setting `evidence: {sampling: PERCENT}`; they hold no header, path or
    body.
    """


@command.command("retries")
@click.option(
    "--above", metavar="N", type=click.IntRange(min=1), default=4, show_default=True,
    help="Only chains that can turn one call into more than N.",
)  # fmt: skip
@click.option(
    "--since", "since_s", metavar="TIME", type=duration, default="15m", show_default=True,
    help="Believe only what sidecars saw in the last 90s, 15m, 2h …",
)  # fmt: skip
@place_options
@output_option
def retries(above: int, since_s: int, output: str, **where: Any) -> None:
    """Show chains of calls that multiply: by how much, who does it, and the change that mends it."""
    import time

    from xds.traffic import amplification, graph

    asked = place(**where)
    seen = graph.merge(asked.ask("/api/v1/edges", graph.Seen))
    rules = {
        (rule.source, rule.service): rule
        for each in asked.ask("/api/v1/retries", amplification.Rules)
        for rule in each.rules
    }
    evidence = sightings(where)
    recent = since((one for each in evidence for one in each.sightings), since_s, now=time.time())
    habits = amplification.habits(recent)
    found = amplification.chains(graph.graph_of(seen), rules.values(), habits, above=above)
    if output == "json":
        import msgspec

        click.echo(msgspec.json.encode({"chains": found, "sampling": sampling(evidence)}))
        return
    _show(found, above)
    if not sampling(evidence):
        click.echo(
            f"evidence is off, so tries of applications and dropped baggage are not seen: {SWITCH_ON}",
            err=True,
        )


@command.command("traces")
@click.option(
    "--since", "since_s", metavar="TIME", type=duration, default="15m", show_default=True,
    help="Believe only what sidecars saw in the last 90s, 15m, 2h …",
)  # fmt: skip
@place_options
@output_option
def traces(since_s: int, output: str, **where: Any) -> None:
    """Show applications that lose traces: what they send goes on with nothing that they took."""
    import time

    from xds.traffic import propagation

    evidence = sightings(where)
    recent = since((one for each in evidence for one in each.sightings), since_s, now=time.time())
    found = propagation.propagation(recent)
    if output == "json":
        import msgspec

        click.echo(msgspec.json.encode({"workloads": found, "sampling": sampling(evidence)}))
        return
    _show_traces(found)
    if not sampling(evidence):
        click.echo(f"evidence is off, so nothing new is seen: {SWITCH_ON}", err=True)


def _show(found: list[Chain], above: int) -> None:
    from xds.cli.table import printable

    if not found:
        click.echo(f"no chain of calls can turn one call into more than {above}")
        return
    for chain in found:
        click.echo(printable(f"{' → '.join(chain.workloads)}: one call can become {chain.factor}"))
        for party in chain.parties:
            click.echo(printable(f"  × {party.factor}  {_words(party)}"))
        for words, names in (("drops baggage", chain.drops), ("not seen to copy baggage", chain.unknown)):
            if names:
                click.echo(printable(f"  {words}: {', '.join(names)}"))
        for mend in chain.mends:
            click.echo(printable(f"  mend: {mend}"))


def _show_traces(found: list[Propagation]) -> None:
    from xds.cli.table import printable, show
    from xds.traffic.propagation import mend

    if not found:
        click.echo("no workload was seen that takes requests and makes some")
        return
    rows = [
        (each.workload, str(each.taken), str(each.made), str(each.continued), each.verdict.value)
        for each in found
    ]
    show(("WORKLOAD", "TAKEN", "MADE", "CONTINUED", "VERDICT"), rows)
    for each in found:
        if mend(each):
            calls = ", ".join(each.services)
            click.echo(
                printable(f"{each.workload}: calls of {calls} begin traces of their own; {mend(each)}")
            )


def _words(party: Party) -> str:
    return f"{party.kind} {party.where}: {party.why}"
