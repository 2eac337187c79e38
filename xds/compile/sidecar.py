"""All that belongs to one proxy alone: its listeners and the clusters of its own application.

It must never name another Pod.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from xds import ir, settings
from xds.api.core import Pod, Protocol, Service, label
from xds.backend import Backend
from xds.compile.access import access
from xds.compile.guards import check_bytes
from xds.compile.lens import Lens
from xds.compile.limits import asked_clusters, limits, served
from xds.compile.observed import observation
from xds.fields import Problem, Severity
from xds.hosts import Name, host_of, qualify, service_of
from xds.inject import INJECT
from xds.resources import names

RESERVED_PORTS = range(15000, 15100)
"""Ports that belong to the sidecar (admin, outbound, inbound, readiness, metrics), as Istio reserves them."""

APP_ADDRESS = "proa.dev/app-address"
"""Pod annotation: where the application listens, when the sidecar has the Pod's address (default 127.0.0.1)."""

UPSTREAMS = "proa.dev/upstreams"
"""Pod annotation: local addresses that stand for TCP services, ``127.0.1.3:3306=mysql.shop:3306``, comma-separated."""


@dataclass(frozen=True, slots=True)
class Sidecar:
    """All that belongs to one proxy alone."""

    listeners: tuple[ir.Listener, ...]
    clusters: tuple[ir.InboundCluster | ir.Cluster, ...]
    problems: tuple[Problem, ...] = ()
    routes: tuple[ir.InboundRoutes, ...] = ()


def sidecar(lens: Lens, name: Name) -> Sidecar | None:
    """Return a proxy's own listeners and clusters, none for a Pod outside the mesh, None when there is no Pod."""
    found = lens.pod(name)
    if found is None:
        return None
    pod, backend = found
    if not backend.is_meshed:
        return Sidecar((), (), _unmeshed(pod))
    if not pod.ip:
        return None
    workload = identity(lens, pod, backend)
    seen = observation(lens, backend.namespace, lens.telemetry_of(backend.namespace, pod.meta.labels))
    outbound = ir.OutboundHttp(
        names.OUTBOUND, pod.ip, settings.OUTBOUND_PORT, names.OUTBOUND, workload, seen.client
    )
    tcp, problems = _upstreams(lens, pod, workload)
    guarded = access(lens, pod, lens.services_selecting(pod))
    inbound, clusters, refused = _inbound(lens, pod, backend, workload)
    inbound = [replace(port, observed=seen.server, access=guarded.access) for port in inbound]
    listeners = (
        outbound,
        *inbound,
        *(replace(port, observed=seen.client) for port in tcp),
    )
    told = (*problems, *refused, *check_bytes(guarded.access, inbound))
    called = (*seen.clusters, *guarded.clusters, *asked_clusters(lens, name[0], inbound))
    return Sidecar(listeners, (*clusters, *called), told, routes_of(inbound))


def routes_of(ports: Iterable[ir.Inbound]) -> tuple[ir.InboundRoutes, ...]:
    """Return the route tables of the ports that speak HTTP; all chains of one share it, to count together."""
    return tuple(
        ir.InboundRoutes(names.inbound_routes(port.port), port) for port in ports if port.protocol.is_http
    )


def identity(lens: Lens, pod: Pod, backend: Backend) -> ir.Workload:
    """Return who the Pod is in labels of metrics and logs: equal for all Pods of a workload with equal labels."""
    return ir.Workload(
        name=backend.workload,
        namespace=backend.namespace,
        service_account=backend.service_account,
        app=label(pod.meta.labels, "app", backend.workload),
        version=label(pod.meta.labels, "version", "latest"),
        trust_domain=lens.trust_domain,
        metering=lens.settings.metrics,
    )


def _unmeshed(pod: Pod) -> tuple[Problem, ...]:
    """Tell whoever wrote a sidecar's annotations that the Pod has none: nothing else would say so."""
    return tuple(
        _pod_problem(
            pod,
            f"metadata.annotations[{name}]",
            f"has no effect: the Pod is outside the mesh; label Namespace {pod.meta.namespace} "
            f"{INJECT}: enabled, or the Pod {INJECT}: true",
            Severity.WARNING,
        )
        for name in (APP_ADDRESS, UPSTREAMS)
        if label(pod.meta.annotations, name) and not pod.host_network
    )


