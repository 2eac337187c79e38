"""Providers as a sidecar calls them: the cluster of a provider's service, in the protocol that the provider speaks.

Every answer is a cluster, an empty one where there is no such service, so that a listener may always name it; this
module must never know who uses a provider, nor change what applications get under the service's own name.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from xds import ir
from xds.api.core import Protocol
from xds.api.istio_entry import ServiceEntry
from xds.api.mesh import MeshSettings
from xds.api.provider_fields import ProviderService
from xds.api.providers import (
    ExtAuthzGrpc,
    OpenTelemetry,
    OtelAccessLog,
    Provider,
    RateLimitService,
    service_of_provider,
)
from xds.compile.clusters import Shape, clusters, shapes
from xds.compile.entries import entry_of, nodes
from xds.compile.lens import Lens
from xds.fields import Problem, Severity
from xds.hosts import age, qualify, service_of, visible
from xds.resources import names


def provider_cluster(lens: Lens, provider: Provider, namespace: str) -> ir.Cluster | None:
    """Return the cluster by which proxies of a namespace call a provider, None for one that calls nothing.

    Put it into the layer of whoever names it (``Sidecar.clusters``, ``Outbound.clusters``): such a cluster is pushed,
    no application has to dial it. It has no endpoints while the service is unknown, or hidden from the namespace.
    """
    at = service_of_provider(provider)
    return None if at is None else service_cluster(lens, at, namespace, is_grpc=speaks_grpc(provider))


def provider_name(provider: Provider) -> str:
    """Return the name of ``provider_cluster``'s cluster, empty for a provider that calls nothing."""
    at = service_of_provider(provider)
    is_grpc = speaks_grpc(provider)
    return "" if at is None else names.provider_cluster(at.port, _host(at), is_grpc=is_grpc)


def speaks_grpc(provider: Provider) -> bool:
    """Tell whether a provider is called over gRPC, else over HTTP."""
    match provider:
        case ExtAuthzGrpc() | OtelAccessLog() | RateLimitService():
            return True
        case OpenTelemetry():
            return not provider.http_path
        case _:
            return False


def service_cluster(lens: Lens, at: ProviderService, namespace: str, *, is_grpc: bool) -> ir.Cluster:
    """Return the cluster by which proxies of a namespace call a port of a Service or ServiceEntry on their own.

    It has the service's endpoints, its mutual TLS and the DestinationRules that hold for the namespace.
    """
    host = _host(at)
    name = names.provider_cluster(at.port, host, is_grpc=is_grpc)
    found = _of_service(lens, at, host, namespace) or _of_entry(lens, at, host, namespace)
    protocol = Protocol.GRPC if is_grpc else Protocol.HTTP
    if found is None:
        nothing = ir.Discovery.STATIC
        return ir.Cluster(name, host, "", host, at.port, "", protocol, ir.Plaintext(), discovery=nothing)
    shared = found.name if found.discovery is ir.Discovery.EDS else ""
    return replace(found, name=name, protocol=protocol, assignment=shared)


def is_called(settings: MeshSettings, name: names.ClusterName) -> bool:
    """Tell whether a cluster is that of a provider's service: such endpoints are shown to every proxy."""
    called = filter(None, map(service_of_provider, settings.providers))
    return not name.subset and any(at.port == name.port and _host(at) == name.host for at in called)


def check_providers(lens: Lens) -> Iterator[Problem]:
    """Yield what is wrong with the providers of the mesh settings in the present world."""
    settings = lens.settings
    subject = f"ConfigMap {settings.meta.namespace}/{settings.meta.name}"
    for index, provider in enumerate(settings.providers):
        at = service_of_provider(provider)
        if at is None:
            continue
        found = _of_service(lens, at, _host(at), "") or _of_entry(lens, at, _host(at), "")
        if found is None:
            reason = f"{at} port {at.port}, of provider {provider.name}, is no port of a known Service or ServiceEntry"
            path = f"data.mesh.extensionProviders[{index}]"
            yield Problem(Severity.WARNING, subject, path, reason)


def _host(at: ProviderService) -> str:
    """Return the host in full: Istio wants it so, and completes ``name.ns.svc`` nowhere."""
    return qualify(at.host, at.namespace) if at.namespace else qualify(at.host, "default")


def _of_service(lens: Lens, at: ProviderService, host: str, namespace: str) -> ir.Cluster | None:
    owner = service_of(host)
    if owner is None or (at.namespace and at.namespace != owner[0]):
        return None
    service = lens.service(owner)
    if service is None or (namespace and not visible(service.export_to, owner[0], namespace)):
        return None
    seen = shapes(lens, owner, {})
    shape = seen.get(namespace, seen[""])
    whole = clusters(lens, owner, Shape(shape.policy, (), shape.rules))
    return next((cluster for cluster in whole if cluster.port == at.port), None)


def _of_entry(lens: Lens, at: ProviderService, host: str, namespace: str) -> ir.Cluster | None:
    entry = _entry(lens, at, host, namespace)
    found = nodes(lens, entry, host, namespace, redirected=False) if entry else ()
    return next((cluster for cluster in found if cluster.port == at.port and not cluster.subset), None)


def _entry(lens: Lens, at: ProviderService, host: str, namespace: str) -> ServiceEntry | None:
    if not at.namespace:
        return entry_of(lens, host, namespace)
    own = [entry for entry in lens.entries(host) if entry.meta.namespace == at.namespace]
    usable = [entry for entry in own if visible(entry.export_to, at.namespace, namespace)]
    return min(usable, key=age, default=None)
