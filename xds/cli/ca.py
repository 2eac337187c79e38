"""``proa ca``: show and rotate the roots of trust, through a running server or on a state directory.

Owns the choice between the ways; it must never write a state directory that a server has locked.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xds import settings
from xds.cli.asking import access, cluster_options
from xds.cli.parameters import output_option

if TYPE_CHECKING:
    from xds.kube.client import Client
    from xds.state import StateDirectory
    from xds.trust import Status

_state_option = click.option(
    "--state",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    default=settings.STATE_DIRECTORY,
    show_default=True,
    help="State directory of the control plane.",
)
_channel_option = click.option(
    "--channel",
    "root",
    flag_value="channel",
    default="workload",
    help="The control channel's root instead of the workload root.",
)


@click.group("ca")
def command() -> None:
    """Show and rotate the certificate authority.

    While a control plane runs on the state directory the request goes to it; otherwise the directory is
    changed, and the next start goes on from there. With --kubernetes it goes to the replica that leads.
    """


@command.command()
@_state_option
@cluster_options
@output_option
def status(state: Path, output: str, **where: Any) -> None:
    """Show both roots of trust and what a rotation waits for."""
    _show(_ask(state, "status", "workload", where), output)


@command.command()
@_state_option
@_channel_option
@cluster_options
@output_option
def rotate(state: Path, root: str, output: str, **where: Any) -> None:
    """Begin a rotation: the new root in every bundle, then new leaves, then the old root goes."""
    _show(_ask(state, "rotate", root, where), output)


@command.command()
@_state_option
@_channel_option
@cluster_options
@output_option
def retire(state: Path, root: str, output: str, **where: Any) -> None:
    """Drop the old root of a rotation now; proxies that still depend on it are cut off."""
    _show(_ask(state, "retire", root, where), output)


def _ask(state: Path, verb: str, root: str, where: dict[str, Any]) -> Status:
    """Have the cluster's leader answer, or the running server; without one, the state directory."""
    from xds.ca import CaError
    from xds.state import StateBusy, StateDirectory, StateError

    cluster = access(**where)
    if cluster is not None:
        return cluster.run(lambda client: _leader(client, verb, root))
    if not state.is_dir():
        message = f"{state}: no state directory; `proa serve --state {state}` makes one"
        raise click.ClickException(message)
    try:
        with StateDirectory.open(state) as directory:
            directory.lock()
            return _offline(directory, verb, root)
    except StateBusy as busy:
        return _online(busy.admin, verb, root)
    except (StateError, CaError) as error:
        raise click.ClickException(str(error)) from None


async def _leader(client: Client, verb: str, root: str) -> Status:
    """Ask the replica that holds the Lease: it alone changes the roots, and knows what a rotation waits for."""
    import msgspec

    from xds.cli.asking import replies
    from xds.kube import survey
    from xds.trust import Status

    path = "/api/v1/ca" if verb == "status" else f"/api/v1/ca/{verb}?root={root}"
    pod = await survey.leader(client)
    if not pod:
        raise click.ClickException("no replica leads: try `proa check`")
    answer = (await replies(client, path, method="GET" if verb == "status" else "POST", only=pod)).get(
        pod, "is gone"
    )
    if isinstance(answer, str):
        raise click.ClickException(f"{pod}: {answer}")
    try:
        return msgspec.json.decode(answer.body, type=Status)
    except msgspec.MsgspecError:
        raise click.ClickException(f"{pod}: {answer.body.decode(errors='replace').strip()}") from None


def _online(admin: str, verb: str, root: str) -> Status:
    import urllib.error
    import urllib.request

    import msgspec

    from xds.trust import Status

    if not admin:
        message = "another process is using the state directory, and left no admin address to ask"
        raise click.ClickException(message)
    url = f"http://{admin}/api/v1/ca" if verb == "status" else f"http://{admin}/api/v1/ca/{verb}?root={root}"
    method = "GET" if verb == "status" else "POST"
    request = urllib.request.Request(url, method=method)  # noqa: S310  # the scheme is written above
    try:
        with urllib.request.urlopen(request, timeout=settings.ADMIN_TIMEOUT_S) as answer:  # noqa: S310
            return msgspec.json.decode(answer.read(), type=Status)
    except urllib.error.HTTPError as error:
        raise click.ClickException(f"{url}: {error.read().decode(errors='replace').strip()}") from None
    except (OSError, msgspec.MsgspecError) as error:
        raise click.ClickException(f"{url}: {error}") from None


def _offline(directory: StateDirectory, verb: str, root: str) -> Status:
    import time

    from xds.rotation import Root
    from xds.state import StateError, load_trust
    from xds.svid import spiffe_id
    from xds.trust import OFFLINE

    stored = directory.stored_roots(Root.WORKLOAD)
    if stored is None:
        message = f"{directory.path}: no roots yet; they are made by the first `proa serve`"
        raise StateError(message)
    now = time.time()
    trust = load_trust(directory, spiffe_id(stored.signer.certificate).trust_domain, now=now)
    match verb:
        case "rotate":
            trust.rotate(Root(root), now)
        case "retire":
            trust.retire(Root(root), now)
        case _:
            pass
    return trust.status(OFFLINE)


def _show(found: Status, output: str) -> None:
    import msgspec

    if output == "json":
        click.echo(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
        return
    for name, rotation in (("workload", found.workload), ("channel", found.channel)):
        click.echo(f"{name}: {rotation.phase.value}")
        for root in rotation.roots:
            role = "signs" if root.signs else "trusted"
            click.echo(f"  {root.fingerprint[:16]}  {role:7}  until {_date(root.not_after)}")
        if rotation.waiting_for:
            click.echo(f"  waits for {rotation.waiting_for}")
    click.echo(f"leaves: {found.leaves}")
    for stream in found.stale_streams:
        click.echo(f"  waits for stream {stream}")


def _date(seconds: int) -> str:
    import datetime as dt

    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%d")
