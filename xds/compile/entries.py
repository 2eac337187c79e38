"""ServiceEntries as clients see them: which one holds for a host or an address, and its clusters.

It must never let an entry have what a Service has: a host, or an address.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from xds import ir
from xds.api.core import Protocol, label, selects
from xds.api.istio_entry import TLS_MODE, EntryEndpoint, EntryPort, Location, Resolution, ServiceEntry
from xds.api.istio_traffic import Subset
from xds.compile.clusters import SCOPES, Shape, apart, client_tls, policy_of, shape_of
from xds.compile.lens import Lens
from xds.fields import Problem, Severity
from xds.hosts import Name, age, entry_hosts, service_of, visible
from xds.resources import names


def entry_of(lens: Lens, host: str, namespace: str) -> ServiceEntry | None:
    """Return the entry that clients of a namespace ("": of any other) see for a host, None where they see none.

    The exact host goes before wildcards, the client's own entry before others', the older before the younger.
    """
    for level in (lens.entries(host), *lens.entries_covering(host)):
        found = _pick(level, namespace)
        if found is not None:
            return found
    return None


def entry_at(lens: Lens, ip: str, port: int, namespace: str) -> tuple[ServiceEntry, EntryPort] | None:
    """Return the entry and its port that clients of a namespace reach at an address; the narrowest range decides.

    An address of a Service or a Pod is theirs, whatever an entry says.
    """
    if lens.by_address(ip) is not None:
        return None
    for level in lens.entries_at(ip):
        found = _pick((entry for entry in level if entry.port(port)), namespace)
        at = found.port(port) if found else None
        if found is not None and at is not None:
            return found, at
    return None


def named_on(lens: Lens, port: int, namespace: str) -> list[str]:
    """Return the hosts of entries without addresses that clients of a namespace reach on a port, sorted."""
    hosts = {host for entry in lens.entries_on(port) for host in entry.hosts}
    found = (
        (host, entry_of(lens, host, namespace)) for host in hosts if not is_service(lens, host, namespace)
    )
    return sorted(host for host, entry in found if entry is not None and entry.port(port))


def is_service(lens: Lens, host: str, namespace: str) -> bool:
    """Tell whether clients of a namespace mean a Service by this host, in any of the forms that it is called by."""
    name, *rest = host.split(".")
    match rest:
        case []:
            return bool(namespace) and lens.service((namespace, name)) is not None
        case [owner]:
            return lens.service((owner, name)) is not None
        case _:
            service = service_of(host)
            return service is not None and lens.service(service) is not None


def is_reachable(entry: ServiceEntry, host: str, *, redirected: bool) -> bool:
    """Tell whether a proxy can find endpoints: only a redirected connection says where any host of a wildcard is."""
    return redirected or entry.resolution is not Resolution.NONE or not host.startswith("*")


def entry_clusters(lens: Lens, host: str, *, redirected: bool = False) -> dict[str, list[ir.Cluster]]:
    """Return the clusters of a host as each namespace sees them; "" is everybody whom nothing else is said for.

    ``redirected`` are proxies that know where a connection was going, which is all that resolution NONE has.
    """
    entries = lens.entries(host)
    if not entries or is_service(lens, host, ""):
        return {}
    owners = {entry.meta.namespace for entry in entries}
    exported = {name for entry in entries for name in entry.export_to if name not in SCOPES}
    everybody = _clusters_for(lens, entries, host, "", redirected=redirected)
    out = {"": everybody} if everybody else {}
    for namespace in sorted(owners | exported | apart(lens, host, (*owners, lens.root_namespace))):
        found = _clusters_for(lens, entries, host, namespace, redirected=redirected)
        if found and found != everybody:
            out[namespace] = found
    return out


def entry_cause(lens: Lens, host: str) -> tuple[str, ...]:
    """Return the entries that a host's clusters come from."""
    return tuple(_subject(entry) for entry in lens.entries(host))


def check_entry(lens: Lens, name: Name) -> tuple[Problem, ...]:
    """Return what of a ServiceEntry has no effect in the present world, nothing when it is gone."""
    entry = lens.entry(name)
    return () if entry is None else (*_check_hosts(lens, entry), *_check_addresses(lens, entry))


def _check_hosts(lens: Lens, entry: ServiceEntry) -> Iterator[Problem]:
    for index, host in enumerate(entry_hosts(entry)):
        path = f"spec.hosts[{index}]"
        older = next((e for e in lens.entries(host) if e.meta.namespace == entry.meta.namespace), entry)
        if is_service(lens, host, entry.meta.namespace):
            reason = f"{host} is a Service, and stays it: the entry has no effect on this host"
            yield Problem(Severity.WARNING, _subject(entry), path, reason)
        elif older.meta.name != entry.meta.name:
            reason = (
                f"{host} has no effect: the older {_subject(older)} has it; merge them or remove this host"
            )
            yield Problem(Severity.WARNING, _subject(entry), path, reason)
        elif not is_reachable(entry, host, redirected=False):
            reason = f"{host} can be called by Pods whose traffic is redirected only: nothing else says where it is"
            yield Problem(Severity.INFO, _subject(entry), path, reason)


