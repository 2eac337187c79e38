"""The rules of a Pod's network namespace that bring its TCP connections to its sidecar, as one nftables text.

It owns that text and what can be left out of it; it must never run anything, and nothing reaches the text but numbers
and networks that were parsed.

One table of family `inet` holds for IPv4 and IPv6. What Envoy sends on to its own application would be redirected
again; it is told apart by the priority of its socket (`TO_APPLICATION`). Another way is an address of its own, such as
Istio's 127.0.0.6 and ::6; that one must be added to the loopback interface, for which an image with nothing but Envoy
and nft has no program. See docs/adr/0025.
"""

from __future__ import annotations

import ipaddress
import re
import textwrap
from collections.abc import Sequence
from typing import Final, cast

from xds import settings
from xds.address import PORT_MAX
from xds.fields import ConfigError, show

TABLE: Final = "proa"

TO_APPLICATION: Final = 6
"""SO_PRIORITY of connections from a sidecar to its own application: the highest that needs no capability."""

_OPEN_PORTS: Final = (settings.READY_PORT, settings.METRICS_PORT)
"""Static listeners of the sidecar: asked by kubelet and scrapers, which speak no mutual TLS."""

_LISTENERS: Final = range(15000, 15007)
"""Ports that no exclusion may name: a stranger would reach what is meant for redirected connections only."""


def rules(
    *,
    excluded_inbound_ports: Sequence[int] = (),
    excluded_outbound_ports: Sequence[int] = (),
    excluded_cidrs: Sequence[str] = (),
    included_cidrs: Sequence[str] = (),
) -> str:
    """Return the text for `nft -f -`; loading it again replaces the table in one transaction.

    Connections to excluded ports and networks (IPv4 and IPv6, CIDR) pass the sidecar by; if networks are included,
    only connections to these are redirected on their way out. Raises ConfigError for a port or network that is none.
    """
    inbound = sorted({*_ports(excluded_inbound_ports, "excluded_inbound_ports"), *_OPEN_PORTS})
    outbound = _ports(excluded_outbound_ports, "excluded_outbound_ports")
    excluded = _networks(excluded_cidrs, "excluded_cidrs")
    included = _networks(included_cidrs, "included_cidrs")
    lines = (*_inbound(inbound), *_outbound(outbound, excluded, included))
    body = textwrap.indent("\n".join(lines), "    ")
    return f"{_RESET}table inet {TABLE} {{\n{body}\n}}\n"


def init_command(
    *,
    excluded_inbound_ports: Sequence[int] = (),
    excluded_outbound_ports: Sequence[int] = (),
    excluded_cidrs: Sequence[str] = (),
    included_cidrs: Sequence[str] = (),
) -> list[str]:
    """Return the command of an init container: the rules are one argument, so that no shell and no file is needed."""
    text = rules(
        excluded_inbound_ports=excluded_inbound_ports,
        excluded_outbound_ports=excluded_outbound_ports,
        excluded_cidrs=excluded_cidrs,
        included_cidrs=included_cidrs,
    )
    return ["nft", text]


def bypassed(command: object) -> tuple[int, ...]:
    """Return the inbound ports that an init container's command leaves alone, sorted; none for what is no such command.

    A container's command cannot be changed after its Pod was made, which its annotations can.
    """
    text = cast("list[object]", command)[-1] if isinstance(command, list) and command else ""
    found = _BYPASSED.search(text) if isinstance(text, str) else None
    return tuple(int(word) for word in found[1].split(", ")) if found else ()


# Adding before deleting makes the deletion succeed whether the table is there or not.
_RESET: Final = f"add table inet {TABLE}\ndelete table inet {TABLE}\n"

_BYPASSED = re.compile(
    r"chain prerouting \{[^}]*? tcp dport \{ ((?:[0-9]{1,5}, ){0,80}[0-9]{1,5}) \} return\n"
)
"""What `_inbound` writes of the ports that it leaves alone."""

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _inbound(excluded: list[int]) -> tuple[str, ...]:
    return (
        "chain prerouting {",
        "    type nat hook prerouting priority dstnat; policy accept;",
        # Whoever sends the Pod a packet for another address must not have it sent on in the Pod's name.
        "    fib daddr type != local return",
        f"    tcp dport {_set(excluded)} return",
        f"    meta l4proto tcp redirect to :{settings.INBOUND_PORT}",
        "}",
        "",
    )


def _outbound(ports: tuple[int, ...], excluded: list[_Network], included: list[_Network]) -> tuple[str, ...]:
    uid = settings.SIDECAR_UID
    again = f"meta l4proto tcp redirect to :{settings.INBOUND_PORT}"
    out = f"meta l4proto tcp redirect to :{settings.OUTBOUND_PORT}"
    return (
        "chain output {",
        "    type nat hook output priority -100; policy accept;",
        "    meta l4proto != tcp return",
        f"    meta skuid {uid} meta priority 0:{TO_APPLICATION} return",
        # The Pod calls a Service that it belongs to, and its own address was chosen: in by the front door.
        f'    meta skuid {uid} oifname "lo" ip daddr != 127.0.0.0/8 {again}',
        f'    meta skuid {uid} oifname "lo" ip6 daddr != ::1 {again}',
        f"    meta skuid {uid} return",
        # An application that calls itself, by whatever address, needs no mesh.
        '    oifname "lo" return',
        *([f"    tcp dport {_set(ports)} return"] if ports else ()),
        *(f"    {match} return" for match in _destinations(excluded)),
        *(f"    {match} {out}" for match in _destinations(included)),
        *(() if included else (f"    {out}",)),
        "}",
    )


def _destinations(networks: list[_Network]) -> list[str]:
    """Return one match for the IPv4 networks and one for the IPv6 networks, as far as there are any."""
    matches: list[str] = []
    for family, version in (("ip", 4), ("ip6", 6)):
        mine = [network for network in networks if network.version == version]
        if any(network.prefixlen == 0 for network in mine):
            matches.append(f"meta nfproto ipv{version}")
        elif mine:
            matches.append(f"{family} daddr {_set(mine)}")
    return matches


def _set(elements: Sequence[object]) -> str:
    return f"{{ {', '.join(map(str, elements))} }}"


def _ports(ports: Sequence[int], name: str) -> tuple[int, ...]:
    for port in ports:
        if not 0 < port <= PORT_MAX or port in _LISTENERS:
            reason = f"must be 1..{PORT_MAX} and none of the sidecar's 15000-15006, got {port}"
            raise ConfigError(name, reason)
    return tuple(sorted(set(ports)))


def _networks(texts: Sequence[str], name: str) -> list[_Network]:
    """Return the networks, sorted and without those that lie in another: a set must not overlap itself."""
    found: list[_Network] = []
    for text in texts:
        try:
            found.append(ipaddress.ip_network(text))
        except ValueError:
            raise ConfigError(name, f"must be a network such as 10.0.0.0/8, got {show(text)}") from None
    v4 = [network for network in found if isinstance(network, ipaddress.IPv4Network)]
    v6 = [network for network in found if isinstance(network, ipaddress.IPv6Network)]
    return [*ipaddress.collapse_addresses(v4), *ipaddress.collapse_addresses(v6)]
