"""Readers of Kubernetes' own kinds: raw JSON to the frozen values of ``core``.

Kubernetes has validated these objects already, so fields that a mesh does not read are passed
over; what is read is checked, and nothing else may be believed.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from xds.api.addresses import read_ip
from xds.api.core import (
    EVERYWHERE,
    ContainerPort,
    Endpoint,
    EndpointSlice,
    Labels,
    Namespace,
    Pod,
    Probe,
    ProbeKind,
    Protocol,
    Service,
    ServiceAccount,
    ServicePort,
    SlicePort,
    label,
)
from xds.api.meta import check_dns_label, check_dns_subdomain, read_labels, read_meta
from xds.api.rate_limit import annotated
from xds.api.scraping import scraped
from xds.fields import Reader, show
from xds.redirect import bypassed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xds.api.core import Meta

SERVICE_NAME_LABEL = "kubernetes.io/service-name"
"""Names a slice's Service (k8s.io/api/discovery/v1)."""

SIDECAR_CONTAINER = "proa-proxy"
"""Name of the container that injection adds; by it a Pod is known to be meshed."""

INIT_CONTAINER = "proa-init"
"""Name of the init container that redirects a Pod's traffic into its sidecar."""

PROBE_PORT = 15021
"""Port of the sidecar's own health listener: what injection makes of TCP probes asks there, not the application."""

EXPORT_TO = "networking.istio.io/exportTo"
"""Annotation of a Service: the namespaces that see it, comma-separated (Istio's)."""

WORKLOAD_NAME = "proa.dev/workload"
"""Label or annotation that names the workload where the owner does not."""

GRPC_HEALTH_PATH = "/grpc.health.v1.Health/Check"
"""What a kubelet's gRPC probe calls (grpc.health.v1)."""

ZONE_LABEL = "topology.kubernetes.io/zone"
"""A Node's zone, and a Pod's since Kubernetes copies it (well-known label)."""

_TEMPLATE_HASH_LABEL = "pod-template-hash"
_FINISHED = frozenset({"Succeeded", "Failed"})
_PROBES = ("livenessProbe", "readinessProbe", "startupProbe")
_PORT_NAME = re.compile(r"(?=.*[a-z])[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")
_PORT_MAX = 65535

PROTOCOLS: dict[str, Protocol] = {
    "http": Protocol.HTTP,
    "grpc-web": Protocol.HTTP,  # HTTP/1.1 or HTTP/2 on the wire, and never end-to-end gRPC (Istio: GRPCWeb)
    "http2": Protocol.HTTP2,
    "grpc": Protocol.GRPC,
    "tcp": Protocol.TCP,
    "https": Protocol.TCP,
    "tls": Protocol.TCP,
    "mysql": Protocol.TCP,
    "mongo": Protocol.TCP,
    "redis": Protocol.TCP,
}
"""Istio's protocol names (pkg/config/protocol), for appProtocol and for the part of a port's name before ``-``.
What is encrypted by the application, and databases, are bytes to us."""

_KUBERNETES_PROTOCOLS = {
    "kubernetes.io/h2c": Protocol.HTTP2,
    "kubernetes.io/ws": Protocol.HTTP,
    "kubernetes.io/wss": Protocol.TCP,
}
"""Kubernetes' standard values of appProtocol (KEP-3726)."""


def read_namespace(top: Reader) -> Namespace:
    """Return a Namespace."""
    return Namespace(read_meta(top, scoped=False, short=True))


def read_service_account(top: Reader) -> ServiceAccount:
    """Return a ServiceAccount."""
    return ServiceAccount(read_meta(top))


