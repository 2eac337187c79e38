"""What one VirtualService can only be told with the world at hand: whether what it routes to exists.

A finding of severity ERROR keeps this version out of force. This module must never change
anything, and must never judge an object for another object's fault.
"""

from __future__ import annotations

from collections.abc import Iterator

from xds.api.istio_traffic import Destination, VirtualService
from xds.api.mesh import MeshSettings
from xds.compile.entries import entry_of
from xds.compile.hosts import Client, locate, ports_seen, shape_seen
from xds.compile.lens import Lens
from xds.compile.providers import check_providers
from xds.fields import Problem, Severity
from xds.hosts import Name, host_of, qualify, route_hosts, service_of


def check(lens: Lens, name: Name) -> tuple[Problem, ...]:
    """Return what is wrong with a VirtualService in the present world, nothing when it is gone."""
    found = lens.virtual_service(name)
    if found is None:
        return ()
    if "mesh" not in found.gateways:
        return ()  # the reader has said that sidecars skip it
    return (*_hosts(lens, found), *_destinations(lens, found))


def check_settings(lens: Lens, wanted: str) -> tuple[Problem, ...]:
    """Return what is wrong with the mesh settings, which ask for this trust domain, in the present world."""
    return (*_trust_domain(lens.settings, wanted), *check_providers(lens))


def _trust_domain(settings: MeshSettings, wanted: str) -> tuple[Problem, ...]:
    if wanted == settings.trust_domain:
        return ()
    subject = f"ConfigMap {settings.meta.namespace}/{settings.meta.name}"
    reason = (
        f"stays {settings.trust_domain} while certificates that say so are out; "
        f"restart the control plane to take {wanted}"
    )
    return (Problem(Severity.ERROR, subject, "data.mesh.trustDomain", reason),)


def _hosts(lens: Lens, found: VirtualService) -> Iterator[Problem]:
    meant = route_hosts(found)
    for index, written in enumerate(found.hosts):
        path = f"spec.hosts[{index}]"
        host = qualify(written, found.meta.namespace)
        if host not in meant:
            continue  # another word for one that is
        rivals = [r for r in lens.claims(host) if r.meta.namespace == found.meta.namespace]
        if rivals and rivals[0].meta.name != found.meta.name:
            first = rivals[0].meta
            reason = f"{host} is already routed by the older VirtualService {first.namespace}/{first.name}"
            yield _problem(found, path, f"{reason}; merge the rules into one object or remove this host")
        owner = service_of(host)
        if owner is None and host.count(".") == 1:
            label, _, namespace = host.partition(".")
            if lens.service((namespace, label)) is not None:
                reason = f"{written} is not qualified as Istio reads it; write {host_of(namespace, label)}"
                yield _problem(found, path, reason)
        if owner is not None and found.meta.namespace not in (owner[0], lens.root_namespace):
            clients = f"these rules hold for clients in {found.meta.namespace} only"
            reason = f"{host} belongs to namespace {owner[0]}: {clients}"
            yield _problem(found, path, reason, Severity.WARNING)


def _destinations(lens: Lens, found: VirtualService) -> Iterator[Problem]:
    client = Client(found.meta.namespace)
    for rule in found.http:
        targets = [(f"route[{i}].destination", d.destination) for i, d in enumerate(rule.destinations)]
        targets += [
            (f"mirror[{i}]", Destination(m.host, m.subset, m.port)) for i, m in enumerate(rule.mirrors)
        ]
        for place, target in targets:
            yield from _destination(lens, found, client, f"spec.{rule.path}.{place}", target)


def _destination(
    lens: Lens, found: VirtualService, client: Client, path: str, target: Destination
) -> Iterator[Problem]:
    located = locate(lens, target, found.meta.namespace, _default_port(lens, found))
    ports = ports_seen(lens, located.host, client.namespace)
    if ports is None:
        hint = f"; write {host_of(*reversed(target.host.split('.')))}" if target.host.count(".") == 1 else ""
        yield _problem(found, f"{path}.host", f"no Service {located.host} is known{hint}")
        return
    if located.port not in ports:
        known = ", ".join(map(str, ports)) or "none"
        reason = f"{_owner(lens, located.host)} has no port {located.port}; it has {known}"
        yield _problem(found, f"{path}.port.number", reason)
        return
    shape = shape_seen(lens, located.host, client.namespace) if located.subset else None
    if shape is not None and located.subset not in [subset.name for subset in shape.subsets]:
        rules, subsets = " and ".join(shape.rules), ", ".join(subset.name for subset in shape.subsets)
        known = f"{rules} has {subsets}" if subsets else f"{rules} names no subsets"
        reason = (
            known if rules else f"there is no DestinationRule for {located.host}; write one that names it"
        )
        yield _problem(found, f"{path}.subset", f"subset {located.subset} is unknown: {reason}")


def _owner(lens: Lens, host: str) -> str:
    name = service_of(host)
    is_known = name is not None and lens.service(name) is not None
    return f"Service {name[0]}/{name[1]}" if name and is_known else f"the ServiceEntry of {host}"


def _default_port(lens: Lens, found: VirtualService) -> int:
    """Return the port that a destination without one gets: that of the host's first HTTP port."""
    for written in found.hosts:
        host = qualify(written, found.meta.namespace)
        name = service_of(host)
        owner = (lens.service(name) if name else None) or entry_of(lens, host, found.meta.namespace)
        for port in owner.ports if owner else ():
            if port.protocol.is_http:
                return port.port
    return 80


def _problem(found: VirtualService, path: str, reason: str, severity: Severity = Severity.ERROR) -> Problem:
    return Problem(severity, f"VirtualService {found.meta.namespace}/{found.meta.name}", path, reason)
