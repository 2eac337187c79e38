"""Which security policies hold for a Pod, as the rules that stand in front of its application.

It must never let a policy that cannot be understood open anything: what denies then denies more, what allows less.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from msgspec import structs

from xds import ir
from xds.access import Access, Asked, Issuer, Named, closed_allow, closed_deny
from xds.api.conditions import Attribute, Condition
from xds.api.core import Pod, Protocol, Service
from xds.api.istio_authorization import Action, Alternative, AuthorizationPolicy, Rule
from xds.api.istio_jwt import JwksUri, RequestAuthentication
from xds.api.provider_fields import ProviderService
from xds.api.providers import ExtAuthzGrpc, ExtAuthzHttp
from xds.compile.lens import Lens
from xds.compile.providers import provider_cluster, provider_name, service_cluster
from xds.hosts import service_of
from xds.indexes.guards import Guard, holds
from xds.resources import names

_LOCAL = "cluster.local/"
"""How Istio lets a principal begin that means the mesh's own trust domain, whatever that is."""


@dataclass(frozen=True, slots=True)
class Guarded:
    """Who may come in to a Pod (None: no policy says anything), and the clusters of those who are asked for that."""

    access: Access | None = None
    clusters: tuple[ir.Cluster, ...] = ()


def access(lens: Lens, pod: Pod, selecting: list[Service]) -> Guarded:
    """Return what a Pod's ports are guarded by."""
    found = _Found(lens, pod.meta.namespace)
    for guard in guards_of(lens, pod, selecting):
        found.take(guard)
    return Guarded(found.access(), tuple(found.clusters.values()))


def guards_of(lens: Lens, pod: Pod, selecting: list[Service]) -> Iterator[Guard]:
    """Yield the policies that hold for a Pod, the root namespace's first."""
    services = [service.meta.name for service in selecting]
    for namespace in dict.fromkeys((lens.root_namespace, pod.meta.namespace)):
        own = services if namespace == pod.meta.namespace else []
        for guard in lens.guards(namespace):
            if holds(guard, pod.meta.labels, own):
                yield guard


def keys_cluster(lens: Lens, uri: JwksUri, namespace: str) -> ir.Cluster:
    """Return the cluster by which proxies of a namespace fetch keys.

    A Service of the mesh is called as any other; a host outside is found in DNS, and vouched for by the public
    authorities that the sidecar's image trusts.
    """
    owner = service_of(uri.host)
    if not uri.is_tls and owner is not None and lens.service(owner) is not None:
        return service_cluster(lens, ProviderService(uri.host, uri.port), namespace, is_grpc=False)
    tls = ir.OriginateTls(uri.host, (uri.host,), "", "", "", insecure_skip_verify=False)
    return ir.Cluster(
        name=names.jwks_cluster(uri.port, uri.host),
        host=uri.host,
        namespace="",
        service=uri.host,
        port=uri.port,
        subset="",
        protocol=Protocol.HTTP,
        tls=tls if uri.is_tls else ir.Plaintext(),
        discovery=ir.Discovery.STRICT_DNS,
        endpoints=(ir.Endpoint(uri.host, uri.port, "", "", mtls=False),),
    )


