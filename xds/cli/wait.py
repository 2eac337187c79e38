"""``proa wait``: until what a file says is in force, and every proxy that is concerned has accepted it.

Owns the deadline and the verdict; it must never call live what a proxy has rejected or not yet answered.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from xds.cli.asking import Place, place, place_options
from xds.cli.parameters import duration
from xds.cli.table import printable

if TYPE_CHECKING:
    from xds import report
    from xds.api.core import Key

_PAUSE_S: Final = 0.05
"""Between two questions. A change reaches the proxies of a small mesh in about 40 ms."""

_REFUSED_S: Final = 2.0
"""An error of an object that is still there after this is about the version that is waited for, not the one before."""


@click.command("wait")
@click.option(
    "-f",
    "--filename",
    "files",
    multiple=True,
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A file of manifests; may be given again.",
)
@click.option("--gone", is_flag=True, help="Wait until none of these objects is in force any more.")
@click.option("--timeout", "timeout_s", type=duration, default="30s", show_default=True, metavar="30s")
@place_options
def command(files: tuple[Path, ...], timeout_s: int, *, gone: bool, **where: Any) -> None:
    """Wait until the objects of a file are in force as the file has them, and all their proxies have accepted them.

    Exit code 1 when a proxy rejected one, when one was refused, or when the time is up; the last line says which.
    """
    import time

    from xds.api.manifest import BUILT_IN

    asked = place(**where)
    wanted = {key: "" if gone else mark for path in files for key, mark in _read(path).items()}
    for key in tuple(wanted):
        if asked.access and key.kind in BUILT_IN and not gone:
            # The apiserver fills in what a file leaves out, such as a Service's address.
            click.echo(f"{key}: is left out: `kubectl wait` is for Kubernetes' own kinds", err=True)
            del wanted[key]
    began = time.monotonic()
    while wanted:
        for key, mark in tuple(wanted.items()):
            waited_s = time.monotonic() - began
            found = _ask(asked, key)
            if all(_is_live(one, mark) for one in found):
                click.echo(_verdict(key, found, gone=gone))
                del wanted[key]
                continue
            if waited_s > _REFUSED_S and (reasons := _reasons(found)):
                raise click.ClickException("\n".join(reasons))
            if waited_s > timeout_s:
                raise click.ClickException(f"{key}: {_missing(found, mark)} after {timeout_s} s")
        if wanted:
            time.sleep(_PAUSE_S)


def _read(path: Path) -> dict[Key, str]:
    """Return the fingerprint of each object of a file; raises ClickException with the place of what is wrong."""
    from xds.api.manifest import fingerprint
    from xds.fields import Severity
    from xds.sources.manifest_file import read_file

    content = read_file(str(path), path.read_bytes())
    errors = [str(problem) for problem in content.problems if problem.severity is Severity.ERROR]
    if errors:
        raise click.ClickException("\n".join(map(printable, errors)))
    found = {entry.key: fingerprint(entry.object) for entry in content.entries if entry.object is not None}
    if not found:
        raise click.ClickException(f"{path}: holds no object that Proa reads")
    return found


def _ask(asked: Place, key: Key) -> list[report.ObjectRecord]:
    import urllib.parse

    from xds import report

    query = urllib.parse.urlencode(key._asdict())
    return asked.ask(f"/api/v1/objects?{query}", report.ObjectRecord)


def _is_live(found: report.ObjectRecord, mark: str) -> bool:
    return found.fingerprint == mark and not found.waiting and not found.rejections


def _reasons(found: list[report.ObjectRecord]) -> list[str]:
    """Return why the object will not become live by itself."""
    refused = [
        f"{one.object}: {problem.field}: {problem.reason}"
        for one in found
        for problem in one.problems
        if problem.severity == "error"
    ]
    rejected = [
        f"{one.object}: rejected by {rejection.proxy}: {rejection.error}"
        for one in found
        for rejection in one.rejections
    ]
    return [printable(reason) for reason in dict.fromkeys(refused + rejected)]


def _missing(found: list[report.ObjectRecord], mark: str) -> str:
    if any(one.fingerprint != mark for one in found):
        return "another version, or none, is in force" if mark else "is still in force"
    waiting = sum(one.waiting for one in found)
    return f"{waiting} {'answer is' if waiting == 1 else 'answers are'} missing"


def _verdict(key: Key, found: list[report.ObjectRecord], *, gone: bool) -> str:
    times = [one.live_ms for one in found if one.live_ms is not None]
    took = f", accepted by every proxy {max(times):.0f} ms after the change" if times else ""
    return f"{key}: {'gone' if gone else 'in force'}{took}"
