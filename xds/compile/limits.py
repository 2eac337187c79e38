"""Which limits hold for an inbound port, and what of a RateLimit has no effect in the present world.

A limit of the Pods goes before one of the Service, which goes before its annotation, which goes before one of the
namespace, each for what it says itself; of two of one level the oldest holds. It must never add up two objects.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from xds import ir
from xds.api.core import Pod, Service, ServicePort, selects
from xds.api.providers import RateLimitService
from xds.api.rate_limit import Ceiling, RateLimit, Target, annotated
from xds.compile.clusters import policy_of, shape_of
from xds.compile.lens import Lens
from xds.compile.providers import provider_cluster, provider_name
from xds.features.connection_pool import ConnectionPool
from xds.features.shared_limit import Service as Asked
from xds.features.shared_limit import Shared
from xds.fields import Problem, Severity
from xds.hosts import Name, host_of

Served = tuple[tuple[Service, ServicePort], ...]
"""The ports of Services behind which a container's port stands."""


@dataclass(frozen=True, slots=True)
class _Said:
    """Limits, and the object that says them."""

    subject: str
    ceiling: Ceiling


def served(services: Iterable[Service], port: int, name: str) -> Served:
    """Return the ports of Services that target a container port, by its number or name."""
    return tuple(
        (service, found)
        for service in services
        for found in service.ports
        if port == (found.target or found.port) or (isinstance(found.target, str) and found.target == name)
    )


def limits(lens: Lens, pod: Pod, ports: Served) -> ir.Limits | None:
    """Return what holds for a port of a Pod, None for no limit at all."""
    levels = list(_levels(lens, pod, ports))
    ruling = next((said for said in levels if said.ceiling.rules is not None), None)
    rules = ruling.ceiling.rules if ruling is not None else None
    named = tuple((f"{ruling.subject}/{i}", rule) for i, rule in enumerate(rules or ())) if ruling else ()
    stated = next((said.ceiling.concurrency for said in levels if said.ceiling.concurrency is not None), 0)
    at_once = [most for most in (stated, *_pools(lens, ports)) if most]
    found = ir.Limits(named, min(at_once, default=0))
    asking = next((said for said in levels if said.ceiling.shared is not None), None)
    if asking is not None and (shared := asking.ceiling.shared) is not None:
        return replace(
            found, asked=_asked(lens, shared), descriptors=shared.descriptors, asked_by=asking.subject
        )
    return None if found == ir.Limits() else found


def _asked(lens: Lens, shared: Shared) -> Asked:
    """Return where a provider is asked; one that the mesh settings do not name is one that never answers."""
    provider = _provider(lens, shared.provider)
    if provider is None:
        return Asked(
            f"unknown|{shared.provider}", shared.provider, 1, fail_open=shared.fail_open is not False
        )
    fails_open = provider.fail_open if shared.fail_open is None else shared.fail_open
    return Asked(provider_name(provider), provider.domain, provider.timeout_ms, fail_open=fails_open)


def _provider(lens: Lens, name: str) -> RateLimitService | None:
    found = (one for one in lens.settings.providers if one.name == name)
    return next((one for one in found if isinstance(one, RateLimitService)), None)


def asked_clusters(lens: Lens, namespace: str, ports: Iterable[ir.Inbound]) -> Iterator[ir.Cluster]:
    """Yield the clusters of the services that are asked about requests to these ports, each once."""
    wanted = {port.limits.asked.cluster for port in ports if port.limits and port.limits.asked}
    for provider in lens.settings.providers if wanted else ():
        if isinstance(provider, RateLimitService) and provider_name(provider) in wanted:
            cluster = provider_cluster(lens, provider, namespace)
            if cluster is not None:
                wanted.discard(cluster.name)
                yield cluster


