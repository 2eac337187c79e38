"""Hosts outside the ranges of Services and Pods, as a caller with redirected traffic reaches them.

A ServiceEntry with addresses is found by these; one without is told by the Host of a request, or by the server name
of TLS; a Service that is a name for a host outside (ExternalName) by the Host alone. It must never look at
destinations inside the ranges, where addresses alone decide.
"""

from __future__ import annotations

from collections import defaultdict

from xds import ir
from xds.api.core import Service
from xds.api.istio_entry import Resolution, ServiceEntry
from xds.compile.entries import entry_at, entry_of, is_service
from xds.compile.hosts import Client, entry_virtual_hosts, sees, virtual_hosts
from xds.compile.lens import Lens
from xds.hosts import age, entry_hosts, host_of


def named(lens: Lens, client: Client) -> ir.Named:
    """Return what a listener must know of them: the ports where a name decides, and addresses with theirs."""
    http = {
        port.port for service in _aliases(lens, client) for port in service.ports if port.protocol.is_http
    }
    free: set[int] = set()
    tls: defaultdict[int, set[str]] = defaultdict(set)
    for host, entry in _named_hosts(lens, client):
        for port in entry.ports:
            if port.protocol.is_http:
                http.add(port.port)
            elif port.is_tls:
                tls[port.port].add(host)
            elif entry.resolution is Resolution.NONE:
                free.add(port.port)
    return ir.Named(
        http=tuple(sorted(http)),
        tls=tuple((port, tuple(sorted(hosts))) for port, hosts in sorted(tls.items())),
        free=tuple(sorted(free)),
        addressed=tuple(sorted(_addressed(lens, client).items())),
    )


def named_virtual_hosts(lens: Lens, client: Client) -> tuple[ir.VirtualHost, ...]:
    """Return the virtual hosts of what has no address; the Host of a request chooses among them alone."""
    aliases = [
        found
        for service in _aliases(lens, client)
        for found in virtual_hosts(lens, (service.meta.namespace, service.meta.name), client)
    ]
    return (*aliases, *_entry_hosts(lens, client))


def _aliases(lens: Lens, client: Client) -> list[Service]:
    return [
        service
        for service in lens.aliases()
        if sees(lens, client, service.meta.namespace, _host(service), service.export_to)
    ]


def _host(service: Service) -> str:
    return host_of(service.meta.namespace, service.meta.name)


def _entry_hosts(lens: Lens, client: Client) -> tuple[ir.VirtualHost, ...]:
    return tuple(
        found
        for host, entry in _named_hosts(lens, client)
        for found in entry_virtual_hosts(lens, host, entry, client, redirected=True)
    )


def _named_hosts(lens: Lens, client: Client) -> list[tuple[str, ServiceEntry]]:
    """Return the hosts that only a name tells, each with the entry that these clients see, sorted."""
    hosts = {host for entry in lens.every_entry() if not _has_addresses(entry) for host in entry_hosts(entry)}
    found = ((host, entry_of(lens, host, client.namespace)) for host in sorted(hosts))
    return [
        (host, entry)
        for host, entry in found
        if entry is not None
        and not _has_addresses(entry)
        and not is_service(lens, host, client.namespace)
        and sees(lens, client, entry.meta.namespace, host, entry.export_to)
    ]


def _addressed(lens: Lens, client: Client) -> dict[str, tuple[tuple[int, bool], ...]]:
    """Return the ranges of entries, single addresses among them, with their ports and whether these are HTTP."""
    seen = [
        entry
        for entry in lens.every_entry()
        if _has_addresses(entry)
        and any(sees(lens, client, entry.meta.namespace, h, entry.export_to) for h in entry_hosts(entry))
    ]
    # The first to name a port of a range decides: the client's own namespace, then the oldest.
    seen.sort(key=lambda entry: (entry.meta.namespace != client.namespace, age(entry)))
    ports: defaultdict[str, dict[int, bool]] = defaultdict(dict)
    for entry in seen:
        for ip in entry.addresses:
            for port in entry.ports:
                if entry_at(lens, ip, port.port, client.namespace) is not None:
                    ports[f"{ip}/{128 if ':' in ip else 32}"].setdefault(port.port, port.protocol.is_http)
        for text in entry.ranges:
            for port in entry.ports:
                ports[text].setdefault(port.port, port.protocol.is_http)
    return {text: tuple(sorted(found.items())) for text, found in ports.items()}


def _has_addresses(entry: ServiceEntry) -> bool:
    return bool(entry.addresses or entry.ranges)
