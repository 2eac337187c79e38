"""``proa token``: write a join token for one workload and keep it fresh.

Owns the file and the clock of renewal; it must never print a token to a terminal by accident, nor widen
what the key's directory protects.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from xds import settings
from xds.cli.parameters import duration

if TYPE_CHECKING:
    from xds.tokens import TokenKey


def workload(text: str) -> tuple[str, str]:
    """The namespace and pod of ``NS/POD``; anything else is a usage error."""
    from xds.identity import is_dns_label, is_dns_name

    namespace, slash, pod = text.partition("/")
    if not (slash and is_dns_label(namespace) and is_dns_name(pod)):
        message = f"must be NAMESPACE/POD, got {text!r}"
        raise click.BadParameter(message)
    return namespace, pod


@click.command("token")
@click.option("--workload", "pod", type=workload, required=True, metavar="NS/POD", help="The pod that joins.")
@click.option(
    "--service-account",
    default="default",
    show_default=True,
    metavar="NAME",
    help="The pod's serviceAccountName; another one is refused when the proxy connects.",
)
@click.option(
    "--trust-domain", default=settings.TRUST_DOMAIN, show_default=True, help="Trust domain of the mesh."
)
@click.option(
    "-o",
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="File to write, mode 0600, replaced by a rename; without it the token goes to stdout.",
)
@click.option(
    "--ttl", "ttl_s", type=duration, default="24h", show_default=True, help="How long the token is good for."
)
@click.option("--renew", is_flag=True, help="Stay and write a new token at half of its life.")
@click.option(
    "--state",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    default=settings.STATE_DIRECTORY,
    show_default=True,
    help="State directory of the control plane, which holds the signing key.",
)
def command(  # noqa: PLR0913, PLR0917  # one parameter an option
    pod: tuple[str, str],
    service_account: str,
    trust_domain: str,
    out: Path | None,
    ttl_s: int,
    state: Path,
    *,
    renew: bool,
) -> None:
    """Write a join token: what a sidecar outside Kubernetes shows to prove which pod it is."""
    if renew and out is None:
        message = "--renew needs --out: there must be a file to keep fresh"
        raise click.UsageError(message)
    from xds.identity import IdentityError
    from xds.state import StateDirectory, StateError

    try:
        key = StateDirectory.open(state).token_key()
        request = _Request(key, pod, service_account, trust_domain, ttl_s)
        if out is None:
            click.echo(request.sign())
        else:
            _write(request, out, renew=renew)
    except (StateError, IdentityError) as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise click.ClickException(f"{out}: cannot be written: {error.strerror}") from None


class _Request:
    """What the token is to say."""

    def __init__(
        self, key: TokenKey, pod: tuple[str, str], service_account: str, trust_domain: str, ttl_s: int
    ) -> None:
        self.ttl_s = ttl_s
        self._key = key
        self._namespace, self._pod = pod
        self._service_account = service_account
        self._trust_domain = trust_domain

    def sign(self) -> str:
        """A new token, good from now on."""
        import os
        import time

        return self._key.issue(
            namespace=self._namespace,
            pod=self._pod,
            service_account=self._service_account,
            trust_domain=self._trust_domain,
            now=time.time(),
            octets=os.urandom,
            ttl_s=self.ttl_s,
        )


def _write(request: _Request, out: Path, *, renew: bool) -> None:
    import time

    from xds.state import write_private

    while True:
        # No newline at the end: Envoy sends the file's bytes as they are, as a header's value.
        write_private(out, request.sign().encode("ascii"))
        if not renew:
            return
        due = time.time() + request.ttl_s * settings.JOIN_TOKEN_RENEW_SHARE
        while (left_s := due - time.time()) > 0:
            # In short steps: a sleep does not count the time that a laptop was suspended, a token does.
            time.sleep(min(left_s, settings.JOIN_TOKEN_CLOCK_CHECK_S))
