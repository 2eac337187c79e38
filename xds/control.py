"""The control plane without its sockets: what changes and what calls do to the snapshot, and who must be told.

It owns the wiring of store, plan, snapshot, registry, ledger and trust; time is an argument, and
sessions to wake are a result. It must never do I/O, so that benchmarks and tests drive the same code.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet

from xds.api.core import Key, Pod
from xds.api.manifest import Object
from xds.compile.lens import Lens
from xds.demand import Demand
from xds.events import Watch
from xds.explain.facts import Facts
from xds.fields import Problem
from xds.hosts import Name, host_of
from xds.identity import Identity, Proof
from xds.ledger import Ledger, Row
from xds.places import Outcome, is_caller, is_counted, workload_of
from xds.plan import Plan
from xds.push import Registry
from xds.releases import can_ask, takes_filters
from xds.report import EjectedEndpoint, SeenByProxy
from xds.resources import names
from xds.secrets import SecretPut, layer_of
from xds.snapshot import ResourceType, Snapshot, View
from xds.sources.store import Store
from xds.stream import Session
from xds.subscription import WILDCARD, Variant
from xds.tables import Unit
from xds.traffic.graph import Workload
from xds.traffic.telemetry import Telemetry
from xds.trust import Fleet, Trust
from xds.unanswered import unanswered

NOBODY: frozenset[Session] = frozenset()


class ControlPlane:
    """One mesh, from changes of objects to marks on sessions."""

    def __init__(self, *, has_keys: bool = True, sees_sidecars: bool = False) -> None:
        self.store = Store()
        self.snapshot = Snapshot()
        self.registry = Registry()
        self.ledger = Ledger()
        self.plan = Plan(self.snapshot, has_keys=has_keys, sees_sidecars=sees_sidecars)
        self.telemetry = Telemetry()
        self.demand = Demand()
        self.trust: Trust | None = None
        self.problems: tuple[Problem, ...] = ()
        self._sessions: defaultdict[Name, dict[str, Session]] = defaultdict(dict)
        self._callers: dict[str, Identity] = {}
        self._classes: Counter[str] = Counter()

    # -- changes ---------------------------------------------------------------------------

    def apply(
        self,
        changes: Iterable[tuple[Key, Object | None]],
        *,
        at: float,
        now: float,
        broken: Iterable[Key] = (),
    ) -> AbstractSet[Session]:
        """Take one consistent batch, detected at ``at``; return the sessions that have something to write."""
        woken, _ = self.tick(now)
        batch = self.store.apply_all(changes)
        outcome = self.plan.apply(batch, broken)
        woken |= self._tell(outcome, at, tuple([str(change.key) for change in batch]))
        for pod in outcome.review:
            for session in self._sessions.get(pod, {}).values():
                view, more = self._view(pod, session)
                woken |= self._tell(more, at, ())
                if view != session.view:
                    before = session.view
                    self._enter(view)
                    woken |= self._ask_again(session, view, now)
                    self.registry.look(session, view, now)
                    woken |= self._leave(before, at) | {session}
        return woken

    def tick(self, now: float) -> tuple[set[Session], bool]:
        """Take the time and end what was to end by then.

        Return the sessions that have something to write, and whether anything has ended.
        """
        outcome, cause = self.plan.tick(now)
        return self._tell(outcome, now, cause), bool(cause)

    def put_secrets(self, puts: Iterable[SecretPut], at: float) -> AbstractSet[Session]:
        """Publish secrets (a bundle, renewed leaves); return the sessions that have something to write."""
        outcome = Outcome()
        cause: tuple[str, ...] = ()
        for put in puts:
            place = (put.layer, ResourceType.SECRET, put.name)
            if self.snapshot.put(*place, put.body, cause=put.cause, version=put.version):
                outcome.changed.append(place)
                cause = put.cause
        return self._tell(outcome, at, cause)

    def _tell(self, outcome: Outcome, at: float, cause: tuple[str, ...]) -> set[Session]:
        if not outcome.changed:
            return set()
        push = self.ledger.begin(at, [place[1:] for place in outcome.changed], cause) if cause else None
        woken: set[Session] = set()
        for place in outcome.changed:
            layer, kind, name = place
            concerned = self.registry.changed(*place, push)
            woken |= concerned
            if kind is ResourceType.ROUTES and name == names.OUTBOUND and is_caller(layer):
                routed = self.plan.callers.routed(layer)
                woken.update(session for session in concerned if self._foresee(session, routed))
        return woken

    def workloads(self) -> Iterable[Workload]:
        """Yield every workload with its Pods that have not ended, and the hosts of the Services that select them."""
        world = self.plan.world
        pods: Counter[str] = Counter()
        meshed: Counter[str] = Counter()
        services: defaultdict[str, set[str]] = defaultdict(set)
        for name in world.pods():
            pod = world.pod(name)
            if pod is None or pod.finished:
                continue
            backend = world.backend(name)
            workload = f"{backend.workload}.{backend.namespace}"
            pods[workload] += 1
            meshed[workload] += backend.is_meshed
            services[workload].update(host_of(*service) for service in world.services_of(name))
        for workload in sorted(pods):
            hosts = tuple(sorted(services[workload]))
            yield Workload(workload, pods[workload], meshed[workload], hosts)

    def seen(self, node_id: str, now: float) -> SeenByProxy:
        """Return what a node's sidecar has met: whom it has ejected, which services do not answer it."""
        found = self.telemetry.silences(node_id, now_s=now)
        pod, _, namespace = node_id.rpartition(".")
        silent = tuple(unanswered(Lens(self.plan.world), (namespace, pod), found))
        return SeenByProxy(tuple(self._ejected(node_id, now)), silent)

    def _ejected(self, node_id: str, now: float) -> Iterator[EjectedEndpoint]:
        """Yield whom a node's sidecar has ejected; without Pods that are draining, of which it says the same."""
        for found in self.telemetry.ejected(node_id, now_s=now):
            address, _, _ = found.address.rpartition(":")
            owner = self.plan.world.by_address(address.strip("[]"))
            pod = owner if isinstance(owner, Pod) else None
            if pod is None or (pod.ready and not pod.terminating):
                name = f"{pod.meta.namespace}/{pod.meta.name}" if pod is not None else ""
                service = names.counted_as(found.cluster)
                yield EjectedEndpoint(service, found.address, name, found.since_s)

    # -- calls -----------------------------------------------------------------------------

    def connect(self, caller: Identity | None, session: Session) -> View:
        """Return what a stream sees; the caller None, or a Pod that is not meshed, gets outbound only."""
        pod = (caller.namespace, caller.pod) if caller is not None else None
        if caller is not None and pod is not None:
            self._callers[session.id] = caller
            self._sessions[pod][session.id] = session
        view, outcome = self._view(pod, session)
        self._tell(outcome, 0.0, ())
        self._enter(view)
        return view

    def on_secret(
        self, session: Session, caller: Identity | None, name: str, claimed: str | None, now: float
    ) -> AbstractSet[Session]:
        """A stream asks for a secret for the first time: make its own certificate, if it may have one."""
        if self.trust is None:
            return NOBODY
        put = self.trust.issuer.subscribe(session.id, caller, name, claimed=claimed, now=now)
        return NOBODY if put is None else self.put_secrets((put,), now)

    def on_names(self, session: Session, watch: Watch, now: float) -> AbstractSet[Session]:
        """A stream asks for clusters: compile what its proxy names, and send ahead what its workload is known to use.

        A destination's rules enter the route table before its cluster is sent; see `stream`.
        """
        layer = next(filter(is_caller, session.view), None)
        if layer is None or watch.type is not ResourceType.CLUSTER or _is_declared(session):
            return NOBODY
        workload = workload_of(layer)
        known = self.demand.join(session.id, workload)
        is_start = WILDCARD in watch.added
        strangers = (
            {name for name in known if not self.plan.callers.is_owned(name)} if is_start else set[str]()
        )
        self.demand.drop(workload, strangers)
        ahead = [name for name in known if name not in strangers] if is_start else []
        asked = self.demand.use(session.id, (*ahead, *filter(names.parse_destination, watch.added)))
        outcome = self.plan.demand(layer, asked)
        ruled = [name for name in asked if self.plan.callers.is_ruled(layer, name)]
        # A request waits for every cluster but that of its mirror, so that one comes before the table.
        is_new = self._foresee(session, self.plan.callers.mirrored(layer, ruled))
        is_new |= self._foresee(session, (*ahead, *self.plan.callers.routed(layer, ruled)), ruled)
        return self._tell(outcome, now, ()) | ({session} if is_new else set())

    def sweep(self, now: float) -> None:
        """Forget what has not been used for long."""
        self.demand.forget(now)

    def close(self, session: Session, now: float = 0.0) -> AbstractSet[Session]:
        """Forget a stream and what only it saw or held; return the sessions that have something to write."""
        woken = self._tell(self.plan.release(self._unheld(session, now)), now, ())
        woken |= self._leave(session.view, now)
        caller = self._callers.pop(session.id, None)
        if caller is not None:
            sessions = self._sessions[caller.namespace, caller.pod]
            sessions.pop(session.id, None)
            if not sessions:
                del self._sessions[caller.namespace, caller.pod]
        if self.trust is not None:
            self.snapshot.drop_layer(self.trust.issuer.close(session.id))
        else:
            self.snapshot.drop_layer(layer_of(session.id))
        return woken

    def fleet(self) -> Fleet:
        """Return what the connected proxies have said, for the barriers of a rotation."""
        return Fleet(self._bundle_acked, self._leaf_acked, self._channel_roots)

    def known(self, now_s: float) -> Facts:
        """Return what an explanation at a time of the epoch may look at."""
        return Facts(
            self.plan.world, now_s, self.problems, self.store.get, self.proxies_of, self.is_intercepted
        )

    def proxies_of(self, pod: Name) -> list[tuple[str, tuple[Row, ...]]]:
        """Return the connected proxies of a Pod by their ID, each with what it was sent."""
        ids = sorted({session.proxy for session in self._sessions.get(pod, {}).values()})
        return [(proxy, self.ledger.config(proxy)) for proxy in ids]

    def is_intercepted(self, pod: Name) -> bool:
        """Tell whether a Pod's connected proxy says that traffic is redirected to it, and asks where that goes."""
        return any(map(_asks, self._sessions.get(pod, {}).values()))

    def _view(self, pod: Name | None, session: Session) -> tuple[View, Outcome]:
        is_transparent = session.node is not None and session.node.is_transparent
        own = self._own_layer(session)
        is_older = session.node is not None and not takes_filters(session.node.version)
        declared = _is_declared(session)
        return self.plan.view(pod, own, transparent=is_transparent, declared=declared, older=is_older)

    def _ask_again(self, session: Session, view: View, now: float) -> set[Session]:
        """Compile in another view what a proxy with redirected traffic has asked for."""
        layer = next(filter(is_caller, view), None)
        return (
            set()
            if layer is None
            else self._tell(self.plan.demand(layer, self.demand.held(session.id)), now, ())
        )

    def _foresee(self, session: Session, wanted: Iterable[str], ruled: Iterable[str] | None = None) -> bool:
        """Send clusters before they are asked for; return whether that leaves anything to write."""
        watch = session.foresee(ResourceType.CLUSTER, wanted, ruled=ruled)
        if watch is not None:
            self.registry.watch(session, watch)
        return watch is not None

    def _unheld(self, session: Session, now: float) -> list[Unit]:
        """End a stream's demand; return the units of what it was the last to hold."""
        layer, left = next(filter(is_caller, session.view), ""), self.demand.leave(session.id, now)
        rules: list[Unit] = [("rules", layer, name) for name in left.of_workload]
        return rules + [("demand", left.namespace, name) for name in left.of_namespace]

    def _enter(self, view: View) -> None:
        self._classes.update(layer for layer in view if is_counted(layer))

    def _leave(self, view: View, at: float) -> set[Session]:
        """Count a stream out of its class; one that was made for labels ends with its last stream.

        Labels come and go with every rollout. The class of a bare namespace stays: there are few, and a
        control plane that has just lost all of its streams gets them back within seconds.
        """
        woken: set[Session] = set()
        for layer in filter(is_counted, view):
            self._classes[layer] -= 1
            if self._classes[layer] <= 0:
                del self._classes[layer]
                woken |= self._tell(self.plan.close(layer), at, ())
        return woken

    def _own_layer(self, session: Session) -> str:
        caller = self._callers.get(session.id)
        return session.id if caller is not None and caller.proof is Proof.TOKEN else ""

    def _verified(self) -> list[Session]:
        return [session for session in self.registry.sessions if self._own_layer(session)]

    def _bundle_acked(self, version: str) -> bool:
        return all(
            session.accepted(ResourceType.SECRET, "ROOTCA") == version
            for session in self._verified()
            if session.follows(ResourceType.SECRET)
        )

    def _leaf_acked(self, stream: str, version: str) -> bool:
        session = self.registry.session(stream)
        return session is None or session.accepted(ResourceType.SECRET, "default") == version

    def _channel_roots(self) -> frozenset[str | None]:
        return frozenset(session.node.channel_root or None for session in self._verified() if session.node)


def _is_declared(session: Session) -> bool:
    """Tell whether a proxy cannot ask for clusters: by its variant of the protocol, or by its version's manners."""
    return session.variant is Variant.SOTW or not (session.node is None or can_ask(session.node.version))


def _asks(session: Session) -> bool:
    return session.node is not None and session.node.is_transparent and not _is_declared(session)
