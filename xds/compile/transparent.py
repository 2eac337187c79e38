"""All that belongs to one proxy alone whose Pod's traffic is redirected to it: what stands in front of its application.

It must never read the Pod's address, so that the result is equal for all Pods of a workload and known before they run.
"""

from __future__ import annotations

from dataclasses import replace

from xds import ir, settings
from xds.api.core import Pod, Protocol, Service
from xds.backend import Backend
from xds.compile.access import access
from xds.compile.guards import check_bytes
from xds.compile.lens import Lens
from xds.compile.limits import asked_clusters, limits, served
from xds.compile.observed import observation
from xds.compile.sidecar import RESERVED_PORTS, Sidecar, identity, port_problem, routes_of, service_of_port
from xds.hosts import Name
from xds.resources import names

_WHEREVER = ""
"""An address that the connection itself brings."""


def transparent(lens: Lens, name: Name) -> Sidecar | None:
    """Return a proxy's own listeners and clusters, none for a Pod outside the mesh, None when there is no Pod."""
    found = lens.pod(name)
    if found is None:
        return None
    pod, backend = found
    if not backend.is_meshed:
        return Sidecar((), ())
    workload = identity(lens, pod, backend)
    selecting = lens.services_selecting(pod)
    seen = observation(lens, backend.namespace, lens.telemetry_of(backend.namespace, pod.meta.labels))
    guarded = access(lens, pod, selecting)
    ports = tuple(
        replace(_inbound(lens, pod, backend, selecting, port), observed=seen.server, access=guarded.access)
        for port in _ports(pod, backend, selecting)
    )
    problems = tuple(port_problem(pod, port.port) for port in pod.ports if port.port in RESERVED_PORTS)
    others = replace(_others(backend, workload), observed=seen.server, access=guarded.access)
    listener = ir.Intercepted(names.INBOUND, settings.INBOUND_PORT, ports, others)
    clusters = tuple(
        ir.InboundCluster(
            port.cluster,
            _WHEREVER,
            port.port,
            port.protocol,
            port.limits.concurrency if port.limits else 0,
        )
        for port in (*ports, listener.others)
    )
    told = (*problems, *check_bytes(guarded.access, ports))
    called = (*seen.clusters, *guarded.clusters, *asked_clusters(lens, name[0], ports))
    return Sidecar((listener,), (*clusters, *called), told, routes_of(ports))


def _ports(pod: Pod, backend: Backend, selecting: list[Service]) -> list[int]:
    """Return the ports that anybody speaks of, in the Pod, a Service or a policy.

    Kubernetes does not require that a container declares its ports, so a Service's target may be all there is.
    """
    targets = (found.target or found.port for service in selecting for found in service.ports)
    numbers = {port.port for port in pod.ports}
    numbers.update(target for target in targets if isinstance(target, int))
    numbers.update(number for number, _ in backend.port_modes)
    numbers.update(probe.port for probe in pod.probes)
    return sorted(numbers.difference(RESERVED_PORTS))


def _inbound(lens: Lens, pod: Pod, backend: Backend, selecting: list[Service], number: int) -> ir.Inbound:
    name = next((port.name for port in pod.ports if port.port == number), "")
    service, protocol = service_of_port(selecting, number, name)
    return ir.Inbound(
        name=names.inbound_listener(number),
        address=_WHEREVER,
        port=number,
        protocol=protocol,
        mode=backend.mode_of(number),
        cluster=names.inbound_cluster(number),
        workload=identity(lens, pod, backend),
        service=service,
        probes=tuple(sorted({probe.path for probe in pod.probes if probe.port == number})),
        limits=limits(lens, pod, served(selecting, number, name)) if protocol.is_http else None,
        paths=lens.settings.paths,
    )


def _others(backend: Backend, workload: ir.Workload) -> ir.Inbound:
    """Return what holds for every other port: bytes, in the workload's mode."""
    return ir.Inbound(
        name=names.INBOUND_OTHERS,
        address=_WHEREVER,
        port=0,
        protocol=Protocol.TCP,
        mode=backend.mode,
        cluster=names.INBOUND_OTHERS,
        workload=workload,
    )