def read_service(top: Reader) -> Service:
    """Return a Service; ports that are not TCP are left out with an information."""
    meta = read_meta(top, short=True)
    spec = _spec(top)
    external = spec.text("type", "ClusterIP") == "ExternalName"
    ips = spec.texts("clusterIPs") or tuple(filter(None, (spec.text("clusterIP", ""),)))
    name = spec.text("externalName").rstrip(".").lower() if external else ""
    if external:
        check_dns_subdomain(name, spec.at("externalName"))
    service = Service(
        meta=meta,
        ports=_service_ports(spec),
        selector=() if external else read_labels(spec, "selector"),
        cluster_ips=tuple(
            read_ip(ip, f"{spec.at('clusterIPs')}[{i}]") for i, ip in enumerate(ips) if ip != "None"
        ),
        external_name=name,
        headless=not external and "None" in ips,
        publish_not_ready=spec.boolean("publishNotReadyAddresses"),
        export_to=_export_to(meta),
    )
    annotated(service)  # refused here, so that the last good version stays as a whole
    return service


def read_endpoint_slice(top: Reader) -> EndpointSlice:
    """Return an EndpointSlice; a slice of host names has no endpoints for us."""
    meta = read_meta(top)
    service = label(meta.labels, SERVICE_NAME_LABEL)
    if not service:
        top.warn("metadata.labels", f"has no {SERVICE_NAME_LABEL}: the slice belongs to no Service")
    kind = top.text("addressType", "IPv4")
    if kind not in {"IPv4", "IPv6"}:
        top.info("addressType", f"{show(kind)} is not read: Proa takes IPv4 and IPv6")
    endpoints = top.objects("endpoints") if kind in {"IPv4", "IPv6"} else ()
    ports = tuple(port for reader in top.objects("ports") for port in _slice_port(reader))
    return EndpointSlice(meta, service, ports, tuple(e for reader in endpoints for e in _endpoint(reader)))


def read_pod(top: Reader) -> Pod:
    """Return a Pod; without ``status.conditions`` (as in a directory) it counts as ready."""
    meta = read_meta(top)
    spec = _spec(top)
    metadata = Reader(top.raw("metadata"), "metadata", top.notes)
    status = top.object("status") or Reader({}, "status", top.notes)
    every = tuple(_containers(spec))
    containers = tuple(reader for reader in every if reader.text("name", "") != SIDECAR_CONTAINER)
    probes = tuple(probe for reader in containers for probe in _probes(reader) if probe.port != PROBE_PORT)
    asked = (probe for probe in probes if probe.kind is not ProbeKind.TCP)
    terminating = metadata.text("deletionTimestamp", "") != ""
    init = next((r for r in spec.objects("initContainers") if r.text("name", "") == INIT_CONTAINER), None)
    return Pod(
        meta=meta,
        ip=_pod_ip(status),
        service_account=_service_account(spec),
        ports=tuple(port for reader in containers for port in _container_ports(reader)),
        probes=tuple(dict.fromkeys((*asked, *scraped(meta.annotations, metadata)))),
        workload=_workload(meta, metadata),
        ready=_ready(status) and not terminating,
        terminating=terminating,
        has_sidecar=len(containers) != len(every),
        host_network=spec.boolean("hostNetwork"),
        zone=label(meta.labels, ZONE_LABEL),
        uid=metadata.text("uid", ""),
        node=spec.text("nodeName", ""),
        finished=_finished(status),
        is_redirected=init is not None,
        bypassed=() if init is None else bypassed(init.raw("command")),
        ips=_pod_ips(status),
        tcp_probes=tuple(sorted({p.port for p in probes if p.kind is ProbeKind.TCP})),
    )


def protocol_of(port: Reader, name: str) -> Protocol:
    """Return what a Service port speaks: by appProtocol, else by the name's prefix, else TCP.

    Istio's rule (pkg/config/kube ConvertProtocol), without its sniffing: an appProtocol that is
    not known does not fall back to the name.
    """
    app = port.text("appProtocol", "")
    if app in _KUBERNETES_PROTOCOLS:
        return _KUBERNETES_PROTOCOLS[app]
    word = (app or name).lower()
    known = PROTOCOLS.get("grpc-web" if word.startswith("grpc-web") else word.partition("-")[0])
    if known is None and app:
        port.info("appProtocol", f"{show(app)} is not a protocol that Proa knows: the port is treated as TCP")
    elif known is None:
        port.info(
            "name",
            "tells no protocol: the port is treated as TCP; set appProtocol, or name it http-… or tcp-…",
        )
    return known or Protocol.TCP