def _inbound(
    lens: Lens, pod: Pod, backend: Backend, workload: ir.Workload
) -> tuple[list[ir.Inbound], tuple[ir.InboundCluster, ...], list[Problem]]:
    app_address = label(pod.meta.annotations, APP_ADDRESS, "127.0.0.1")
    selecting = lens.services_selecting(pod)
    listeners: list[ir.Inbound] = []
    clusters: list[ir.InboundCluster] = []
    problems: list[Problem] = []
    if app_address == pod.ip:
        reason = f"must differ from status.podIP {pod.ip}, which is the sidecar's; give the application its own address"
        return [], (), [_pod_problem(pod, f"metadata.annotations[{APP_ADDRESS}]", reason)]
    for port in pod.ports:
        if port.port in RESERVED_PORTS:
            problems.append(port_problem(pod, port.port))
            continue
        service, protocol = service_of_port(selecting, port.port, port.name)
        cluster = names.inbound_cluster(port.port)
        probes = tuple(sorted({p.path for p in pod.probes if p.port == port.port}))
        mode = backend.mode_of(port.port)
        found = limits(lens, pod, served(selecting, port.port, port.name)) if protocol.is_http else None
        at_once = found.concurrency if found else 0
        clusters.append(ir.InboundCluster(cluster, app_address, port.port, protocol, at_once))
        listeners.append(
            ir.Inbound(
                names.inbound_listener(port.port),
                pod.ip,
                port.port,
                protocol,
                mode,
                cluster,
                workload,
                service,
                probes,
                found,
                paths=lens.settings.paths,
            )
        )
    return listeners, tuple(clusters), problems


def service_of_port(services: list[Service], port: int, name: str) -> tuple[str, Protocol]:
    """Return the host and protocol by which a container port is known: of the first Service that targets it."""
    for service in services:
        for found in service.ports:
            target = found.target or found.port
            if target == port or (isinstance(target, str) and target == name):
                return host_of(service.meta.namespace, service.meta.name), found.protocol
    prefix = name.partition("-")[0]
    declared = {"http": Protocol.HTTP, "http2": Protocol.HTTP2, "grpc": Protocol.GRPC}
    return "", declared.get(prefix, Protocol.TCP)


def _upstreams(lens: Lens, pod: Pod, workload: ir.Workload) -> tuple[list[ir.OutboundTcp], list[Problem]]:
    listeners: list[ir.OutboundTcp] = []
    problems: list[Problem] = []
    for item in filter(None, map(str.strip, label(pod.meta.annotations, UPSTREAMS).split(","))):
        local, _, remote = item.partition("=")
        address, _, local_port = local.rpartition(":")
        host, _, port = remote.rpartition(":")
        service = service_of(qualify(host, pod.meta.namespace)) or service_of(f"{host}.svc.cluster.local")
        found = lens.service(service) if service else None
        field = f"metadata.annotations[{UPSTREAMS}]"
        if not (local_port.isdecimal() and port.isdecimal() and 0 < int(local_port) < 65536 and address):
            reason = f"must be ADDRESS:PORT=SERVICE:PORT, got {item}"
        elif service is None or found is None or all(p.port != int(port) for p in found.ports):
            reason = f"{remote} is no port of a known Service"
        else:
            cluster = names.cluster(int(port), "", host_of(*service))
            name = names.tcp_listener(address, int(local_port))
            listeners.append(ir.OutboundTcp(name, address, int(local_port), cluster, workload))
            continue
        problems.append(_pod_problem(pod, field, reason))
    return listeners, problems


def port_problem(pod: Pod, port: int) -> Problem:
    """Return what is said of a port that belongs to the sidecar."""
    reason = f"port {port} belongs to the sidecar (15000-15099); choose another"
    return _pod_problem(pod, "spec.containers[].ports", reason)


def _pod_problem(pod: Pod, path: str, reason: str, severity: Severity = Severity.ERROR) -> Problem:
    return Problem(severity, f"Pod {pod.meta.namespace}/{pod.meta.name}", path, reason)