@dataclass(slots=True)
class _Found:
    """The rules found so far."""

    lens: Lens
    namespace: str
    clusters: dict[str, ir.Cluster] = field(default_factory=dict[str, ir.Cluster])
    issuers: list[Issuer] = field(default_factory=list[Issuer])
    unverified: list[Named] = field(default_factory=list[Named])
    asked: dict[str, list[Named]] = field(default_factory=dict[str, list[Named]])
    deny: list[Named] = field(default_factory=list[Named])
    allow: list[Named] = field(default_factory=list[Named])
    audit: list[Named] = field(default_factory=list[Named])
    tried_deny: list[Named] = field(default_factory=list[Named])
    tried_allow: list[Named] = field(default_factory=list[Named])
    allowing: list[str] = field(default_factory=list[str])
    tries_to_allow: bool = False
    is_any: bool = False

    def take(self, guard: Guard) -> None:
        """Add one policy's rules."""
        self.is_any = True
        match guard:
            case AuthorizationPolicy():
                self._take_policy(guard)
            case RequestAuthentication():
                self._take_issuers(guard)

    def _take_issuers(self, found: RequestAuthentication) -> None:
        name = f"RequestAuthentication/{found.meta.namespace}/{found.meta.name}"
        if found.is_unreadable:
            self.unverified.append(Named(f"{name}/0", Rule()))
        for index, rule in enumerate(found.rules):
            cluster = ""
            if rule.uri is not None:
                node = keys_cluster(self.lens, rule.uri, self.namespace)
                cluster = node.name
                self.clusters[cluster] = node
            self.issuers.append(Issuer(f"{name}/{index}", rule, cluster))

    def _take_policy(self, policy: AuthorizationPolicy) -> None:
        match policy.action, policy.dry_run:
            case Action.ALLOW, False:
                self.allowing.append(f"AuthorizationPolicy/{policy.meta.namespace}/{policy.meta.name}")
                self.allow += self._allowing(policy)
            case Action.ALLOW, True:
                self.tries_to_allow = True
                self.tried_allow += self._allowing(policy)
            case Action.AUDIT, _:
                self.audit += self._denying(policy)
            case Action.CUSTOM, False if self._provider(policy.provider) is not None:
                self.asked.setdefault(policy.provider, []).extend(self._denying(policy))
            case _, True:
                self.tried_deny += self._denying(policy)
            case _:  # CUSTOM as well, where nobody can be asked
                self.deny += self._denying(policy)

    def access(self) -> Access | None:
        """Return all of it."""
        if not self.is_any:
            return None
        return Access(
            issuers=tuple(self.issuers),
            unverified=tuple(self.unverified),
            asked=tuple(self._asked()),
            deny=tuple(self.deny),
            allow=tuple(self.allow) if self.allowing else None,
            audit=tuple(self.audit),
            tried_deny=tuple(self.tried_deny),
            tried_allow=tuple(self.tried_allow) if self.tries_to_allow else None,
            allowing=tuple(self.allowing),
        )

    def _provider(self, name: str) -> ExtAuthzHttp | ExtAuthzGrpc | None:
        found = self.lens.settings.provider(name)
        return found if isinstance(found, ExtAuthzHttp | ExtAuthzGrpc) else None

    def _asked(self) -> Iterator[Asked]:
        for name, rules in sorted(self.asked.items()):
            provider = self._provider(name)
            if provider is None:
                continue
            cluster = provider_cluster(self.lens, provider, self.namespace)
            if cluster is not None:
                self.clusters[cluster.name] = cluster
            yield Asked(provider, provider_name(provider), tuple(rules))

    def _allowing(self, policy: AuthorizationPolicy) -> Iterator[Named]:
        for named in self._rules(policy):
            rule = closed_allow(named.rule)
            if rule is not None:
                yield Named(named.name, rule)

    def _denying(self, policy: AuthorizationPolicy) -> Iterator[Named]:
        return (Named(named.name, closed_deny(named.rule)) for named in self._rules(policy))

    def _rules(self, policy: AuthorizationPolicy) -> Iterator[Named]:
        for index, rule in enumerate(policy.rules):
            name = f"AuthorizationPolicy/{policy.meta.namespace}/{policy.meta.name}/{index}"
            yield Named(name, self._at_home(rule))

    def _at_home(self, rule: Rule) -> Rule:
        """Return a rule whose principals of ``cluster.local`` are those of the mesh's trust domain."""
        return Rule(
            sources=tuple(self._renamed(part) for part in rule.sources),
            operations=rule.operations,
            when=self._renamed(rule.when),
        )

    def _renamed(self, part: Alternative) -> Alternative:
        return tuple(self._principals(found) for found in part)

    def _principals(self, found: Condition) -> Condition:
        if found.attribute is not Attribute.PRINCIPAL:
            return found
        return structs.replace(
            found, values=self._local(found.values), not_values=self._local(found.not_values)
        )

    def _local(self, values: Iterable[str]) -> tuple[str, ...]:
        mine = f"{self.lens.trust_domain}/"
        return tuple(mine + text.removeprefix(_LOCAL) if text.startswith(_LOCAL) else text for text in values)