def _spec(top: Reader) -> Reader:
    top.need("spec")
    return Reader(top.raw("spec"), top.at("spec"), top.notes)


def _service_ports(spec: Reader) -> tuple[ServicePort, ...]:
    ports: dict[int, ServicePort] = {}
    names: set[str] = set()
    readers = spec.objects("ports")
    for reader in readers:
        if reader.text("protocol", "TCP") != "TCP":
            reader.info("protocol", "is not TCP: the mesh leaves this port alone")
            continue
        port = _service_port(reader)
        if not port.name and len(readers) > 1:
            raise reader.fail("name", "is required where a Service has more than one port")
        if port.port in ports or port.name in names:
            raise reader.fail("port", f"{port.port} ({show(port.name)}) appears twice in this Service")
        ports[port.port] = port
        names.add(port.name)
    return tuple(ports.values())


def _service_port(reader: Reader) -> ServicePort:
    number = reader.integer("port", low=1, high=_PORT_MAX)
    name = reader.text("name", "")
    if name:
        check_dns_label(name, reader.at("name"))
    return ServicePort(number, name, protocol_of(reader, name), _port_reference(reader, "targetPort", number))


def _port_reference(reader: Reader, name: str, default: int) -> int | str:
    """Return a port's number, or the name of a container port (IntOrString, as in Kubernetes)."""
    value = reader.raw(name)
    if not isinstance(value, str):
        # Kubernetes writes 0 for "not set" in some clients; it means the same as absent.
        return reader.integer(name, default, low=0, high=_PORT_MAX) or default
    if not _PORT_NAME.fullmatch(value):
        raise reader.fail(name, f"must be 1..{_PORT_MAX} or the name of a container port, got {show(value)}")
    return value


def _slice_port(reader: Reader) -> Iterator[SlicePort]:
    if reader.text("protocol", "TCP") == "TCP" and reader.has("port"):
        yield SlicePort(reader.text("name", ""), reader.integer("port", low=1, high=_PORT_MAX))


def _endpoint(reader: Reader) -> Iterator[Endpoint]:
    addresses = reader.texts("addresses")
    if not addresses:
        return
    conditions = reader.object("conditions") or Reader({}, reader.at("conditions"), reader.notes)
    # discovery/v1: an absent `ready` means ready, an absent `serving` means what `ready` says.
    ready = conditions.boolean("ready", default=True)
    target = reader.object("targetRef")
    pod = target.text("name", "") if target is not None and target.text("kind", "") == "Pod" else ""
    # discovery/v1: the addresses of one endpoint are fungible, and consumers use the first.
    yield Endpoint(
        address=read_ip(addresses[0], f"{reader.at('addresses')}[0]"),
        ready=ready,
        serving=conditions.boolean("serving", default=ready),
        terminating=conditions.boolean("terminating"),
        pod=pod,
        zone=reader.text("zone", ""),
    )


def _containers(spec: Reader) -> Iterator[Reader]:
    """Return the containers that run for the Pod's whole life: init containers count when they restart (KEP-753)."""
    yield from spec.objects("containers")
    yield from (
        reader for reader in spec.objects("initContainers") if reader.text("restartPolicy", "") == "Always"
    )


def _container_ports(container: Reader) -> Iterator[ContainerPort]:
    for reader in container.objects("ports"):
        if reader.text("protocol", "TCP") == "TCP":
            number = reader.integer("containerPort", low=1, high=_PORT_MAX)
            yield ContainerPort(number, reader.text("name", "", limit=63))


