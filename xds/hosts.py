"""Hosts and the objects that name them: what a written host means, and which of two objects wins.

Pure rules without state; this module must never ask what exists.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar

from xds.api.fault import Fault
from xds.api.istio_entry import ServiceEntry
from xds.api.istio_security import PeerAuthentication
from xds.api.istio_sidecar import Sidecar
from xds.api.istio_telemetry import Telemetry
from xds.api.istio_traffic import DestinationRule, VirtualService
from xds.api.rate_limit import RateLimit

Name = tuple[str, str]
"""A namespaced name: (namespace, name)."""

Named = TypeVar("Named", VirtualService, DestinationRule, ServiceEntry)

Aged = (
    VirtualService
    | DestinationRule
    | PeerAuthentication
    | ServiceEntry
    | Sidecar
    | RateLimit
    | Telemetry
    | Fault
)
"""Objects of which the oldest wins."""

Index = Mapping[str, Mapping[Name, Named]]
"""Objects by the host or pattern that they name, then by their own name."""

MESH_DOMAIN = "svc.cluster.local"
"""The cluster's DNS domain; Istio's default as well."""


def host_of(namespace: str, name: str) -> str:
    """Return a Service's fully qualified host."""
    return f"{name}.{namespace}.{MESH_DOMAIN}"


def service_of(host: str) -> Name | None:
    """Return the Service that a fully qualified host names, None for any other host."""
    head, _, rest = host.partition(".")
    namespace, _, domain = rest.partition(".")
    return (namespace, head) if domain == MESH_DOMAIN and head and namespace else None


def covers_services(host: str) -> bool:
    """Tell whether a host is a pattern that Services of the mesh can match (``*``, ``*.shop.svc.cluster.local``)."""
    return host.startswith("*") and (
        host in ("*", "*.") or MESH_DOMAIN.endswith(host[2:]) or host.endswith(MESH_DOMAIN)
    )


def qualify(host: str, namespace: str) -> str:
    """Return the host that a short name means in a namespace, as Istio reads it.

    A name without dots is a Service of that namespace; ``name.ns.svc`` is completed as well, which
    Istio leaves to DNS; anything else stands as it is. A dot at the end says nothing: requests lose theirs as well.
    """
    host = host.lower().removesuffix(".")
    if host.startswith("*"):
        return host
    labels = host.split(".")
    if len(labels) == 1:
        return host_of(namespace, host)
    if len(labels) == 3 and labels[2] == "svc":
        return f"{host}.cluster.local"
    return host


def entry_host(host: str) -> str:
    """Return the host that a ServiceEntry's host means: it is never short, only ``name.ns.svc`` is completed."""
    return qualify(host, "") if host.count(".") == 2 else host


def entry_hosts(found: object) -> tuple[str, ...]:
    """Return the hosts of a ServiceEntry in the form in which they are known."""
    return tuple(map(entry_host, found.hosts)) if isinstance(found, ServiceEntry) else ()


def age(found: Aged) -> tuple[str, str, str]:
    """Order objects oldest first, then by name: the rule that settles every conflict (Gateway API's, and Istio's)."""
    return (found.meta.created or "9999", found.meta.namespace, found.meta.name)


def route_hosts(found: object) -> tuple[str, ...]:
    """Return the qualified hosts of a VirtualService that applies to sidecars, else nothing.

    ``name.ns`` beside that Service's full host is another word for it, as controllers list all forms of a name.
    """
    if not isinstance(found, VirtualService) or "mesh" not in found.gateways:
        return ()
    hosts = dict.fromkeys(qualify(host, found.meta.namespace) for host in found.hosts)
    return tuple(host for host in hosts if f"{host}.{MESH_DOMAIN}" not in hosts)


def source_label_keys(found: VirtualService | None) -> list[str]:
    """Return the keys of every ``sourceLabels`` of a VirtualService, one for each time it stands there."""
    if found is None:
        return []
    return [key for rule in found.http for match in rule.matches for key, _ in match.source_labels]


def rule_hosts(found: object) -> tuple[str, ...]:
    """Return the qualified host of a DestinationRule."""
    return (qualify(found.host, found.meta.namespace),) if isinstance(found, DestinationRule) else ()


def visible(export_to: tuple[str, ...], owner: str, client: str) -> bool:
    """Tell whether an object of namespace ``owner`` with this ``exportTo`` applies to clients of another."""
    return "*" in export_to or client in export_to or ("." in export_to and owner == client)


def wildcard_levels(index: Index[Named], host: str) -> list[list[Named]]:
    """Return what stands under each pattern that covers a host, the most specific first, oldest first within."""
    found = (index.get(pattern) for pattern in _wildcards(host))
    return [sorted(level.values(), key=age) for level in found if level]


def nearest(index: Index[Named], host: str) -> list[Named]:
    """Return what each namespace has under its most specific pattern for a host, oldest first.

    One namespace's object never hides another's: who goes by which is decided in ``compile``.
    """
    found: dict[str, list[Named]] = {}
    for pattern in (host, *_wildcards(host)):
        here: dict[str, list[Named]] = {}
        for (namespace, _), named in index.get(pattern, {}).items():
            here.setdefault(namespace, []).append(named)
        found = here | found
    return sorted((named for level in found.values() for named in level), key=age)


def _wildcards(host: str) -> Iterator[str]:
    """Walk ``*.b.c``, ``*.c``, ``*``."""
    rest = host
    while rest:
        _, dot, rest = rest.partition(".")
        yield f"*.{rest}" if dot else "*"
