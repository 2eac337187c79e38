"""``proa demo``: real services behind real Envoys on this machine, and a weight changed while they run.

Owns the flags, the working directory and the exit code; it must never leave a process behind.
"""

from __future__ import annotations

import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

if TYPE_CHECKING:
    from xds.demo.manifests import PodSpec
    from xds.demo.report import Report
    from xds.demo.run import Demo, Options

_SHORTEST_S: Final = 10
"""Below it, 1,000 requests before and after the edit need a rate that a laptop does not carry."""


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise click.BadParameter(f"must be a number of seconds, got {text!r}") from None
    if value != 0 and not _SHORTEST_S <= value < 1e6:
        raise click.BadParameter(f"must be 0 (until Ctrl-C) or at least {_SHORTEST_S} seconds, got {text}")
    return value


@click.command("demo")
@click.option(
    "--duration",
    type=_seconds,
    default="30",
    show_default=True,
    metavar="S",
    help="How long to send requests; the weight changes half way. 0: until Ctrl-C.",
)
@click.option(
    "--rps",
    type=click.FloatRange(1, 10_000),
    metavar="N",
    help="Requests a second; by default as many as prove the split, at least 100.",
)
@click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="A live panel and a table for people, or one JSON document on stdout.",
)
@click.option(
    "--from",
    "directory",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Manifests to run a copy of, instead of examples/go-services/mesh.",
)
@click.option(
    "--stay",
    is_flag=True,
    help="Send and change nothing: keep the mesh until Ctrl-C, and print where it is as lines for a shell.",
)
def command(duration: float, rps: float | None, output: str, directory: Path | None, *, stay: bool) -> None:
    """Run real Go services behind real Envoys with mutual TLS and a canary, and change its weight live.

    Needs neither root nor Docker: Envoy comes from its wheel, Go from the PATH or its wheel. Exit code 0: every
    request succeeded over mutual TLS, every proxy acknowledged everything, and the split was as asked.
    """
    from xds.demo import programs
    from xds.demo.processes import DemoError
    from xds.demo.run import Options, default_rps

    try:
        source = directory or programs.examples() / "mesh"
    except DemoError as error:
        raise click.ClickException(str(error)) from None
    options = Options(duration_s=duration, rps=rps or default_rps(duration), source=source)
    # Both ways of asking us to end take the same road: out through every `finally`.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    work = Path(tempfile.mkdtemp(prefix="proa-demo-"))
    if stay:
        _stay(work, options)
        return
    report = _run(work, options, is_json=output == "json")
    if report is None or not report.ok:
        click.echo(f"logs, manifests and bootstraps are kept in {work}", err=True)
        raise SystemExit(1)
    _remove(work)


def _run(work: Path, options: Options, *, is_json: bool) -> Report | None:
    """Run, print the result, and stop everything; None if there is no result."""
    from rich.console import Console

    from xds.demo.mesh import Mesh
    from xds.demo.processes import DemoError
    from xds.demo.run import Demo
    from xds.demo.screen import Lines, Panel

    console = Console(stderr=True)
    screen = Panel(console) if console.is_terminal and not is_json else Lines(console)
    demo = Demo(Mesh(work), options, screen)
    try:
        report = demo.run()
    except DemoError as error:
        screen.close()
        click.echo(f"proa demo: {error}", err=True)
        return None
    except KeyboardInterrupt:
        screen.close()
        click.echo("proa demo: interrupted", err=True)
        return None
    finally:
        _stop(demo)
    screen.close()
    _print(report, is_json=is_json)
    return report


def _stay(work: Path, options: Options) -> None:
    """Keep a mesh for its user; what it leaves is removed, unless a part of it failed."""
    from rich.console import Console

    from xds.demo.mesh import Mesh
    from xds.demo.processes import DemoError
    from xds.demo.run import Demo
    from xds.demo.screen import Lines

    mesh = Mesh(work)
    demo = Demo(mesh, options, Lines(Console(stderr=True)))

    def tell(pods: tuple[PodSpec, ...]) -> None:
        click.echo(f"export MANIFESTS={mesh.manifests} PROA_ADMIN=127.0.0.1:{mesh.admin_port}")
        for pod in pods:
            click.echo(f"export {pod.name.upper().replace('-', '_')}={pod.outbound}")

    try:
        demo.stay(tell)
    except DemoError as error:
        click.echo(f"proa demo: {error}", err=True)
        click.echo(f"logs, manifests and bootstraps are kept in {work}", err=True)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        pass
    finally:
        _stop(demo)
    _remove(work)


def _stop(demo: Demo) -> None:
    """Stop the services, the Envoys and the control plane, in this order; a second Ctrl-C does not hurry it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    demo.screen.step("Stop services, Envoys and control plane")
    demo.mesh.stop()


def _print(report: Report, *, is_json: bool) -> None:
    import msgspec
    from rich.console import Console

    from xds.demo.screen import summarise

    if is_json:
        click.echo(msgspec.json.format(msgspec.json.encode(report), indent=2))
    else:
        summarise(report, Console())


def _remove(work: Path) -> None:
    import shutil

    shutil.rmtree(work, ignore_errors=True)