def _check_addresses(lens: Lens, entry: ServiceEntry) -> Iterator[Problem]:
    for index, ip in enumerate(entry.addresses):
        owner = lens.by_address(ip)
        if owner is not None:
            whose = f"{type(owner).__name__} {owner.meta.namespace}/{owner.meta.name}"
            reason = f"{ip} is the address of {whose}, and stays it: the entry has no effect there"
            yield Problem(Severity.WARNING, _subject(entry), f"spec.addresses[{index}]", reason)


def _subject(entry: ServiceEntry) -> str:
    return f"ServiceEntry {entry.meta.namespace}/{entry.meta.name}"


def entry_shape(lens: Lens, entry: ServiceEntry, host: str, namespace: str) -> Shape:
    """Return how clients of a namespace see a host of an entry."""
    return shape_of(lens, host, entry.meta.namespace, namespace)


def nodes(
    lens: Lens, entry: ServiceEntry, host: str, namespace: str, *, redirected: bool
) -> Iterator[ir.Cluster]:
    """Yield the clusters of one entry's host for clients of a namespace: each port, and each subset of each port."""
    if not is_reachable(entry, host, redirected=redirected):
        return
    shape = entry_shape(lens, entry, host, namespace)
    for port in entry.ports:
        for subset in (None, *shape.subsets):
            yield _node(lens, entry, host, port, shape, subset, redirected=redirected)


def _clusters_for(
    lens: Lens, entries: list[ServiceEntry], host: str, namespace: str, *, redirected: bool
) -> list[ir.Cluster]:
    found = _pick(entries, namespace)
    return [] if found is None else list(nodes(lens, found, host, namespace, redirected=redirected))


def _node(  # noqa: PLR0913, PLR0917 -- one node needs all of them, and they come from three places
    lens: Lens,
    entry: ServiceEntry,
    host: str,
    port: EntryPort,
    shape: Shape,
    subset: Subset | None,
    *,
    redirected: bool,
) -> ir.Cluster:
    name = subset.name if subset else ""
    policy = policy_of(shape, subset, port.port)
    discovery, endpoints = _endpoints(entry, host, port, subset, redirected=redirected)
    is_meshed = any(endpoint.mtls for endpoint in endpoints)
    sans = tuple(sorted({*_identities(lens, entry), *entry.sans}))
    tls = client_tls(policy.tls, sans, names.sni(port.port, name, host), is_external=not is_meshed)
    protocol = port.protocol
    if isinstance(tls, ir.OriginateTls):
        tls = replace(tls, sans=tls.sans or entry.sans)
        # Who opens TLS for the application gets its requests in plaintext, and reads them.
        protocol = Protocol.HTTP if port.is_tls else protocol
    elif not lens.has_keys:
        tls = ir.Plaintext()
    return ir.Cluster(
        name=names.cluster(port.port, name, host),
        host=host,
        namespace=entry.meta.namespace,
        service=host,
        port=port.port,
        subset=name,
        protocol=protocol,
        tls=tls,
        features=policy.features,
        discovery=discovery,
        endpoints=endpoints,
    )


def _endpoints(
    entry: ServiceEntry, host: str, port: EntryPort, subset: Subset | None, *, redirected: bool
) -> tuple[ir.Discovery, tuple[ir.Endpoint, ...]]:
    if entry.resolution is Resolution.NONE and redirected:
        return ir.Discovery.ORIGINAL_DST, ()
    written = entry.endpoints or (EntryEndpoint(host),)
    chosen = tuple(
        _endpoint(entry, found, port)
        for found in written
        if subset is None or selects(subset.labels, found.labels)
    )
    # Envoy takes no DNS cluster without a name to resolve.
    if entry.resolution is Resolution.STATIC or not chosen:
        return ir.Discovery.STATIC, chosen
    is_one = entry.resolution is Resolution.DNS_ROUND_ROBIN
    return ir.Discovery.LOGICAL_DNS if is_one else ir.Discovery.STRICT_DNS, chosen


def _endpoint(entry: ServiceEntry, found: EntryEndpoint, port: EntryPort) -> ir.Endpoint:
    is_meshed = entry.location is Location.MESH_INTERNAL and label(found.labels, TLS_MODE) == "istio"
    return ir.Endpoint(
        address=found.address,
        port=found.port_of(port),
        workload="",
        namespace=entry.meta.namespace,
        mtls=is_meshed,
        zone=found.zone,
        weight=found.weight,
    )


def _identities(lens: Lens, entry: ServiceEntry) -> Iterator[str]:
    for found in entry.endpoints:
        if found.service_account:
            yield f"spiffe://{lens.trust_domain}/ns/{entry.meta.namespace}/sa/{found.service_account}"


def _pick(entries: Iterable[ServiceEntry], namespace: str) -> ServiceEntry | None:
    usable = [found for found in entries if visible(found.export_to, found.meta.namespace, namespace)]
    return min(usable, key=lambda found: (found.meta.namespace != namespace, age(found)), default=None)
