"""What a proxy with redirected traffic is told: its outbound listener, and the meaning of each destination it asks for.

It must never read the Host of a request, and never answer that a destination is missing: who may not go there is
sent nowhere.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from xds import ir, settings
from xds.api.core import Pod, Protocol, Service, ServicePort
from xds.api.mesh import OutboundPolicy
from xds.compile.clusters import Shape, clusters, shapes
from xds.compile.declared import declared
from xds.compile.entries import entry_at, nodes
from xds.compile.hosts import Client, outbound_policy, routes_of, sees
from xds.compile.lens import Lens
from xds.compile.named import named, named_virtual_hosts
from xds.compile.observed import observation
from xds.hosts import Name, host_of, visible
from xds.resources import names

Cause = tuple[str, ...]

_NO_PORT = "the Service has no such port"
_NOT_EXPORTED = "exportTo keeps it from namespace"
_NOT_WRITTEN_SO = "is no destination as Envoy writes it"
_STRANGER = "no Service, Pod or ServiceEntry has this address"


@dataclass(frozen=True, slots=True)
class Caller:
    """Proxies that share an outbound listener and a route table: equal Pods of one workload."""

    client: Client
    workload: str
    service_account: str
    telemetry: str = ""
    """Name of the Telemetry that selects these Pods, empty for none."""
    is_declared: bool = False
    """They cannot ask for clusters, and are told of all that they see."""

    @property
    def namespace(self) -> str:
        """The namespace that calls."""
        return self.client.namespace

    @property
    def layer(self) -> str:
        """The snapshot layer of these proxies."""
        form = f"{self.client.form}+{self.telemetry}" if self.telemetry else self.client.form
        asks = "/declared" if self.is_declared else ""
        return f"caller/{self.namespace}/{self.workload}/{self.service_account}/{form}{asks}"


def demand_layer(namespace: str) -> str:
    """Return the layer of what proxies of a namespace asked for by name."""
    return f"demand/{namespace}"


@dataclass(frozen=True, slots=True)
class Outbound:
    """What every proxy of a caller gets without asking."""

    listener: ir.Dialling
    scope: ir.Scope
    hosts: ir.HostTable
    clusters: tuple[ir.Cluster, ...]


def outbound(lens: Lens, caller: Caller) -> Outbound:
    """Return a caller's listener, its scope, its table of hosts, and the clusters that these name themselves."""
    workload = ir.Workload(
        name=caller.workload,
        namespace=caller.namespace,
        service_account=caller.service_account,
        app="",
        version="",
        trust_domain=lens.trust_domain,
        metering=lens.settings.metrics,
    )
    services, pods = lens.cidrs()
    selecting = lens.telemetry((caller.namespace, caller.telemetry)) if caller.telemetry else None
    seen = observation(lens, caller.namespace, lens.telemetry_chain(caller.namespace, selecting))
    is_open = outbound_policy(lens, caller.client) is OutboundPolicy.ALLOW_ANY
    others = names.PASSTHROUGH if is_open else names.BLACKHOLE
    listener = ir.Dialling(
        name=names.OUTBOUND,
        port=settings.OUTBOUND_PORT,
        table=names.OUTBOUND,
        ports=lens.port_uses(),
        service_ranges=services or settings.PRIVATE_RANGES,
        pod_ranges=pods or settings.PRIVATE_RANGES,
        others=others,
        workload=workload,
        named=named(lens, caller.client),
        observed=seen.client,
        declared=declared(lens, caller.client) if caller.is_declared else None,
    )
    hosts = ir.HostTable(names.ENTRIES, named_virtual_hosts(lens, caller.client), others)
    scope = ir.Scope(names.OUTBOUND, names.OUTBOUND)
    always = (through(names.PASSTHROUGH, is_http=True), nowhere(names.BLACKHOLE))
    return Outbound(listener, scope, hosts, (*always, *seen.clusters))


def destination(lens: Lens, namespace: str, name: str) -> tuple[ir.Cluster, Cause]:
    """Return the cluster that a destination's name means to clients of a namespace, and where that comes from."""
    dialled = names.parse_destination(name)
    if dialled is None:
        return nowhere(name), (f"{name} {_NOT_WRITTEN_SO}",)
    owner = lens.by_address(dialled.address)
    match owner:
        case Service():
            return _to_service(lens, namespace, name, dialled, owner)
        case Pod():
            return _to_pod(lens, name, dialled, owner)
        case None:
            return _to_other(lens, namespace, name, dialled)


def rules(lens: Lens, client: Client, name: str) -> ir.Rules | None:
    """Return the routes of the Service or ServiceEntry that is called at a destination, None where it has no rules.

    A Pod's own address has none, whoever selects the Pod: who calls it wants that Pod.
    """
    dialled = names.parse_destination(name)
    if dialled is None or not dialled.is_http:
        return None
    owner = lens.by_address(dialled.address)
    if isinstance(owner, Service):
        host, owned_by = host_of(owner.meta.namespace, owner.meta.name), owner.meta.namespace
        port = _port(owner, dialled.port)
    else:
        found = None if owner else entry_at(lens, dialled.address, dialled.port, client.namespace)
        if found is None:
            return None
        entry, at = found
        host, owned_by = entry.hosts[0], entry.meta.namespace
        port = ServicePort(at.port, at.name, at.protocol, at.target)
    if port is None or not port.protocol.is_http:
        return None
    routes = routes_of(lens, host, owned_by, port, client)
    return ir.Rules(name, f"{host}:{port.port}", routes) if routes else None


