"""From the source to a list of routes: the listener, the virtual host by the Host, or the destination by its address.

It owns how a request finds its routes, in both forms of a sidecar; it must never choose among the routes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from xds import ir, settings
from xds.api.core import Pod, Service
from xds.compile import outbound
from xds.compile.clusters import NO_POLICY, Shape, clusters, exported, shapes
from xds.compile.entries import entry_of, nodes
from xds.compile.hosts import foreign_host, virtual_hosts
from xds.compile.lens import Lens
from xds.compile.sidecar import sidecar
from xds.explain.dial import Chain, chain_of
from xds.explain.facts import Caller, Facts
from xds.explain.question import Question, split_port
from xds.hosts import Name, entry_host, host_of, qualify, service_of
from xds.resources import names


@dataclass(frozen=True, slots=True)
class Way:
    """Where a request stands before its routes are asked; ``cluster`` is where it goes without asking any."""

    listener: str
    virtual_host: str = ""
    routes: tuple[ir.Route, ...] = ()
    cluster: ir.Cluster | None = None
    host: str = ""
    """The qualified host whose routes these are, or that was meant."""
    port: int = 0
    is_http: bool = True


def service_meant(lens: Lens, text: str, namespace: str) -> Name | None:
    """Return the Service that a host means to clients of a namespace (``orders``, ``orders.shop``, …), if it exists."""
    labels = text.split(".")
    match labels:
        case [name]:
            found = (namespace, name)
        case [name, owner]:
            found = (owner, name)
        case _:
            found = service_of(qualify(text, namespace))
    return found if found is not None and lens.service(found) is not None else None


def declared(facts: Facts, caller: Caller, question: Question) -> Way:
    """Return the way of a request that is sent to the sidecar's own address, where its Host decides."""
    lens = facts.lens
    own = sidecar(lens, (caller.namespace, caller.pod.meta.name)) if caller.pod else None
    listeners = own.listeners if own else ()
    host, port = split_port(question.destination)
    for found in listeners:
        if isinstance(found, ir.OutboundTcp) and (found.address, found.port) == (host, port):
            cluster = cluster_named(lens, caller, found.cluster)
            return Way(
                f"{found.name}",
                cluster=cluster,
                host=cluster.host if cluster else "",
                port=port,
                is_http=False,
            )
    http = next((found for found in listeners if isinstance(found, ir.OutboundHttp)), None)
    listener = f"{http.name} {http.address}:{http.port}" if http else names.OUTBOUND
    authority = question.authority.lower()
    bare, number = split_port(authority)
    chosen = by_domain(authority, _candidates(lens, caller, bare))
    if chosen is None:
        service = service_meant(lens, bare, caller.namespace)
        return Way(listener, host=host_of(*service) if service else bare, port=number)
    qualified, _, text = chosen.name.rpartition(":")
    return Way(listener, chosen.name, chosen.routes, host=qualified, port=int(text))


def direct(facts: Facts, caller: Caller, question: Question) -> Way:
    """Return the way of a request from a Pod without a sidecar: to the Service's Pods, with no rule of the mesh."""
    lens = facts.lens
    _, host, port = _resolve(facts, caller, *_lower(question.destination))
    service = service_of(host)
    found = lens.service(service) if service else None
    plain = clusters(lens, service, Shape(NO_POLICY, (), ())) if service and found else []
    cluster = next((one for one in plain if one.port == port), None)
    return Way("", cluster=cluster, host=host, port=port, is_http=cluster is None or cluster.protocol.is_http)


def _lower(destination: str) -> tuple[str, int]:
    host, port = split_port(destination)
    return host.lower(), port


def by_domain(authority: str, hosts: Iterable[ir.VirtualHost]) -> ir.VirtualHost | None:
    """Return the virtual host of a Host in lower case: an exact domain, else the longest wildcard that ends it."""
    best: tuple[int, ir.VirtualHost] | None = None
    for host in hosts:
        for domain in host.domains:
            if domain == authority:
                return host
            suffix = domain[1:]
            is_wild = domain.startswith("*") and len(authority) > len(suffix) and authority.endswith(suffix)
            if is_wild and (best is None or len(suffix) > best[0]):
                best = (len(suffix), host)
    return best[1] if best else None


def _candidates(lens: Lens, caller: Caller, bare: str) -> Iterator[ir.VirtualHost]:
    """Yield the virtual hosts of a class's table that could have a Host, which is all that its name can mean."""
    service = service_meant(lens, bare, caller.namespace)
    if service is not None:
        yield from virtual_hosts(lens, service, caller.client)
    levels = bare.split(".")
    patterns = [f"*.{'.'.join(levels[n:])}" for n in range(1, len(levels))]
    for host in (bare, entry_host(bare), *patterns, "*"):
        if not (found := service_of(host)) or lens.service(found) is None:
            yield from foreign_host(lens, host, caller.client)


