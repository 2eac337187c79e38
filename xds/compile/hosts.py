"""Route tables: one virtual host for each HTTP port of a service, as a class of clients sees it.

It must never decide whether a VirtualService is valid: it is given those in force.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from xds import ir
from xds.api.core import EVERYWHERE, Labels, Protocol, ServicePort
from xds.api.istio_entry import ServiceEntry
from xds.api.istio_traffic import Destination, HttpMatch, HttpRule, VirtualService
from xds.api.mesh import OutboundPolicy
from xds.compile.clusters import Shape, policy_of, shapes
from xds.compile.entries import entry_of, entry_shape, is_reachable, is_service
from xds.compile.faults import faulted
from xds.compile.lens import Lens
from xds.compile.providers import is_called
from xds.features import ClusterFeature, RouteFeature, load_balancer, retry
from xds.features.redirect import Redirect
from xds.hosts import Name, age, entry_hosts, host_of, qualify, service_of, visible
from xds.indexes.visibility import imports
from xds.resources import names


@dataclass(frozen=True, slots=True)
class Client:
    """The class of proxies that share a route table: a namespace, the labels that rules ask for, and a Sidecar.

    ``sidecar`` is the name of the one that holds for them, ``NAMESPACE/NAME``, empty for none.
    """

    namespace: str
    labels: Labels = ()
    sidecar: str = ""

    @property
    def layer(self) -> str:
        """The snapshot layer of this class."""
        return f"class/{self.namespace}/{self.form}"

    @property
    def form(self) -> str:
        """What tells this class from others of its namespace, empty for the class of all who are told nothing else."""
        labels = ",".join(f"{key}={value}" for key, value in self.labels)
        return f"{labels}@{self.sidecar}" if self.sidecar else labels


def virtual_hosts(lens: Lens, service: Name, client: Client) -> list[ir.VirtualHost]:
    """Return one virtual host for each HTTP port of a service, as one class of clients sees it."""
    found = lens.service(service)
    if found is None:
        return []
    host = host_of(*service)
    if not sees(lens, client, service[0], host, found.export_to):
        return []
    rule = choose_route(lens, host, service[0], client)
    http = [port for port in found.ports if port.protocol.is_http]
    default = _portless(http)
    return [
        ir.VirtualHost(
            name=f"{host}:{port.port}",
            domains=domains(service, port.port, client.namespace, is_default=port is default),
            # A VirtualService with no rule for these clients and this port is as if it were not there.
            routes=faulted(
                lens,
                service,
                _rule_routes(lens, port, rule, client)
                or (_plain_route(lens, names.service_route(*service, port.port), host, port, client),),
            ),
        )
        for port in http
    ]


def routes_of(lens: Lens, host: str, owner: str, port: ServicePort, client: Client) -> tuple[ir.Route, ...]:
    """Return the routes of one port of a host, none if each request goes to its cluster as without a table."""
    service = service_of(host)
    found = _rule_routes(lens, port, choose_route(lens, host, owner, client), client)
    if found:
        return faulted(lens, service, found) if service else found
    plain = _plain_route(lens, f"{host}:{port.port}", host, port, client)
    if service:
        (plain,) = faulted(lens, service, (plain,))
    return () if plain.features == (retry.DEFAULT,) else (plain,)


def _portless(ports: list[ServicePort]) -> ServicePort | None:
    """Return the port that a Host without one means: 80, else the only one."""
    return next((p for p in ports if p.port == 80), ports[0] if len(ports) == 1 else None)


def domains(service: Name, port: int, client_namespace: str, *, is_default: bool) -> tuple[str, ...]:
    """Return every Host that names this port of a service."""
    namespace, name = service
    forms = [f"{name}.{namespace}.svc.cluster.local", f"{name}.{namespace}.svc", f"{name}.{namespace}"]
    if namespace == client_namespace:
        forms.append(name)
    portless = forms if is_default else []
    return (*portless, *(f"{form}:{port}" for form in forms))


def sees(lens: Lens, client: Client, owner: str, host: str, export_to: tuple[str, ...] = EVERYWHERE) -> bool:
    """Tell whether a class of clients sees a host that a namespace has, or an object of it about that host.

    Its owner must export it, and the clients' Sidecar import it; one that is gone hides nothing.
    """
    if not visible(export_to, owner, client.namespace):
        return False
    namespace, slash, name = client.sidecar.partition("/")
    return not slash or imports(lens.sidecar((namespace, name)), client.namespace, owner, host)


def outbound_policy(lens: Lens, client: Client) -> OutboundPolicy:
    """Return what a class of clients does with destinations that nobody knows: as its Sidecar says, else the mesh."""
    namespace, slash, name = client.sidecar.partition("/")
    found = lens.sidecar((namespace, name)) if slash else None
    return (found.outbound if found else None) or lens.outbound


def sees_cluster(lens: Lens, client: Client, cluster: names.ClusterName) -> bool:
    """Tell whether a class of clients sees the host of a cluster, whoever has it; its sidecars see all providers."""
    if is_called(lens.settings, cluster):
        return True
    service = service_of(cluster.host)
    if service is not None and lens.service(service) is not None:
        return sees(lens, client, service[0], cluster.host)
    entry = entry_of(lens, cluster.host, client.namespace)
    return entry is not None and sees(lens, client, entry.meta.namespace, cluster.host)


def choose_route(lens: Lens, host: str, owner: str, client: Client) -> VirtualService | None:
    """Return the VirtualService that routes a host for a class of clients.

    Looked for in the client's namespace, then the owner's, then the root namespace; the oldest
    wins. One of a third namespace never routes somebody else's host: Istio lets it, and that
    is how a tenant captures another's traffic.
    """
    order = (client.namespace, owner, lens.root_namespace)
    for candidates in (lens.routes(host), *lens.wildcard_routes(host)):
        usable = [f for f in candidates if sees(lens, client, f.meta.namespace, host, f.export_to)]
        for namespace in order:
            for found in usable:
                if found.meta.namespace == namespace:
                    return found
    return None


def _rule_routes(
    lens: Lens, port: ServicePort, rule: VirtualService | None, client: Client
) -> tuple[ir.Route, ...]:
    """Return the routes of a VirtualService that hold for these clients and this port, perhaps none."""
    if rule is None:
        return ()
    return tuple(
        _rule_route(lens, rule, index, match, client, port)
        for index, http in enumerate(rule.http)
        for match in http.matches or (HttpMatch(match=None),)
        if applies(match, port.port, client)
    )


def _plain_route(lens: Lens, name: str, host: str, port: ServicePort, client: Client) -> ir.Route:
    destination = Destination(host, "", port.port)
    return ir.Route(
        name=name,
        match=None,
        action=ir.Forward((ir.Destination(cluster_of(destination), 100),)),
        features=(retry.DEFAULT, *_hash_policies(lens, [destination], client)),
    )


def applies(match: HttpMatch, port: int, client: Client) -> bool:
    """Tell whether the parts of a match that the control plane decides hold for a class of clients."""
    return (
        (not match.port or match.port == port)
        and (not match.source_namespace or match.source_namespace == client.namespace)
        and (not match.gateways or "mesh" in match.gateways)
        and set(match.source_labels) <= set(client.labels)
    )


def _rule_route(  # noqa: PLR0913, PLR0917 -- a route depends on all six
    lens: Lens, rule: VirtualService, index: int, match: HttpMatch, client: Client, port: ServicePort
) -> ir.Route:
    http = rule.http[index]
    name = names.rule_route(rule.meta.namespace, rule.meta.name, http.name or str(index))
    if http.action is not None:
        action = http.action.on(port.port) if isinstance(http.action, Redirect) else http.action
        return ir.Route(name, match.match, action, http.features)
    namespace = rule.meta.namespace
    targets = [locate(lens, weighted.destination, namespace, port.port) for weighted in http.destinations]
    forward = ir.Forward(
        tuple(
            ir.Destination(cluster_of(target), weighted.weight, weighted.headers)
            for target, weighted in zip(targets, http.destinations, strict=True)
        )
    )
    return ir.Route(name, match.match, forward, _route_features(lens, http, targets, namespace, client, port))


def _route_features(  # noqa: PLR0913, PLR0917 -- as above
    lens: Lens, http: HttpRule, targets: list[Destination], namespace: str, client: Client, port: ServicePort
) -> tuple[RouteFeature, ...]:
    features: list[RouteFeature] = list(http.features)
    if not any(isinstance(f, retry.Retry) for f in features):
        features.append(retry.DEFAULT)
    for mirror in http.mirrors:
        wanted = Destination(mirror.host, mirror.subset, mirror.port)
        features.append(replace(mirror, cluster=cluster_of(locate(lens, wanted, namespace, port.port))))
    return (*features, *_hash_policies(lens, targets, client))


def _hash_policies(lens: Lens, targets: Iterable[Destination], client: Client) -> tuple[RouteFeature, ...]:
    """Return the hash policies that the targets' load balancers need on the route."""
    out: dict[RouteFeature, None] = {}
    for target in targets:
        for feature in effective_features(lens, target, client.namespace):
            if isinstance(feature, load_balancer.ConsistentHash):
                out[feature] = None
    return tuple(out)


