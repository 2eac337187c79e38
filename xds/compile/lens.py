"""The world seen by one unit of compilation; it records every topic that was asked for.

It must offer nothing of the world that it does not record.
"""

from __future__ import annotations

from collections.abc import Iterable

from xds.api.core import Labels, Pod, Service
from xds.api.fault import Fault
from xds.api.istio_entry import ServiceEntry
from xds.api.istio_security import PeerAuthentication
from xds.api.istio_sidecar import Sidecar
from xds.api.istio_telemetry import Telemetry
from xds.api.istio_traffic import DestinationRule, VirtualService
from xds.api.mesh import MeshSettings, OutboundPolicy
from xds.api.rate_limit import RateLimit
from xds.backend import Backend
from xds.hosts import Name
from xds.indexes.forms import PodForm
from xds.indexes.guards import Guard
from xds.indexes.ports import PortUse
from xds.indexes.telemetries import Chain
from xds.indexes.terrain import Ranges
from xds.topics import Topic
from xds.world import World


class Lens:
    """The world seen by one unit of compilation; it records every topic that was asked for."""

    __slots__ = ("_world", "topics")

    def __init__(self, world: World) -> None:
        self._world = world
        self.topics: set[Topic] = set()

    @property
    def trust_domain(self) -> str:
        """The mesh's SPIFFE trust domain."""
        self.topics.add(("mesh",))
        return self._world.settings.trust_domain

    @property
    def settings(self) -> MeshSettings:
        """The mesh settings in force."""
        self.topics.add(("mesh",))
        return self._world.settings

    @property
    def has_keys(self) -> bool:
        """Whether sidecars get certificates; constant, so no topic."""
        return self._world.has_keys

    @property
    def root_namespace(self) -> str:
        """The namespace whose rules hold mesh-wide."""
        self.topics.add(("mesh",))
        return self._world.settings.root_namespace

    @property
    def outbound(self) -> OutboundPolicy:
        """What a proxy does with a destination that the mesh does not know."""
        self.topics.add(("mesh",))
        return self._world.settings.outbound

    def cidrs(self) -> tuple[Ranges, Ranges]:
        """Return where cluster IPs and Pods' addresses come from."""
        self.topics.add(("cidrs",))
        return self._world.cidrs()

    def port_uses(self) -> tuple[PortUse, ...]:
        """Return which port numbers are HTTP for somebody."""
        self.topics.add(("ports",))
        return self._world.ports.uses()

    def by_address(self, ip: str) -> Service | Pod | None:
        """Return whose an address is."""
        self.topics.add(("address", ip))
        found = self._world.by_address(ip)
        if found is not None:
            kind = "service" if isinstance(found, Service) else "pod"
            self.topics.add((kind, found.meta.namespace, found.meta.name))
        return found

    def service(self, name: Name) -> Service | None:
        """Return a Service."""
        self.topics.add(("service", *name))
        return self._world.service(name)

    def services(self) -> list[Service]:
        """Return every Service, sorted by name."""
        self.topics.add(("services",))
        found = (self.service(name) for name in sorted(self._world.services()))
        return [service for service in found if service is not None]

    def aliases(self) -> list[Service]:
        """Return the Services that are names for hosts outside (ExternalName), sorted by name."""
        self.topics.add(("aliases",))
        found = (self.service(name) for name in self._world.aliases())
        return [service for service in found if service is not None]

    def accounts(self, name: Name) -> tuple[str, ...]:
        """Return the service accounts behind a Service, as ``ns/name``."""
        self.topics.add(("accounts", *name))
        return self._world.accounts(name)

    def pod(self, name: Name) -> tuple[Pod, Backend] | None:
        """Return a Pod and what it means."""
        self.topics.add(("pod", *name))
        pod = self._world.pod(name)
        return None if pod is None else (pod, self._world.backend(name))

    def services_selecting(self, pod: Pod) -> list[Service]:
        """Return the Services that select a Pod."""
        self.topics.add(("selecting", pod.meta.namespace))
        return self._world.services_selecting(pod)

    def policies(self, namespace: str) -> list[PeerAuthentication]:
        """Return the PeerAuthentications of a namespace, oldest first."""
        self.topics.add(("policies", namespace))
        return self._world.policies(namespace)

    def guards(self, namespace: str) -> tuple[Guard, ...]:
        """Return the AuthorizationPolicies and RequestAuthentications of a namespace, sorted by kind and name."""
        self.topics.add(("guards", namespace))
        return self._world.guards.of(namespace)

    def pod_forms(self, namespace: str) -> Iterable[PodForm]:
        """Return what labels and ports the Pods of a namespace have."""
        self.topics.add(("pod forms", namespace))
        return self._world.forms.of(namespace)

    def virtual_service(self, name: Name) -> VirtualService | None:
        """Return a VirtualService as last written."""
        self.topics.add(("virtualservice", *name))
        return self._world.virtual_service(name)

    def claims(self, host: str) -> list[VirtualService]:
        """Return every VirtualService written for this host."""
        self.topics.add(("claims", host))
        return self._world.claims(host)

    def routes(self, host: str) -> list[VirtualService]:
        """Return the VirtualServices in force for this host."""
        self.topics.add(("routes", host))
        return self._world.routes(host)

    def wildcard_routes(self, host: str) -> list[list[VirtualService]]:
        """Return the VirtualServices of each wildcard that covers this host, the most specific first."""
        self.topics.add(("routes*",))
        return self._world.wildcard_routes(host)

    def every_entry(self) -> list[ServiceEntry]:
        """Return all ServiceEntries, oldest first: for what must know each of them."""
        self.topics.add(("every entry",))
        return self._world.entries.every()

    def entry(self, name: Name) -> ServiceEntry | None:
        """Return a ServiceEntry."""
        self.topics.add(("entry", *name))
        return self._world.entries.get(name)

    def entries(self, host: str) -> list[ServiceEntry]:
        """Return the ServiceEntries of exactly this host, oldest first."""
        self.topics.add(("entries", host))
        return self._world.entries.of(host)

    def entries_covering(self, host: str) -> list[list[ServiceEntry]]:
        """Return those of each wildcard that covers this host, the most specific first, oldest first within."""
        self.topics.add(("entries*",))
        return self._world.entries.covering(host)

    def entries_at(self, ip: str) -> list[list[ServiceEntry]]:
        """Return those of an address, then those of each range that holds it, the narrowest first."""
        self.topics |= {("address", ip), ("ranges",)}
        return self._world.entries.at(ip)

    def entries_on(self, port: int) -> list[ServiceEntry]:
        """Return those that have a port and no address, oldest first."""
        self.topics.add(("entries on", str(port)))
        return self._world.entries.on_port(port)

    def sidecar(self, name: Name) -> Sidecar | None:
        """Return a Sidecar."""
        self.topics.add(("sidecar", *name))
        return self._world.sidecars.get(name)

    def sidecars(self, namespace: str) -> list[Sidecar]:
        """Return the Sidecars of a namespace, oldest first."""
        self.topics.add(("sidecars", namespace))
        return self._world.sidecars.of(namespace)

    def limit(self, name: Name) -> RateLimit | None:
        """Return a RateLimit."""
        self.topics.add(("limit", *name))
        return self._world.ceilings.get(name)

    def limits(self, namespace: str) -> list[RateLimit]:
        """Return the RateLimits of a namespace, oldest first."""
        self.topics.add(("limits", namespace))
        return self._world.ceilings.of(namespace)

    def telemetry(self, name: Name) -> Telemetry | None:
        """Return a Telemetry."""
        self.topics.add(("telemetry", *name))
        return self._world.telemetries.get(name)

    def telemetries(self, namespace: str) -> list[Telemetry]:
        """Return the Telemetry objects of a namespace, oldest first."""
        self.topics.add(("telemetries", namespace))
        return self._world.telemetries.of(namespace)

    def telemetry_of(self, namespace: str, labels: Labels) -> Chain:
        """Return the Telemetry objects that hold for Pods of a namespace with these labels, the widest first."""
        return self.telemetry_chain(namespace, self._world.telemetries.selecting(namespace, labels))

    def telemetry_chain(self, namespace: str, selecting: Telemetry | None) -> Chain:
        """Return what holds for workloads of a namespace that one object selects (None: none does)."""
        root = self.root_namespace
        self.topics |= {("telemetries", root), ("telemetries", namespace)}
        return self._world.telemetries.chain(namespace, root, selecting)

    def fault(self, name: Name) -> Fault | None:
        """Return a Fault, in force or not."""
        self.topics.add(("fault", *name))
        return self._world.faults.get(name)

    def is_over(self, found: Fault) -> bool:
        """Tell whether a Fault has ended."""
        return self._world.faults.is_over(found)

    def faults(self, service: Name) -> list[Fault]:
        """Return the Faults in force for a Service, the one that holds first."""
        self.topics.add(("faults", *service))
        return self._world.faults.of(service)

    def rules(self, host: str) -> list[DestinationRule]:
        """Return the DestinationRules for this host: of each namespace those for its most specific host."""
        self.topics |= {("rules", host), ("rules*",)}
        return self._world.rules(host)
