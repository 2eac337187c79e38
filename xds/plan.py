"""The incremental engine: which units a change compiles again, and what of their output is new.

A unit is one call of the compiler (a service's clusters, its endpoints, a route table's share, a proxy). The plan
keeps what each unit read and what it gave; equal output stops there, other output is built into bytes once and put
into the snapshot. It must never do work for units that read nothing of what changed, and after any history its
snapshot equals that of a fresh plan over the same objects, for valid worlds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from xds import ir
from xds.api.core import Key
from xds.api.mesh import MeshSettings
from xds.assignments import Assignments
from xds.callers import Callers, class_of
from xds.compile.check import check, check_settings
from xds.compile.clusters import clusters
from xds.compile.hosts import Client, foreign_host, sees_cluster, virtual_hosts
from xds.compile.lens import Lens
from xds.compile.proxies import proxy
from xds.compile.told import TELLERS
from xds.concerns import proxies, selected, under_sidecars
from xds.fields import Problem, Severity
from xds.hosts import Name, entry_hosts, host_of
from xds.indexes.expiring import topics_of
from xds.places import (
    MESH,
    TRUST,
    Node,
    Outcome,
    Place,
    is_caller,
    layer_of,
    placed,
    placed_entries,
    placed_proxy,
)
from xds.reads import Reads
from xds.resources import names
from xds.results import Results
from xds.scopes import Scopes, scope_layer
from xds.snapshot import NAMED, ResourceType, Snapshot
from xds.sources.store import Change
from xds.subsets import Subsets
from xds.tables import BY_HOST, Tables, Unit
from xds.units import ORDER, PROXY_UNITS, TABLE_UNITS, proxy_layer, proxy_unit, units_of
from xds.world import Topic, World

MAX_CAUSES = 8
"""Objects named as cause of one push: enough to explain an edit, bounded for a first load."""


class Plan:
    """World in, snapshot out."""

    def __init__(
        self,
        snapshot: Snapshot,
        settings: MeshSettings | None = None,
        *,
        has_keys: bool = True,
        sees_sidecars: bool = False,
    ) -> None:
        self.snapshot = snapshot
        self.world = World(settings, has_keys=has_keys, sees_sidecars=sees_sidecars)
        self._reads = Reads()
        self.results = Results(snapshot)
        self._problems: dict[Unit, tuple[Problem, ...]] = {}
        self._tables: Tables[Client, ir.VirtualHost] = Tables(BY_HOST)
        self.callers = Callers(self.world)
        self._subsets = Subsets(
            self.world, lambda name: self._tables.uses(name) or self.callers.tables.uses(name)
        )
        self._assignments = Assignments(self.world)
        self._scopes = Scopes(snapshot, lambda client, of: sees_cluster(Lens(self.world), client, of))
        self._entered: set[Unit] = set()
        self.ran: Counter[str] = Counter()
        """Units that were compiled, by their kind."""
        self._cause: tuple[object, ...] = ()
        self._outcome = Outcome()

    # -- what the shell asks ---------------------------------------------------------------

    def apply(self, changes: Iterable[Change], broken: Iterable[Key] = ()) -> Outcome:
        """Take one consistent batch of changes into the world and bring the snapshot up to date.

        ``broken`` ones could never be read: a PeerAuthentication among them makes its scope STRICT until it can.
        """
        self._outcome = Outcome()
        batch = list(changes)
        self._cause = tuple(change.key for change in batch[:MAX_CAUSES])
        labels_before = self.world.source_labels
        touched = self.world.fail_closed(broken)
        self._assignments.forget(touched, None)
        for change in batch:
            topics = self.world.apply(change)
            self._assignments.forget(topics, change)
            touched |= topics
        for change in batch:
            self._follow(change)
        self._settle(touched)
        self._outcome.changed += self._scopes.review(touched)
        if self.world.source_labels != labels_before:
            self._outcome.review |= proxies(self._reads)
        self._outcome.review |= under_sidecars(touched, self._reads, self.world)
        return self._outcome

    def tick(self, now: float) -> tuple[Outcome, tuple[str, ...]]:
        """Take the time, in seconds since the epoch; return what its passing changed, and the objects that ended."""
        self._outcome = Outcome()
        ended = self.world.faults.tick(now)
        if not ended:
            return self._outcome, ()
        self._cause = tuple(f"Fault {one.meta.namespace}/{one.meta.name}" for one in ended)[:MAX_CAUSES]
        self._settle({topic for one in ended for topic in topics_of(one)})
        return self._outcome, tuple(map(str, self._cause))

    def view(
        self,
        pod: Name | None,
        stream: str = "",
        *,
        transparent: bool = False,
        declared: bool = False,
        older: bool = False,
    ) -> tuple[tuple[str, ...], Outcome]:
        """Return the layers that a proxy sees, most specific first, and what that brought into being.

        A Pod that is unknown or not meshed gets the outbound view of its namespace (None: of ``default``) and no
        inbound. ``transparent`` asks for listeners that take intercepted traffic instead of a local address, for a Pod
        only; ``declared``: its proxy cannot ask, and gets all that a class sees; ``older``: no filters from routes.
        """
        self._outcome = Outcome()
        self._cause = (f"Pod {pod[0]}/{pod[1]}" if pod else "Namespace default",)
        own = (f"stream/{stream}",) if stream else ()
        client = self.client(pod)
        if pod is not None:
            unit = proxy_unit(pod, transparent=transparent, older=older)
            own = (*own, proxy_layer(unit))
            if self.world.pod(pod) is not None:  # a stream may outlive its Pod
                self._enter(unit)
        if pod is None or not transparent:
            own = (*own, client.layer)
        else:
            caller = self.callers.of(pod, client, declared=declared)
            if self.callers.tables.open(caller):
                self._enter(("caller", caller.layer))
            own = (*own, *self.callers.view(caller))
        if NAMED not in own:
            if self._tables.open(client):
                self._fill(client)
            self._settle(set())
            return (*own, *self._seen_by(client), TRUST), self._outcome
        self._settle(set())
        return own, self._outcome

    def _seen_by(self, client: Client) -> tuple[str, ...]:
        """Return the layers of the clusters that a class sees: the mesh's, or what its Sidecar leaves of them."""
        namespace, _, name = client.sidecar.partition("/")
        sidecar = self.world.sidecars.get((namespace, name))
        if sidecar is None or sidecar.egress is None:
            return (layer_of(client.namespace), MESH)
        self._outcome.changed += self._scopes.open(client, self._tables.clusters(client))
        return (scope_layer(client),)

    def close(self, layer: str) -> Outcome:
        """End the class of a layer that nobody sees any more; a view of it begins it again."""
        self._outcome = Outcome()
        for unit in [unit for unit in self._reads if unit[0] in TABLE_UNITS and unit[1] == layer]:
            self._stop(unit)
        if is_caller(layer):
            self.callers.tables.close(self.callers.tables.client(layer))
        else:
            self._scopes.close(self._tables.client(layer))
            self._tables.close(self._tables.client(layer))
        self.snapshot.drop_layer(layer)
        self._settle(set())
        return self._outcome

    def demand(self, layer: str, wanted: Iterable[str]) -> Outcome:
        """Compile what proxies of a caller's layer ask for by name; names that are known already cost nothing."""
        self._outcome = Outcome()
        for unit in self.callers.units(layer, wanted):
            self._enter(unit)
        self._cause = tuple(name for _, _, name in self._entered)[:MAX_CAUSES]
        self._settle(set())
        return self._outcome

    def release(self, unheld: Iterable[Unit]) -> Outcome:
        """Forget what proxies asked for by name and none of them holds any more."""
        self._outcome, self._cause = Outcome(), ()
        for unit in unheld:
            self._stop(unit)
        self._settle(set())
        return self._outcome

    def client(self, pod: Name | None) -> Client:
        """Return the class whose route table a Pod gets."""
        found = self.world.pod(pod) if pod else None
        return class_of(self.world, pod[0] if pod else "default", found.meta.labels if found else ())

    @property
    def units(self) -> int:
        """The number of units that are kept: what the plan costs."""
        return len(self._reads)

    def problems(self) -> list[Problem]:
        """Return what is wrong with the objects, sorted; each fault once."""
        found = {problem for problems in self._problems.values() for problem in problems}
        return sorted(found.union(check_settings(Lens(self.world), self.world.wanted_trust_domain)), key=str)

    # -- units -----------------------------------------------------------------------------

    def _follow(self, change: Change) -> None:
        """Start the units of an object that came; stop those of one that went."""
        key, name = change.key, (change.key.namespace, change.key.name)
        if key.kind == "Service":
            self._entered |= selected(change, self._reads, self.world)
        for unit in units_of(key, (client.layer for client in self._tables.clients())):
            if change.new is None:
                self._stop(unit)
            else:
                self._enter(unit)
        match key.kind:
            case "Service" if (change.new is None) != (change.old is None):
                self._follow_host(host_of(*name))
            case "ServiceEntry":
                for host in {*entry_hosts(change.old), *entry_hosts(change.new)}:
                    self._follow_host(host)
            case "Pod":
                self._outcome.review.add(name)
                if change.new is None:
                    for kind in PROXY_UNITS:
                        self._stop((kind, *name))
            case _:
                pass

    def _fill(self, client: Client) -> None:
        for service in self.world.services():
            self._enter(("vhosts", client.layer, *service))
        for host in self.world.foreign_hosts():
            self._enter(("foreign", client.layer, host))

    def _follow_host(self, host: str) -> None:
        """A host with routes or entries is foreign while no Service has it."""
        if self.world.entries.of(host):
            self._enter(("external", host))
        else:
            self._stop(("external", host))
        for client in list(self._tables.clients()):
            unit: Unit = ("foreign", client.layer, host)
            if self.world.is_foreign(host):
                self._enter(unit)
            else:
                self._stop(unit)

    def _follow_routes(self, touched: set[Topic]) -> None:
        for topic in touched:
            if topic[0] == "routes":
                self._follow_host(topic[1])

    def _settle(self, touched: set[Topic]) -> None:
        """Compile again what read a touched topic, until no result touches anything more.

        It ends: only checks and clusters touch topics, and only when what is in force differs.
        """
        while due := self._entered | self._reads.of(touched) | self._subsets.released():
            self._entered = set()
            touched = set()
            ordered = sorted(due, key=lambda found: (ORDER[found[0]], found)) if len(due) > 1 else due
            for unit in ordered:
                if unit in self._reads:
                    touched |= self._run(unit)
            self._follow_routes(touched)
        self._flush()

    def _enter(self, unit: Unit) -> None:
        if self._reads.start(unit):
            self._entered.add(unit)

    def _stop(self, unit: Unit) -> None:
        if unit not in self._reads:
            return
        match unit:
            case ("vhosts" | "foreign", layer, *_):
                self._tables.put(self._tables.client(layer), unit, ())
            case ("rules", layer, _):
                self.callers.tables.put(self.callers.tables.client(layer), unit, ())
            case ("endpoints", namespace, name):
                self._put_endpoints(unit, {})
                self._assignments.drop((namespace, name))
            case ("clusters", namespace, name):
                self._subsets.drop((namespace, name))
            case ("check", namespace, name):
                touched = self.world.accept((namespace, name), None)
                self._entered |= self._reads.of(touched)
                self._follow_routes(touched)
            case _:
                pass
        self._put(unit, {})
        self._reads.stop(unit)
        self._problems.pop(unit, None)

    def _run(self, unit: Unit) -> set[Topic]:
        """Compile one unit, remember what it read, put what it gave; return the topics it touches."""
        self.ran[unit[0]] += 1
        if unit[0] == "endpoints":
            return self._run_endpoints(unit)
        lens = Lens(self.world)
        touched: set[Topic] = set()
        match unit:
            case ("clusters", namespace, name):
                touched = self._run_clusters(lens, unit, (namespace, name))
            case (kind, namespace, name) if kind in PROXY_UNITS:
                found = proxy(lens, kind, (namespace, name))
                self._report(unit, found.problems if found else ())
                self._put(unit, placed_proxy(proxy_layer(unit), found))
            case ("vhosts" | "foreign", *_):
                self._run_hosts(lens, unit)
            case ("caller" | "demand" | "rules", *_):
                self._put(unit, self.callers.run(lens, unit))
            case ("check", namespace, name):
                touched = self._run_check(lens, unit, (namespace, name))
            case (kind, namespace, name) if kind in TELLERS:
                self._report(unit, TELLERS[kind](lens, (namespace, name)))
            case ("external", host):
                self._put(unit, placed_entries(lens, host))
            case _:
                raise AssertionError(unit)
        self._reads.remember(unit, frozenset(lens.topics))
        return touched

    def _report(self, unit: Unit, found: tuple[Problem, ...]) -> None:
        if found:
            self._problems[unit] = found
        else:
            self._problems.pop(unit, None)

    # -- one kind of unit each -------------------------------------------------------------

    def _run_hosts(self, lens: Lens, unit: Unit) -> None:
        """Compile the share of a Service, or of a host that is none, in the route table of a class."""
        client = self._tables.client(unit[1])
        match unit:
            case ("vhosts", _, namespace, name):
                self._tables.put(client, unit, virtual_hosts(lens, (namespace, name), client))
            case (_, _, host):
                self._tables.put(client, unit, foreign_host(lens, host, client))
            case _:
                raise AssertionError(unit)

    def _run_check(self, lens: Lens, unit: Unit, name: Name) -> set[Topic]:
        """Put a VirtualService in force unless something is wrong with it; then the last good one stays."""
        found = check(lens, name)
        self._report(unit, found)
        if any(problem.severity is Severity.ERROR for problem in found):
            return set()
        return self.world.accept(name, self.world.virtual_service(name))

    def _run_clusters(self, lens: Lens, unit: Unit, service: Name) -> set[Topic]:
        now, is_other = self._subsets.shape(lens, service)
        nodes: dict[Place, Node] = {}
        for namespace, shape in now.items():
            cause = (*shape.rules, f"Service {service[0]}/{service[1]}")
            nodes |= placed({namespace: clusters(lens, service, shape)}, cause)
        self._put(unit, nodes)
        return {("shapes", *service)} if is_other else set()

    def _put(self, unit: Unit, nodes: dict[Place, Node]) -> None:
        self._outcome.changed += self.results.put(unit, nodes)

    def _flush(self) -> None:
        for table in (self._tables, self.callers.tables):
            cause = tuple(map(str, self._cause)) if table.are_dirty else ()
            for layer in table.flush(self.snapshot, cause):
                self._outcome.changed.append((layer, ResourceType.ROUTES, names.OUTBOUND))
                if table is self._tables:
                    client = self._tables.client(layer)
                    self._outcome.changed += self._scopes.use(client, self._tables.clusters(client))
        self._outcome.changed += self._scopes.follow(self._outcome.changed)

    def _run_endpoints(self, unit: Unit) -> set[Topic]:
        """Do the commonest work of all; what it reads never changes, so it is remembered once."""
        service = (unit[1], unit[2])
        if not self._reads.topics(unit):
            self._reads.remember(
                unit, frozenset((topic, *service) for topic in ("service", "endpoints", "shapes"))
            )
        self._put_endpoints(unit, self._assignments.build(service, self._subsets.selectors(service)))
        return set()

    def _put_endpoints(self, unit: Unit, bodies: dict[Place, bytes]) -> None:
        """Put a service's load assignments: past the compiler, into the same snapshot."""
        cause = (f"Service {unit[1]}/{unit[2]}",)
        self._outcome.changed += self.results.put_bodies(unit, bodies, cause)