def _levels(lens: Lens, pod: Pod, ports: Served) -> Iterator[_Said]:
    """Yield all that speak of a port, the most specific first."""
    found = lens.limits(pod.meta.namespace)
    yield from (_said(one) for one in found if one.target is Target.PODS and _takes(one, pod))
    names = {service.meta.name for service, _ in ports}
    yield from (_said(one) for one in found if one.target is Target.SERVICE and one.service in names)
    for service, _ in ports:
        ceiling = annotated(service)
        if ceiling is not None:
            yield _Said(f"Service/{service.meta.namespace}/{service.meta.name}", ceiling)
    yield from (_said(one) for one in found if one.target is Target.NAMESPACE)


def _said(found: RateLimit) -> _Said:
    return _Said(f"RateLimit/{found.meta.namespace}/{found.meta.name}", found.ceiling)


def _takes(found: RateLimit, pod: Pod) -> bool:
    return selects(found.selector, pod.meta.labels)


def _pools(lens: Lens, ports: Served) -> Iterator[int]:
    """Yield how many requests at once each Service's DestinationRule allows, as its own namespace sees it."""
    for service, port in ports:
        owner, name = service.meta.namespace, service.meta.name
        policy = policy_of(shape_of(lens, host_of(owner, name), owner, owner), None, port.port)
        yield from (pool.max_requests for pool in policy.features if isinstance(pool, ConnectionPool))


# -- what has no effect ------------------------------------------------------------------------


def check_limit(lens: Lens, name: Name) -> tuple[Problem, ...]:
    """Return what of a RateLimit has no effect in the present world, nothing when it is gone."""
    found = lens.limit(name)
    return () if found is None else (*_overruled(lens, found), *_nobody(lens, found), *_unasked(lens, found))


def _overruled(lens: Lens, found: RateLimit) -> Iterator[Problem]:
    """Tell of the parts that an older one for the same target says."""
    for field, name in (("rules", "rules"), ("concurrency", "concurrency"), ("shared", "global")):
        if getattr(found.ceiling, field) is None:
            continue
        rivals = [
            one
            for one in lens.limits(found.meta.namespace)
            if (one.target, one.service, one.selector) == (found.target, found.service, found.selector)
            and getattr(one.ceiling, field) is not None
        ]
        if rivals[0].meta.name != found.meta.name:
            older = f"{rivals[0].meta.namespace}/{rivals[0].meta.name}"
            reason = (
                f"has no effect: the older RateLimit {older} holds for the same target; remove one of them"
            )
            yield _problem(found, f"spec.{name}", reason)


def _unasked(lens: Lens, found: RateLimit) -> Iterator[Problem]:
    shared = found.ceiling.shared
    if shared is not None and _provider(lens, shared.provider) is None:
        effect = "requests are refused" if shared.fail_open is False else "nothing is limited by it"
        reason = f"no ratelimit provider {shared.provider} is among the mesh's extensionProviders: {effect}"
        yield Problem(Severity.ERROR, _subject(found), "spec.global.provider", reason)


def _nobody(lens: Lens, found: RateLimit) -> Iterator[Problem]:
    namespace = found.meta.namespace
    match found.target:
        case Target.SERVICE:
            service = lens.service((namespace, found.service))
            if service is None:
                yield _problem(
                    found, "spec.targetRef.name", f"there is no Service {namespace}/{found.service}"
                )
            elif not any(port.protocol.is_http for port in service.ports):
                reason = f"has no effect: no port of Service {namespace}/{found.service} speaks HTTP"
                yield _problem(found, "spec.targetRef.name", reason)
        case Target.PODS:
            if not any(selects(found.selector, labels) for labels, _ in lens.pod_forms(namespace)):
                yield _problem(
                    found, "spec.selector.matchLabels", f"no Pod of namespace {namespace} has them"
                )
        case Target.NAMESPACE:
            pass


def _subject(found: RateLimit) -> str:
    return f"RateLimit {found.meta.namespace}/{found.meta.name}"


def _problem(found: RateLimit, path: str, reason: str) -> Problem:
    return Problem(Severity.WARNING, _subject(found), path, reason)