def cluster_named(lens: Lens, caller: Caller, name: str) -> ir.Cluster | None:
    """Return the cluster of a name as a caller's namespace sees it, None where it sees none."""
    return next((found for found in clusters_of(lens, caller, name) if found.name == name), None)


def clusters_of(lens: Lens, caller: Caller, name: str) -> Iterator[ir.Cluster]:
    """Yield every cluster of the host of a cluster, as a caller's namespace sees it."""
    parsed = names.parse_cluster(name)
    service = service_of(parsed.host) if parsed else None
    found = lens.service(service) if service else None
    if parsed is None:
        return
    if service is not None and found is not None:
        seen = exported(found, shapes(lens, service, {}))
        shape = seen.get(caller.namespace, seen.get(""))
        yield from clusters(lens, service, shape) if shape else ()
        return
    entry = entry_of(lens, parsed.host, caller.namespace)
    if entry is not None:
        yield from nodes(lens, entry, parsed.host, caller.namespace, redirected=caller.shown.is_intercepted)


def dialled(facts: Facts, caller: Caller, question: Question) -> Way:
    """Return the way of a request whose connection was redirected: the address that its host means decides."""
    lens = facts.lens
    ip, host, port = _resolve(facts, caller, *_lower(question.destination))
    backend = facts.world.backend((caller.namespace, caller.pod.meta.name)) if caller.pod else None
    who = outbound.Caller(
        caller.client,
        backend.workload if backend else "",
        backend.service_account if backend else "default",
    )
    told = outbound.outbound(lens, who)
    chain = chain_of(told.listener, ip, port)
    listener = f"{told.listener.name} 0.0.0.0:{settings.OUTBOUND_PORT} ({chain.value})"
    match chain:
        case Chain.HTTP | Chain.TCP:
            return _on_demand(lens, caller, listener, names.Dialled(chain is Chain.HTTP, ip, port), host)
        case Chain.BY_HOST:
            chosen = by_domain(question.authority.lower(), told.hosts.hosts)
            if chosen is not None:
                qualified, _, number = chosen.name.rpartition(":")
                return Way(listener, chosen.name, chosen.routes, host=qualified, port=int(number))
        case Chain.OTHERS | Chain.CLOSED:
            pass
    wanted = names.BLACKHOLE if chain is Chain.CLOSED else told.hosts.others
    cluster = next(found for found in told.clusters if found.name == wanted)
    return Way(listener, cluster=cluster, host=host, port=port, is_http=chain is Chain.BY_HOST)


def _on_demand(lens: Lens, caller: Caller, listener: str, asked: names.Dialled, host: str) -> Way:
    name = names.destination(asked.address, asked.port, is_http=asked.is_http)
    rules = outbound.rules(lens, caller.client, name)
    unseen = outbound.hidden(lens, caller.client, name)
    cluster, _ = unseen or outbound.destination(lens, caller.namespace, name)
    meant = cluster.host if names.parse_cluster(cluster.assignment) else host
    if rules is None:
        return Way(listener, cluster=cluster, host=meant, port=asked.port, is_http=asked.is_http)
    return Way(listener, name, rules.routes, host=rules.host.rpartition(":")[0], port=asked.port)


def _resolve(facts: Facts, caller: Caller, text: str, port: int) -> tuple[str, str, int]:
    """Return the address that DNS gives for a host, the host's full name, and the port, 80 or the only one."""
    lens = facts.lens
    name = service_meant(lens, text, caller.namespace)
    service = lens.service(name) if name else None
    owner: Service | Pod | None = service or lens.by_address(text)
    if service is None and isinstance(owner, Service):
        service = owner
    if service is not None:
        host = host_of(service.meta.namespace, service.meta.name)
        numbers = [found.port for found in service.ports]
        port = port or (80 if 80 in numbers or len(numbers) != 1 else numbers[0])
        ip = text if owner is not None and name is None else next(iter(service.cluster_ips), "")
        return ip or _first_endpoint(facts, service), host, port
    entries = lens.entries(text)
    addresses = [ip for entry in entries for ip in entry.addresses]
    return (addresses[0] if addresses else text), text, port or 80


def _first_endpoint(facts: Facts, service: Service) -> str:
    """Return an address behind a headless Service, which is what DNS gives for it; empty: there is none."""
    slices = facts.world.slices((service.meta.namespace, service.meta.name))
    return next((found.address for one in slices for found in one.endpoints if found.ready), "")
