"""Which services do not answer a sidecar, by name and with the objects because of which it asks them, each once.

It owns the way from a counter of failures to a provider or an issuer of keys; it must never count anything itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from xds.access import OPEN, policy_of
from xds.api.core import Pod, selects
from xds.api.providers import RateLimitService, service_of_provider
from xds.api.rate_limit import RateLimit, Target
from xds.compile.access import access
from xds.compile.lens import Lens
from xds.compile.providers import provider_name
from xds.hosts import Name
from xds.report import SilentService
from xds.resources.parts import stat_name
from xds.traffic import otlp
from xds.traffic.silences import KINDS, Heard, Silence


@dataclass(frozen=True, slots=True)
class _Asked:
    """Somebody whom a Pod's sidecar asks about requests: the counter of failures, the cluster, and who wants it."""

    metric: str
    cluster: str
    name: str
    object: str


def unanswered(lens: Lens, name: Name, heard: Mapping[Heard, Silence]) -> Iterator[SilentService]:
    """Yield the services that have lately not answered the sidecar of a Pod, those that decide requests first."""
    if not heard:
        return
    found = lens.pod(name)
    asked = list(_asked(lens, found[0])) if found is not None else []
    cut_off = {cluster: one for (metric, cluster), one in heard.items() if metric == otlp.PROVIDER_ERRORS}
    for metric, kind in KINDS.items():
        mine = [one for one in asked if one.metric == metric]
        # Of several, those that take no connection; all of them where each does, and one of them just says nothing.
        named = [one for one in mine if stat_name(one.cluster) in cut_off] or mine
        counted = heard.get((metric, "")) or max(
            (cut_off[stat_name(one.cluster)] for one in named if stat_name(one.cluster) in cut_off),
            key=lambda one: one.last_s,
            default=None,
        )
        if counted is not None:
            yield _told(kind, counted, {one.name for one in named}, {one.object for one in named})
    known = {stat_name(one.cluster) for one in asked}
    for cluster, one in sorted(cut_off.items()):
        if cluster not in known:
            yield _of_provider(lens, cluster, one)


def _of_provider(lens: Lens, cluster: str, heard: Silence) -> SilentService:
    """Return what is told of a cluster of a provider that is not asked about requests, such as a collector."""
    names = set[str]()
    for provider in lens.settings.providers:
        at = service_of_provider(provider)
        if at is not None and stat_name(provider_name(provider)) == cluster:
            names.add(f"{provider.name} ({at}:{at.port})")
    settings = lens.settings.meta
    objects = {f"ConfigMap {settings.namespace}/{settings.name}"} if names else set[str]()
    return _told("extension provider", heard, names or {cluster}, objects)


def _told(kind: str, heard: Silence, names: set[str], objects: set[str]) -> SilentService:
    return SilentService(kind, heard.times, heard.last_s, " or ".join(sorted(names)), tuple(sorted(objects)))


def _asked(lens: Lens, pod: Pod) -> Iterator[_Asked]:
    """Yield everybody whom a Pod's sidecar asks about requests, once for each object that wants it."""
    services = lens.services_selecting(pod)
    guards = access(lens, pod, services).access or OPEN
    for asked in guards.asked:
        at = asked.provider.service
        for named in asked.rules:
            subject = _object(named.name)
            yield _Asked(
                otlp.AUTHORIZER_ERRORS, asked.cluster, f"{asked.provider.name} ({at}:{at.port})", subject
            )
    for issuer in guards.issuers:
        if issuer.rule.uri is not None:
            yield _Asked(otlp.KEY_ERRORS, issuer.cluster, issuer.rule.uri.uri, _object(issuer.name))
    names = {service.meta.name for service in services}
    for limit in lens.limits(pod.meta.namespace):
        shared = limit.ceiling.shared
        if shared is not None and _holds(limit, pod, names):
            for provider in lens.settings.providers:
                if provider.name == shared.provider and isinstance(provider, RateLimitService):
                    at = provider.service
                    yield _Asked(
                        otlp.LIMITER_ERRORS,
                        provider_name(provider),
                        f"{provider.name} ({at}:{at.port})",
                        f"RateLimit {limit.meta.namespace}/{limit.meta.name}",
                    )


def _holds(limit: RateLimit, pod: Pod, services: set[str]) -> bool:
    match limit.target:
        case Target.NAMESPACE:
            return True
        case Target.SERVICE:
            return limit.service in services
        case Target.PODS:
            return selects(limit.selector, pod.meta.labels)


def _object(rule: str) -> str:
    return "{} {}/{}".format(*policy_of(rule))