def effective_features(lens: Lens, target: Destination, namespace: str) -> tuple[ClusterFeature, ...]:
    """Return the cluster features of a located destination as one namespace sees it."""
    shape = shape_seen(lens, target.host, namespace)
    if shape is None:
        return ()
    subset = next((s for s in shape.subsets if s.name == target.subset), None)
    return policy_of(shape, subset, target.port).features


def shape_seen(lens: Lens, host: str, namespace: str) -> Shape | None:
    """Return how one namespace sees a qualified host, None where no Service and no ServiceEntry has it."""
    service = service_of(host)
    if service is not None and lens.service(service) is not None:
        seen = shapes(lens, service, {})
        return seen.get(namespace, seen[""])
    entry = entry_of(lens, host, namespace)
    return entry_shape(lens, entry, host, namespace) if entry else None


def ports_seen(lens: Lens, host: str, namespace: str) -> tuple[int, ...] | None:
    """Return the ports of a qualified host as one namespace sees it, None where nobody has it."""
    service = service_of(host)
    found = lens.service(service) if service else None
    if found is not None:
        is_seen = visible(found.export_to, found.meta.namespace, namespace)
        return tuple(port.port for port in found.ports) if is_seen else None
    entry = entry_of(lens, host, namespace)
    # A wildcard stands for hosts that are called by name; there is no cluster of any one of them.
    if entry is None or host not in entry_hosts(entry):
        return None
    return tuple(port.port for port in entry.ports)


