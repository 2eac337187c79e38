"""Every cluster IP that a class of clients sees, for a proxy that cannot ask for the cluster of one.

It must never list what the clients' Sidecar or a Service's owner hides.
"""

from __future__ import annotations

from xds import ir
from xds.api.core import Service
from xds.compile.hosts import Client, sees
from xds.compile.lens import Lens
from xds.hosts import host_of
from xds.resources import names


def declared(lens: Lens, client: Client) -> tuple[ir.Declared, ...]:
    """Return the addresses of the visible Services, sorted, each with what its ports are."""
    found: dict[str, ir.Declared] = {}
    for service in lens.services():
        host = host_of(service.meta.namespace, service.meta.name)
        if not service.external_name and sees(lens, client, service.meta.namespace, host, service.export_to):
            ports = _ports(service, host)
            found |= {address: ir.Declared(address, ports) for address in service.cluster_ips}
    return tuple(found[address] for address in sorted(found))


def _ports(service: Service, host: str) -> tuple[tuple[int, str], ...]:
    return tuple(
        (port.port, "" if port.protocol.is_http else names.cluster(port.port, "", host))
        for port in service.ports
    )
