"""The world as the compiler asks for it: services, the pods behind them, the rules and policies in force.

It owns the indexes over the stored objects and says which *topics* a change touches, so that
only what read a topic (``topics``) is compiled again. It must never build configuration, and an answer
must never depend on the order in which objects arrived.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from msgspec import structs

from xds.api.core import EndpointSlice, Key, Labels, Namespace, Pod, Service, selects
from xds.api.istio_security import MtlsMode, PeerAuthentication
from xds.api.istio_sidecar import Sidecar
from xds.api.istio_traffic import DestinationRule, VirtualService
from xds.api.mesh import MeshSettings
from xds.backend import NOBODY, Backend
from xds.hosts import (
    Name,
    age,
    covers_services,
    nearest,
    route_hosts,
    rule_hosts,
    service_of,
    source_label_keys,
    wildcard_levels,
)
from xds.indexes.ceilings import Ceilings
from xds.indexes.entries import Entries
from xds.indexes.expiring import Faults
from xds.indexes.forms import PodForms
from xds.indexes.guards import Guards
from xds.indexes.members import Members
from xds.indexes.modes import Modes, modes_of, scope_mode
from xds.indexes.owners import Owners
from xds.indexes.ports import Ports
from xds.indexes.telemetries import Telemetries
from xds.indexes.terrain import Ranges, Terrain
from xds.indexes.visibility import Sidecars
from xds.inject import wants_sidecar
from xds.sources.store import Change
from xds.topics import Topic

T = TypeVar("T")

Taker = Callable[[Key, object, object], set[Topic]]
"""Takes the old and the new version of one object into the indexes."""


def _by_name(take: Callable[[Name, object, object], set[Topic]]) -> Taker:
    """Return a taker that needs of a key no more than namespace and name."""
    return lambda key, old, new: take((key.namespace, key.name), old, new)


SHARED_SPARE = 1024
"""Meanings that no Pod has any more and that are kept for reuse: a rollout ends and begins hundreds at once."""


class World:
    """Indexes over the objects in force; every query is O(answer)."""

    def __init__(
        self, settings: MeshSettings | None = None, *, has_keys: bool = True, sees_sidecars: bool = False
    ) -> None:
        self.settings = settings or MeshSettings()
        self.sees_sidecars = sees_sidecars
        """Whether Pods show their sidecars, as in a cluster; else a Pod is as injection would make it."""
        self.has_keys = has_keys
        """Whether this control plane hands out certificates; without them (`--insecure`) no hop can be TLS."""
        self.wanted_trust_domain = self.settings.trust_domain
        """What the settings say; `settings` holds what is in force."""
        self._pinned_trust_domain = ""
        self._services: dict[Name, Service] = {}
        self._pods: dict[Name, Pod] = {}
        self._namespaces: dict[str, Namespace] = {}
        self._members = Members(self.backend)
        self._owners = Owners(self._services, self._pods)
        self._terrain = Terrain()
        self.entries = Entries()
        self.sidecars = Sidecars()
        self.ceilings = Ceilings()
        self.telemetries = Telemetries()
        self.faults = Faults()
        self.ports = Ports()
        self._aliases: set[Name] = set()
        self._services_in: defaultdict[str, set[str]] = defaultdict(set)
        self._virtual_services: dict[Name, VirtualService] = {}
        self._claims: defaultdict[str, dict[Name, VirtualService]] = defaultdict(dict)
        self._in_force: dict[Name, VirtualService] = {}
        self._routes: defaultdict[str, dict[Name, VirtualService]] = defaultdict(dict)
        self._label_uses: Counter[str] = Counter()
        self.source_labels: frozenset[str] = frozenset()
        """The Pod labels that some route in force asks for (``sourceLabels``)."""
        self._rules: defaultdict[str, dict[Name, DestinationRule]] = defaultdict(dict)
        self._policies: defaultdict[str, dict[str, PeerAuthentication]] = defaultdict(dict)
        self._broken_policies: set[Key] = set()
        self.forms = PodForms()
        self.guards = Guards()
        self._backends: dict[Name, Backend] = {}
        self._shared: dict[Backend, Backend] = {}
        self._takers: dict[str, Taker] = {
            "Service": self._take_service,
            "EndpointSlice": self._members.take,
            "Pod": self._take_pod,
            "Namespace": self._take_namespace,
            "VirtualService": self._take_virtual_service,
            "DestinationRule": self._take_rule,
            "PeerAuthentication": self._take_policy,
            "ConfigMap": self._take_settings,
            "Node": self._take_node,
            **dict.fromkeys(("AuthorizationPolicy", "RequestAuthentication"), self.guards.take),
            "ServiceCIDR": lambda _, old, new: self._terrain.take_service_cidr(old, new),
        }
        indexes = (self.entries, self.sidecars, self.ceilings, self.telemetries, self.faults)
        self._takers |= {found.KIND: _by_name(found.take) for found in indexes}

    # -- queries ---------------------------------------------------------------------------

    def service(self, name: Name) -> Service | None:
        """Return a Service."""
        return self._services.get(name)

    def services(self) -> Iterable[Name]:
        """Return the names of all Services."""
        return self._services.keys()

    def namespace(self, name: str) -> Namespace | None:
        """Return a Namespace."""
        return self._namespaces.get(name)

    def aliases(self) -> list[Name]:
        """Return the names of all ExternalName Services, sorted."""
        return sorted(self._aliases)

    def pod(self, name: Name) -> Pod | None:
        """Return a Pod."""
        return self._pods.get(name)

    def pods(self) -> Iterable[Name]:
        """Return the names of all Pods."""
        return self._pods.keys()

    def policies(self, namespace: str) -> list[PeerAuthentication]:
        """Return the PeerAuthentications of a namespace, oldest first."""
        return sorted(self._policies.get(namespace, {}).values(), key=age)

    def slices(self, service: Name) -> list[EndpointSlice]:
        """Return a Service's slices, sorted by name."""
        return self._members.slices(service)

    def accounts(self, service: Name) -> tuple[str, ...]:
        """Return the service accounts (``ns/name``) of the Pods behind a Service, sorted."""
        return self._members.accounts(service)

    def services_of(self, pod: Name) -> list[Name]:
        """Return the Services in whose slices a Pod stands, sorted."""
        return self._members.services(pod)

    def by_address(self, ip: str) -> Service | Pod | None:
        """Return whose an address is: a Service's cluster IP, a Pod's own, None for what is in neither."""
        return self._owners.of(ip)

    def zone(self, pod: Name) -> str:
        """Return a Pod's zone: as its labels say, else its Node's, empty where neither tells."""
        found = self._pods.get(pod)
        return self._terrain.zone(found) if found else ""

    def scope_of(self, namespace: str, labels: Labels) -> Sidecar | None:
        """Return the Sidecar that holds for Pods of a namespace with these labels, None where none does."""
        return self.sidecars.holding(namespace, labels, self.settings.root_namespace)

    def cidrs(self) -> tuple[Ranges, Ranges]:
        """Return where cluster IPs and Pods' addresses come from, as the settings say, else the cluster."""
        return self._terrain.cidrs(self.settings)

    def services_selecting(self, pod: Pod) -> list[Service]:
        """Return the Services of the Pod's namespace whose selector holds for it, sorted by name."""
        namespace = pod.meta.namespace
        found = (self._services[namespace, name] for name in sorted(self._services_in[namespace]))
        return [s for s in found if s.selector and selects(s.selector, pod.meta.labels)]

    def backend(self, pod: Name) -> Backend:
        """Return what a Pod means to its callers; computed once until something it depends on changes.

        Replicas mean the same and share one value, so that who walks over them can compare by identity.
        """
        known = self._backends.get(pod)
        if known is None:
            if len(self._shared) > 2 * len(self._backends) + SHARED_SPARE:
                self._shared.clear()
            found = self._read_backend(pod)
            if found is NOBODY:
                return NOBODY  # not remembered: names of Pods that are gone never end
            known = self._backends[pod] = self._shared.setdefault(found, found)
        return known

    @property
    def meanings(self) -> int:
        """The number of Pods whose meaning is remembered."""
        return len(self._backends)

    def virtual_service(self, name: Name) -> VirtualService | None:
        """Return a VirtualService as last written, whether or not it is in force."""
        return self._virtual_services.get(name)

    def claims(self, host: str) -> list[VirtualService]:
        """Return the VirtualServices written for exactly this host, oldest first."""
        return sorted(self._claims.get(host, {}).values(), key=age)

    def is_foreign(self, host: str) -> bool:
        """Tell whether routes in force or ServiceEntries name a host that is no Service, nor a pattern of Services."""
        service = service_of(host)
        is_service = service is not None and service in self._services
        is_named = bool(self._routes.get(host)) or bool(self.entries.of(host))
        return is_named and not is_service and not covers_services(host)

    def routes(self, host: str) -> list[VirtualService]:
        """Return the VirtualServices in force for exactly this host, oldest first."""
        return sorted(self._routes.get(host, {}).values(), key=age)

    def wildcard_routes(self, host: str) -> list[list[VirtualService]]:
        """Return those of each wildcard that covers this host, the most specific first, oldest first."""
        return wildcard_levels(self._routes, host)

    def foreign_hosts(self) -> Iterator[str]:
        """Yield every host for which ``is_foreign`` holds, each once."""
        return (host for host in {*self._routes, *self.entries.hosts()} if self.is_foreign(host))

    def rules(self, host: str) -> list[DestinationRule]:
        """Return each namespace's DestinationRules of the most specific host that covers this one, oldest first."""
        return nearest(self._rules, host)

    # -- changes ---------------------------------------------------------------------------

    def apply(self, change: Change) -> set[Topic]:
        """Take one change into the indexes; return the topics it touches."""
        take = self._takers.get(change.key.kind)
        return take(change.key, change.old, change.new) if take else set()

    def pin_trust_domain(self) -> None:
        """Keep the trust domain from here on: certificates are out that say it."""
        self._pinned_trust_domain = self.settings.trust_domain

    def accept(self, name: Name, new: VirtualService | None) -> set[Topic]:
        """Put a version of a VirtualService in force (None: none any more); return the topics it touches."""
        old = self._in_force.get(name)
        if old == new:
            return set()
        if new is None:
            del self._in_force[name]
        else:
            self._in_force[name] = new
        self._label_uses.subtract(source_label_keys(old))
        self._label_uses.update(source_label_keys(new))
        self._label_uses += Counter()  # keeps what is above zero
        self.source_labels = frozenset(self._label_uses)
        return self._index_hosts("routes", self._routes, name, route_hosts(old), route_hosts(new), new)

    def fail_closed(self, broken: Iterable[Key]) -> set[Topic]:
        """Set which PeerAuthentications exist but could never be read: their namespace is STRICT until they can."""
        now = {key for key in broken if key.kind == "PeerAuthentication"}
        differing, self._broken_policies = now ^ self._broken_policies, now
        touched: set[Topic] = set()
        for key in differing:
            is_root = key.namespace == self.settings.root_namespace
            touched |= self._forget_backends(None if is_root else key.namespace)
        return touched

    def _take_service(self, key: Key, old: object, new: object) -> set[Topic]:
        name = (key.namespace, key.name)
        if isinstance(new, Service):
            self._services[name] = new
            self._services_in[name[0]].add(name[1])
        else:
            self._services.pop(name, None)
            self._services_in[name[0]].discard(name[1])
        touched: set[Topic] = {("service", *name)}
        if isinstance(new, Service) != isinstance(old, Service):
            touched.add(("services",))
        is_alias = isinstance(new, Service) and bool(new.external_name)
        (self._aliases.add if is_alias else self._aliases.discard)(name)
        if any(isinstance(found, Service) and found.external_name for found in (old, new)):
            touched.add(("aliases",))
        return touched | self._owners.take(name, old, new) | self.ports.take(name, old, new)

    def _take_virtual_service(self, key: Key, old: object, new: object) -> set[Topic]:
        name = (key.namespace, key.name)
        if isinstance(new, VirtualService):
            self._virtual_services[name] = new
        else:
            self._virtual_services.pop(name, None)
        touched = self._index_hosts("claims", self._claims, name, route_hosts(old), route_hosts(new), new)
        return touched | {("virtualservice", *name)}

    def _take_rule(self, key: Key, old: object, new: object) -> set[Topic]:
        name = (key.namespace, key.name)
        return self._index_hosts("rules", self._rules, name, rule_hosts(old), rule_hosts(new), new)

    def _take_pod(self, key: Key, old: object, new: object) -> set[Topic]:
        name = (key.namespace, key.name)
        if isinstance(new, Pod):
            self._pods[name] = new
        else:
            self._pods.pop(name, None)
        before = self._backends.pop(name, None)
        touched: set[Topic] = {("pod", *name)} | self._owners.take(name, old, new)
        self._terrain.take_pod(name, old, new)
        if self.forms.count(key.namespace, old, new):
            touched.add(("pod forms", key.namespace))
        if before is not None and before == self.backend(name):
            return touched
        return touched | self._members.touch(name)

    def _take_node(self, key: Key, old: object, new: object) -> set[Topic]:
        moved, touched = self._terrain.take_node(key.name, old, new)
        return touched | self._forget(pod for pod in moved if pod in self._backends)

    def _take_namespace(self, key: Key, _: object, new: object) -> set[Topic]:
        if isinstance(new, Namespace):
            self._namespaces[key.name] = new
        else:
            self._namespaces.pop(key.name, None)
        return self._forget_backends(key.name)

    def _take_policy(self, key: Key, _: object, new: object) -> set[Topic]:
        if isinstance(new, PeerAuthentication):
            self._policies[key.namespace][key.name] = new
        else:
            self._policies[key.namespace].pop(key.name, None)
        is_root = key.namespace == self.settings.root_namespace
        return {("policies", key.namespace)} | self._forget_backends(None if is_root else key.namespace)

    def _take_settings(self, key: Key, old: object, new: object) -> set[Topic]:
        del key, old
        settings = new if isinstance(new, MeshSettings) else MeshSettings()
        self.wanted_trust_domain = settings.trust_domain
        trust_domain = self._pinned_trust_domain or settings.trust_domain
        self.settings = structs.replace(settings, trust_domain=trust_domain)
        return {("mesh",), ("cidrs",)} | self._forget_backends(None)

    def _forget_backends(self, namespace: str | None) -> set[Topic]:
        """Recompute the Pods of a namespace (None: all) after a policy changed; return what really changed."""
        return self._forget(p for p in self._backends if namespace is None or p[0] == namespace)

    def _forget(self, pods: Iterable[Name]) -> set[Topic]:
        touched: set[Topic] = set()
        for name in tuple(pods):
            before = self._backends.pop(name)
            if before != self.backend(name):
                touched |= {("pod", *name)} | self._members.touch(name)
        return touched

    def _index_hosts(  # noqa: PLR0913, PLR0917 -- one routine for three indexes
        self,
        topic: str,
        index: defaultdict[str, dict[Name, T]],
        name: Name,
        before: tuple[str, ...],
        after: tuple[str, ...],
        new: object,
    ) -> set[Topic]:
        for host in before:
            index[host].pop(name, None)
            if not index[host]:
                del index[host]
        for host in after:
            index[host][name] = new  # type: ignore[assignment]  # the caller pairs index and kind
        hosts = (*before, *after)
        patterns: set[Topic] = {(f"{topic}*",) for host in hosts if host.startswith("*")}
        return patterns | {(topic, host) for host in hosts}

    def _read_backend(self, name: Name) -> Backend:
        pod = self._pods.get(name)
        if pod is None:
            return NOBODY
        wants = not self.sees_sidecars and wants_sidecar(pod, self._namespaces.get(name[0]))
        is_meshed = pod.has_sidecar or wants
        mode, ports = self._modes(pod)
        who = (pod.workload or pod.meta.name, name[0], pod.service_account, pod.meta.labels)
        return Backend(*who, is_meshed, mode, ports, self._terrain.zone(pod), pod.bypassed)

    def _modes(self, pod: Pod) -> Modes:
        if not self.has_keys:
            return MtlsMode.DISABLE, ()
        root, namespace = self.settings.root_namespace, pod.meta.namespace
        mesh = self._scope_mode(root, MtlsMode.PERMISSIVE)
        inherited = mesh if namespace == root else self._scope_mode(namespace, mesh)
        return modes_of(pod, self.policies(namespace), inherited)

    def _scope_mode(self, namespace: str, inherited: MtlsMode) -> MtlsMode:
        is_broken = any(key.namespace == namespace for key in self._broken_policies)
        return MtlsMode.STRICT if is_broken else scope_mode(self.policies(namespace), inherited)
