"""``proa explain``: what happens to one request and why, from a directory or from the running control plane.

Owns how the question is typed and how the answer is printed; it must never find anything out itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from xds.cli.asking import place, place_options
from xds.cli.parameters import output_option

if TYPE_CHECKING:
    from xds.explain.answer import Answer, Authorization, Target
    from xds.explain.question import Question

_ARROWS: Final = frozenset({"->", "→"})


class _Spoken(click.Command):
    """A command whose words may be joined by an arrow, as people write it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Leave out arrows, and cut one quoted question into its words."""
        words = [word for arg in args for word in _cut(arg)]
        if "-" in words:
            raise click.UsageError("the shell took > as a redirection: leave the arrow out, or quote it", ctx)
        return super().parse_args(ctx, words)


def _cut(arg: str) -> list[str]:
    for arrow in _ARROWS:
        if arg.strip() == arrow:
            return []
        if f" {arrow} " in arg:
            source, _, rest = arg.partition(f" {arrow} ")
            destination, _, request = rest.strip().partition(" ")
            return [source.strip(), destination, *([request.strip()] if request.strip() else [])]
    return [arg]


@click.command("explain", cls=_Spoken)
@click.argument("source", metavar="SOURCE")
@click.argument("destination", metavar="DESTINATION")
@click.argument("request", metavar="['METHOD /path']", default="")
@click.option(
    "-H", "--header", "headers", metavar="'NAME: VALUE'", multiple=True, help="A header that the request has."
)
@click.option(
    "--dir",
    "directory",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Ask a directory of manifests instead of the running control plane.",
)
@place_options
@output_option
def command(  # noqa: PLR0913, PLR0917 -- one argument for each word and flag
    source: str,
    destination: str,
    request: str,
    headers: tuple[str, ...],
    directory: Path | None,
    output: str,
    **where: Any,
) -> None:
    """Say what happens to one request, and which object decides each step.

    SOURCE is NAME.NAMESPACE of a workload or Pod, or a NAMESPACE; DESTINATION is HOST[:PORT] or IP:PORT.
    An arrow between the two is allowed in quotes: `proa explain 'web.shop -> orders.shop GET /x'`.

    Exit code 1 when the request fails.
    """
    import msgspec

    from xds.explain.question import read_question
    from xds.fields import ConfigError

    try:
        question = read_question(source, destination, request, headers)
        found = _from_directory(directory, question) if directory else _from_control_plane(question, where)
    except ConfigError as error:
        raise click.UsageError(str(error)) from None
    if output == "json":
        click.echo(msgspec.json.encode(found))
    else:
        _show(found)
    raise SystemExit(1 if any(cause.status for cause in found.causes) else 0)


def _from_directory(directory: Path, question: Question) -> Answer:
    import time

    from xds.control import ControlPlane
    from xds.explain.located import located
    from xds.explain.walk import explain
    from xds.sources.directory import Directory

    source = Directory(directory)
    batch = source.load()
    plane = ControlPlane()
    now_s = time.time()
    plane.apply(batch.changes, at=0.0, now=now_s, broken=batch.broken)
    plane.problems = (*batch.problems, *source.placed(plane.plan.problems()))
    return located(explain(plane.known(now_s), question), source.placed)


def _from_control_plane(question: Question, where: dict[str, Any]) -> Answer:
    import urllib.parse

    from xds.explain.answer import Answer

    query = [
        ("source", question.source),
        ("destination", question.destination),
        ("request", f"{question.method} {question.path}"),
        ("header", f"host: {question.authority}"),
        *(("header", f"{name}: {value}") for name, value in question.headers),
    ]
    answers = place(**where).ask(f"/api/v1/explain?{urllib.parse.urlencode(query)}", Answer)
    # Of several replicas, the one to which the source's proxy is connected knows what that has accepted.
    return max(answers, key=lambda found: len(found.proxies))


# -- for people --------------------------------------------------------------------------------


def _show(found: Answer) -> None:
    from xds.cli.table import printable, show

    asked = found.question
    click.echo(printable(f"{asked.source} -> {asked.destination}  {asked.method} {asked.path}"))
    click.echo(printable(f"=> {found.outcome}"))
    click.echo()
    show(("STEP", "WHAT", "BY"), [*_steps(found), *(row for one in found.targets for row in _target(one))])
    for title, lines in (
        ("CAUSES", _causes(found)),
        ("NOT TAKEN", _considered(found)),
        ("PROBLEMS", _problems(found)),
    ):
        if lines:
            click.echo(f"\n{title}")
            for line in lines:
                click.echo(f"  {printable(line)}")


def _steps(found: Answer) -> Iterator[tuple[str, str, str]]:
    source, route = found.source, found.route
    who = source.identity or ("no identity" if source.pod else f"any Pod of {source.namespace}")
    yield (
        "source",
        who,
        f"Pod {source.namespace}/{source.pod}" if source.pod else f"Namespace {source.namespace}",
    )
    if source.sidecar:
        yield "scope", "narrowed", f"Sidecar {source.sidecar}"
    yield "listener", found.listener or "none: no sidecar", ""
    if found.virtual_host:
        yield "virtual host", found.virtual_host, ""
    if route is not None:
        place = f"{route.object} {route.rule}" + (f" ({route.where})" if route.where else "")
        yield "route", route.match, place
    yield "action", found.action, ""
    yield from _behaviour(found)


def _behaviour(found: Answer) -> Iterator[tuple[str, str, str]]:
    if found.rewrite:
        yield "rewrite", found.rewrite, ""
    if found.fault is not None:
        delay = (
            f"delay {found.fault.delay_ms:g} ms for {found.fault.delay_percent:g} %"
            if found.fault.delay_ms
            else ""
        )
        abort = f"{found.fault.abort} for {found.fault.abort_percent:g} %" if found.fault.abort else ""
        yield "fault", ", ".join(part for part in (delay, abort) if part), found.fault.object
    if found.route is not None and found.targets:
        yield "timeout", f"{found.timeout_ms:g} ms" if found.timeout_ms else "none", ""
        tries = found.retries
        each = f", {tries.per_try_timeout_ms:g} ms each" if tries and tries.per_try_timeout_ms else ""
        yield "retries", f"{tries.attempts} on {','.join(tries.on)}{each}" if tries else "none", ""
    for mirror in found.mirrors:
        yield "mirror", f"{mirror.percent:g} % to {mirror.cluster}", ""


def _target(one: Target) -> Iterator[tuple[str, str, str]]:
    yield "cluster", f"{one.percent:g} % to {one.cluster}", ", ".join(one.rules)
    ends = one.endpoints
    zones = ", ".join(f"{count} in {zone}" for zone, count in ends.zones)
    yield "endpoints", f"{ends.healthy} healthy, {ends.draining} draining, {ends.known} known", zones
    yield "client TLS", one.tls.client.mode, one.tls.client.why
    for end in one.tls.server:
        yield "server TLS", f"{end.mode} ({end.endpoints} of {ends.healthy})", end.why
    if one.inbound:
        yield "inbound", one.inbound, ""
    yield from _authorization(one.authorization)


def _authorization(verdict: Authorization) -> Iterator[tuple[str, str, str]]:
    for check in verdict.tokens:
        meant = f" for {' or '.join(check.audiences)}" if check.audiences else ""
        yield "token", check.result, check.rule
        yield "  looked for", " or ".join(check.places), ""
        yield "  issuer", f"{check.issuer}{meant}; keys {check.keys}", ""
    for asking in verdict.asked:
        yield "asks", f"{asking.provider} at {asking.service}, {asking.healthy} healthy", asking.rule
        for said, then in (("yes", asking.on_yes), ("no", asking.on_no), ("no answer", asking.on_silence)):
            yield f"  {said}", then, ""
    yield "authorization", verdict.verdict, verdict.policy or verdict.reason


def _causes(found: Answer) -> list[str]:
    return [
        f"{one.status or 'note'}  {one.code}: {one.text}"
        + (f" ({one.percent:g} % of the requests)" if one.percent < 100 else "")
        for one in found.causes
    ]


def _considered(found: Answer) -> list[str]:
    return [
        f"{one.object} {one.rule}{f' ({one.where})' if one.where else ''}: {one.reason}"
        for one in found.considered
    ]


def _problems(found: Answer) -> list[str]:
    lines = [
        f"{one.where + ': ' if one.where else ''}{one.severity}: {one.object}: {one.field}: {one.reason}"
        for one in found.problems
    ]
    for proxy in found.proxies:
        lines += [f"proxy {proxy.id} rejected {words}" for words in proxy.rejected]
        lines += [f"proxy {proxy.id} has not answered for {name}" for name in proxy.unanswered]
    return lines