def _probes(container: Reader) -> Iterator[Probe]:
    ports = {port.name: port.port for port in _container_ports(container) if port.name}
    for name in _PROBES:
        probe = container.object(name)
        if probe is None:
            continue
        http, grpc, tcp = probe.object("httpGet"), probe.object("grpc"), probe.object("tcpSocket")
        if grpc is not None:
            yield Probe(grpc.integer("port", low=1, high=_PORT_MAX), GRPC_HEALTH_PATH, ProbeKind.GRPC)
        for asked in (http, tcp):
            # A probe of another host does not come to this Pod.
            if asked is not None and not asked.text("host", ""):
                is_plain = asked is http and asked.text("scheme", "HTTP").upper() == "HTTP"
                kind, path = (ProbeKind.HTTP, _probe_path(asked)) if is_plain else (ProbeKind.TCP, "")
                yield Probe(_probe_port(asked, ports), path, kind)


def _probe_port(asked: Reader, ports: dict[str, int]) -> int:
    asked.need("port")
    reference = _port_reference(asked, "port", 0)
    if isinstance(reference, int):
        if not reference:
            raise asked.fail("port", f"must be 1..{_PORT_MAX}, got 0")
        return reference
    if reference not in ports:
        known = ", ".join(sorted(ports)) or "none"
        raise asked.fail("port", f"names no port of this container: {show(reference)}; named ports: {known}")
    return ports[reference]


def _probe_path(http: Reader) -> str:
    """Return the path that Envoy compares: without the query, and with the slash that a kubelet adds."""
    path = http.text("path", "/").partition("?")[0]
    return path if path.startswith("/") else f"/{path}"


def _finished(status: Reader) -> bool:
    return status.text("phase", "") in _FINISHED


def _pod_ip(status: Reader) -> str:
    """Return the Pod's address, empty for none: a finished Pod has given its address back."""
    ip = status.text("podIP", "")
    return read_ip(ip, status.at("podIP")) if ip and not _finished(status) else ""


def _pod_ips(status: Reader) -> tuple[str, ...]:
    """Return every address of the Pod, the primary one first."""
    if _finished(status):
        return ()
    others = (
        read_ip(ip, reader.at("ip")) for reader in status.objects("podIPs") if (ip := reader.text("ip", ""))
    )
    return tuple(dict.fromkeys(filter(None, (_pod_ip(status), *others))))


def _export_to(meta: Meta) -> tuple[str, ...]:
    """Return who sees a Service; who names nobody, or names somebody wrongly, hides it from all but its own."""
    said = label(meta.annotations, EXPORT_TO)
    return tuple(sorted({part.strip() for part in said.split(",") if part.strip()})) if said else EVERYWHERE


def _service_account(spec: Reader) -> str:
    name = spec.text("serviceAccountName", "") or spec.text("serviceAccount", "") or "default"
    check_dns_subdomain(name, spec.at("serviceAccountName"))
    return name


def _ready(status: Reader) -> bool:
    conditions = {
        reader.text("type", ""): reader.text("status", "") for reader in status.objects("conditions")
    }
    return not conditions or conditions.get("Ready") == "True"


def _workload(meta: Meta, metadata: Reader) -> str:
    """Return the workload's name: said by label or annotation, else the controller's, else the Pod's own.

    The part that a Deployment's ReplicaSet adds is cut off, so that a rollout keeps its name.
    """
    chosen = _chosen(meta.labels) or _chosen(meta.annotations)
    if chosen:
        check_dns_subdomain(chosen, f"metadata.labels.{WORKLOAD_NAME}")
        return chosen
    owner = next((o for o in metadata.objects("ownerReferences") if o.boolean("controller")), None)
    if owner is None:
        return meta.name
    name = owner.text("name")
    check_dns_subdomain(name, owner.at("name"))
    if owner.text("kind", "") != "ReplicaSet":
        return name
    tail = f"-{label(meta.labels, _TEMPLATE_HASH_LABEL)}"
    return name.removesuffix(tail) or name


def _chosen(labels: Labels) -> str:
    return label(labels, WORKLOAD_NAME)
