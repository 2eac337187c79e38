"""``proa redirect``: print the rules that bring a network namespace's connections to its sidecar.

Owns the flags; it must never load the rules, which `nft -f -` does.
"""

from __future__ import annotations

from typing import Final

import click

_FLAGS: Final = {
    "excluded_inbound_ports": "--exclude-inbound-port",
    "excluded_outbound_ports": "--exclude-outbound-port",
    "excluded_cidrs": "--exclude-cidr",
    "included_cidrs": "--include-cidr",
}
"""The flag of each argument of `xds.redirect.rules`."""


@click.command("redirect")
@click.option(
    "--exclude-inbound-port",
    "inbound",
    multiple=True,
    type=int,
    metavar="PORT",
    help="Port of the application that strangers reach without the sidecar; may be repeated.",
)
@click.option(
    "--exclude-outbound-port",
    "outbound",
    multiple=True,
    type=int,
    metavar="PORT",
    help="Port to which the application connects without the sidecar; may be repeated.",
)
@click.option(
    "--exclude-cidr",
    "excluded",
    multiple=True,
    metavar="CIDR",
    help="Network to which the application connects without the sidecar; may be repeated.",
)
@click.option(
    "--include-cidr",
    "included",
    multiple=True,
    metavar="CIDR",
    help="Only connections to these networks go through the sidecar; may be repeated. Default: all.",
)
def command(
    *,
    inbound: tuple[int, ...],
    outbound: tuple[int, ...],
    excluded: tuple[str, ...],
    included: tuple[str, ...],
) -> None:
    """Print nftables rules for a network namespace with a sidecar of its own.

    Load them inside the namespace: `proa redirect | ip netns exec web nft -f -`. Loading them again replaces them.
    The sidecar (`proa bootstrap --transparent`) must run as user 1337, the application as any other.
    """
    from xds.fields import ConfigError
    from xds.redirect import rules

    try:
        text = rules(
            excluded_inbound_ports=inbound,
            excluded_outbound_ports=outbound,
            excluded_cidrs=excluded,
            included_cidrs=included,
        )
    except ConfigError as error:
        raise click.UsageError(f"{_FLAGS[error.path]}: {error.reason}") from None
    click.echo(text, nl=False)