def hidden(lens: Lens, client: Client, name: str) -> tuple[ir.Cluster, Cause] | None:
    """Return where a destination leads those whose Sidecar hides the Service or ServiceEntry there: nowhere.

    None for what they see. Not to the address itself, as Istio has it where strangers are allowed: the bytes would
    leave in plaintext.
    """
    dialled = names.parse_destination(name)
    if dialled is None or not client.sidecar:
        return None
    owner = lens.by_address(dialled.address)
    match owner:
        case Service():
            namespace, host = owner.meta.namespace, host_of(owner.meta.namespace, owner.meta.name)
        case Pod():
            return None
        case None:
            found = entry_at(lens, dialled.address, dialled.port, client.namespace)
            if found is None:
                return None
            namespace, host = found[0].meta.namespace, found[0].hosts[0]
    return None if sees(lens, client, namespace, host) else (nowhere(name), (f"Sidecar {client.sidecar}",))


def nowhere(name: str) -> ir.Cluster:
    """Return a cluster without endpoints: its requests are answered 503, its connections closed."""
    return _unowned(name, names.BLACKHOLE, ir.Discovery.STATIC, is_http=False)


def through(name: str, *, is_http: bool) -> ir.Cluster:
    """Return a cluster that goes where the connection was going, in plaintext or as the application made it."""
    return _unowned(name, names.PASSTHROUGH, ir.Discovery.ORIGINAL_DST, is_http=is_http)


def _unowned(name: str, said: str, discovery: ir.Discovery, *, is_http: bool) -> ir.Cluster:
    protocol = Protocol.HTTP if is_http else Protocol.TCP
    return ir.Cluster(name, said, "", said, 0, "", protocol, ir.Plaintext(), discovery=discovery)


def _to_service(
    lens: Lens, namespace: str, name: str, dialled: names.Dialled, service: Service
) -> tuple[ir.Cluster, Cause]:
    owner: Name = (service.meta.namespace, service.meta.name)
    subject = f"Service {owner[0]}/{owner[1]}"
    if _port(service, dialled.port) is None:
        return nowhere(name), (subject, _NO_PORT)
    if not visible(service.export_to, owner[0], namespace):
        return nowhere(name), (subject, f"{_NOT_EXPORTED} {namespace}")
    seen = shapes(lens, owner, {})
    shape = seen.get(namespace, seen[""])
    whole = clusters(lens, owner, Shape(shape.policy, (), shape.rules))
    found = next(cluster for cluster in whole if cluster.port == dialled.port)
    return _called(found, name, dialled), (*shape.rules, subject)


def _to_pod(lens: Lens, name: str, dialled: names.Dialled, pod: Pod) -> tuple[ir.Cluster, Cause]:
    """Return the cluster of one Pod: only its own account may answer there."""
    subject = f"Pod {pod.meta.namespace}/{pod.meta.name}"
    known = lens.pod((pod.meta.namespace, pod.meta.name))
    if known is None:
        return nowhere(name), (_STRANGER,)
    _, backend = known
    mtls = lens.has_keys and backend.takes_mtls(dialled.port)
    service = next(iter(lens.services_selecting(pod)), None)
    san = f"spiffe://{lens.trust_domain}/ns/{backend.namespace}/sa/{backend.service_account}"
    endpoint = ir.Endpoint(dialled.address, dialled.port, backend.workload, backend.namespace, mtls=mtls)
    cluster = ir.Cluster(
        name=name,
        host=host_of(service.meta.namespace, service.meta.name) if service else pod.meta.name,
        namespace=pod.meta.namespace,
        service=service.meta.name if service else pod.meta.name,
        port=dialled.port,
        subset="",
        protocol=Protocol.HTTP if dialled.is_http else Protocol.TCP,
        tls=ir.AutoMtls((san,), "") if mtls else ir.Plaintext(),
        discovery=ir.Discovery.STATIC,
        endpoints=(endpoint,),
    )
    return cluster, (subject,)


def _to_other(lens: Lens, namespace: str, name: str, dialled: names.Dialled) -> tuple[ir.Cluster, Cause]:
    """Return what a ServiceEntry makes of an address, else what the mesh's policy does."""
    found = entry_at(lens, dialled.address, dialled.port, namespace)
    if found is not None:
        entry, port = found
        subject = f"ServiceEntry {entry.meta.namespace}/{entry.meta.name}"
        for cluster in nodes(lens, entry, entry.hosts[0], namespace, redirected=True):
            if cluster.port == port.port and not cluster.subset:
                return _called(cluster, name, dialled), (subject,)
    if lens.outbound is OutboundPolicy.ALLOW_ANY:
        return through(name, is_http=dialled.is_http), (_STRANGER,)
    return nowhere(name), (_STRANGER, f"outboundTrafficPolicy {OutboundPolicy.REGISTRY_ONLY.value}")


def _called(cluster: ir.Cluster, name: str, dialled: names.Dialled) -> ir.Cluster:
    """Return a service's cluster under the name that was asked for, in the protocol of the chain that asks."""
    protocol = cluster.protocol
    if protocol.is_http != dialled.is_http:
        protocol = Protocol.HTTP if dialled.is_http else Protocol.TCP
    shared = cluster.name if cluster.discovery is ir.Discovery.EDS else ""
    return replace(cluster, name=name, protocol=protocol, assignment=shared)


def _port(service: Service, number: int) -> ServicePort | None:
    return next((port for port in service.ports if port.port == number), None)
