"""Which chain of the outbound listener takes a redirected connection, by address and port.

It owns an evaluator of `ir.Dialling`; it must never look at a Host, which no byte has told yet.
"""

from __future__ import annotations

import enum
from ipaddress import ip_address, ip_network

from xds import ir, settings


class Chain(enum.Enum):
    """The chains of the listener; the value is what people call them."""

    HTTP = "HTTP by address"
    TCP = "bytes by address"
    BY_HOST = "HTTP by Host"
    OTHERS = "to anywhere"
    CLOSED = "closed"


def chain_of(listener: ir.Dialling, ip: str, port: int) -> Chain:
    """Return the chain of a destination; TLS's server name is not looked at."""
    if port in (settings.OUTBOUND_PORT, settings.INBOUND_PORT):
        return Chain.CLOSED
    try:
        address = ip_address(ip)
    except ValueError:  # a host that only a name tells: the resolver of the application knows where it is
        return _by_name(listener, port)
    best: tuple[int, Chain] | None = None
    for text, chain in _ranges(listener, port):
        network = ip_network(text)
        if address in network and (best is None or network.prefixlen > best[0]):
            best = (network.prefixlen, chain)
    return best[1] if best else _by_name(listener, port)


def _ranges(listener: ir.Dialling, port: int) -> list[tuple[str, Chain]]:
    use = next((found for found in listener.ports if found.port == port), None)
    services, pods = set(listener.service_ranges), set(listener.pod_ranges)
    out: list[tuple[str, Chain]] = []
    for exception in listener.ports:
        other = Chain.TCP if exception.services else Chain.HTTP
        taken = other if exception.port == port else None
        out += [(ip, taken) for ip in exception.exceptions if taken]
    for text in services | pods:
        is_http = use is not None and ((text in services and use.services) or (text in pods and use.pods))
        out.append((text, Chain.HTTP if is_http else Chain.TCP))
    for text, uses in listener.named.addressed:
        known = dict(uses)
        out.append((text, Chain.OTHERS if port not in known else Chain.HTTP if known[port] else Chain.TCP))
    return out


def _by_name(listener: ir.Dialling, port: int) -> Chain:
    return Chain.BY_HOST if port in listener.named.http else Chain.OTHERS
