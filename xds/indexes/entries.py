"""ServiceEntries by what names them: hosts, addresses, ranges of addresses, and ports without any address.

It owns these indexes; it must never decide which of several entries a client sees.
"""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from collections.abc import Iterator
from typing import Final, TypeVar

from xds.api.istio_entry import ServiceEntry
from xds.hosts import Name, age, entry_host, wildcard_levels
from xds.topics import Topic

K = TypeVar("K")

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Entries:
    """All ServiceEntries; every query costs its answer, and ranges one step for each length of prefix in use."""

    KIND: Final = "ServiceEntry"

    def __init__(self) -> None:
        self._by_name: dict[Name, ServiceEntry] = {}
        self._by_host: defaultdict[str, dict[Name, ServiceEntry]] = defaultdict(dict)
        self._by_address: defaultdict[str, dict[Name, ServiceEntry]] = defaultdict(dict)
        self._by_range: defaultdict[str, dict[Name, ServiceEntry]] = defaultdict(dict)
        self._lengths: defaultdict[tuple[int, int], set[str]] = defaultdict(set)
        self._on_port: defaultdict[int, dict[Name, ServiceEntry]] = defaultdict(dict)

    def get(self, name: Name) -> ServiceEntry | None:
        """Return one entry."""
        return self._by_name.get(name)

    def every(self) -> list[ServiceEntry]:
        """Return all of them, oldest first."""
        return sorted(self._by_name.values(), key=age)

    def of(self, host: str) -> list[ServiceEntry]:
        """Return the entries of exactly this host, oldest first."""
        return sorted(self._by_host.get(host, {}).values(), key=age)

    def covering(self, host: str) -> list[list[ServiceEntry]]:
        """Return those of each wildcard that covers this host, the most specific first, oldest first within."""
        return wildcard_levels(self._by_host, host)

    def hosts(self) -> Iterator[str]:
        """Yield every host that some entry has."""
        return iter(self._by_host)

    def at(self, ip: str) -> list[list[ServiceEntry]]:
        """Return the entries of an address, then those of each range that holds it, the narrowest first."""
        levels = [self._by_address.get(ip, {})]
        if self._lengths:
            address = ipaddress.ip_address(ip)
            for version, bits in sorted(self._lengths, reverse=True):
                if version == address.version:
                    levels.append(self._by_range.get(str(_around(ip, bits)), {}))
        return [sorted(level.values(), key=age) for level in levels if level]

    def on_port(self, port: int) -> list[ServiceEntry]:
        """Return the entries without addresses that have this port, oldest first: a host name alone tells them."""
        return sorted(self._on_port.get(port, {}).values(), key=age)

    def take(self, name: Name, old: object, new: object) -> set[Topic]:
        """Take one change of an entry; return the topics it touches."""
        touched: set[Topic] = {("entry", *name), ("every entry",)}
        if isinstance(new, ServiceEntry):
            self._by_name[name] = new
        else:
            self._by_name.pop(name, None)
        for found in (old, new):
            if isinstance(found, ServiceEntry):
                self._put(name, found, is_there=found is new)
                touched |= _topics(found)
        return touched

    def _put(self, name: Name, found: ServiceEntry, *, is_there: bool) -> None:
        for host in found.hosts:
            _place(self._by_host, entry_host(host), name, found if is_there else None)
        for ip in found.addresses:
            _place(self._by_address, ip, name, found if is_there else None)
        for port in found.ports if _is_named_only(found) else ():
            _place(self._on_port, port.port, name, found if is_there else None)
        for text in found.ranges:
            _place(self._by_range, text, name, found if is_there else None)
            network = ipaddress.ip_network(text)
            length = (network.version, network.prefixlen)
            if text in self._by_range:
                self._lengths[length].add(text)
            else:
                self._lengths[length].discard(text)
                if not self._lengths[length]:
                    del self._lengths[length]


def _place(
    index: defaultdict[K, dict[Name, ServiceEntry]], key: K, name: Name, new: ServiceEntry | None
) -> None:
    if new is not None:
        index[key][name] = new
        return
    held = index[key]
    held.pop(name, None)
    if not held:
        del index[key]


def _around(ip: str, bits: int) -> _Network:
    return ipaddress.ip_network(f"{ip}/{bits}", strict=False)


def _is_named_only(found: ServiceEntry) -> bool:
    return not found.addresses and not found.ranges


def _topics(found: ServiceEntry) -> set[Topic]:
    touched: set[Topic] = {("entries", entry_host(host)) for host in found.hosts}
    touched |= {("entries*",) for host in found.hosts if host.startswith("*")}
    touched |= {("address", ip) for ip in found.addresses}
    touched |= {("ranges",) for _ in found.ranges}
    if _is_named_only(found):
        touched |= {("entries on", str(port.port)) for port in found.ports}
    return touched