def locate(lens: Lens, destination: Destination, namespace: str, port: int) -> Destination:
    """Return the destination with its qualified host and its port filled in.

    Without a port it is the Service's only one, else the port of the virtual host.
    """
    host = qualify(destination.host, namespace)
    if destination.port:
        return Destination(host, destination.subset, destination.port)
    ports = ports_seen(lens, host, namespace)
    if ports is not None and len(ports) == 1:
        port = ports[0]
    return Destination(host, destination.subset, port)


def cluster_of(destination: Destination) -> str:
    """Return the cluster of a located destination."""
    return names.cluster(destination.port, destination.subset, destination.host)


def foreign_host(lens: Lens, host: str, client: Client) -> list[ir.VirtualHost]:
    """Return the virtual hosts of a host that is no Service, as one class of clients sees it.

    One for each HTTP port of its ServiceEntry. Without an entry the oldest visible VirtualService
    stands for port 80.
    """
    entry = entry_of(lens, host, client.namespace)
    if entry is not None:
        return entry_virtual_hosts(lens, host, entry, client)
    usable = [f for f in lens.routes(host) if sees(lens, client, f.meta.namespace, host, f.export_to)]
    if not usable:
        return []
    rule = min(usable, key=lambda f: (f.meta.namespace != client.namespace, age(f)))
    port = ServicePort(80, "http", Protocol.HTTP, 80)
    name = host if service_of(host) is None else host.removesuffix(".cluster.local")
    routes = _rule_routes(lens, port, rule, client)
    return [ir.VirtualHost(f"{host}:80", (name, f"{name}:80"), routes)] if routes else []


def entry_virtual_hosts(
    lens: Lens, host: str, entry: ServiceEntry, client: Client, *, redirected: bool = False
) -> list[ir.VirtualHost]:
    """Return the virtual hosts of an entry's host: one for each HTTP port."""
    if is_service(lens, host, client.namespace) or not sees(lens, client, entry.meta.namespace, host):
        return []
    is_own = host in entry_hosts(entry)
    rule = choose_route(lens, host, entry.meta.namespace, client)
    http = [p for p in entry.ports if p.protocol.is_http]
    listed = [ServicePort(port.port, port.name, port.protocol, port.target) for port in http]
    default = _portless(listed)
    out: list[ir.VirtualHost] = []
    for port in listed:
        routes = _rule_routes(lens, port, rule, client)
        if not routes and is_own and is_reachable(entry, host, redirected=redirected):
            name = names.entry_route(entry.meta.namespace, entry.meta.name, port.port)
            routes = (_plain_route(lens, name, host, port, client),)
        if routes:
            portless = (host,) if port is default else ()
            out.append(ir.VirtualHost(f"{host}:{port.port}", (*portless, f"{host}:{port.port}"), routes))
    return out
