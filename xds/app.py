"""The composition root: one process, one event loop, every task in one group with a name.

It joins the core to its ports, wherever it lives (a `Home`: a directory, a cluster); it must never hold a rule
of the mesh itself.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
import time
from collections.abc import AsyncGenerator, Coroutine, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

import uvloop

from xds import admin, gauges, logs
from xds.address import Address
from xds.api.manifest import fingerprint
from xds.ca import CaError
from xds.control import ControlPlane
from xds.explain.located import located
from xds.explain.walk import explain
from xds.gate import ServerOptions
from xds.gauges import Reading
from xds.identity import PodFacts, rule_of
from xds.intake import Intake
from xds.metrics import Metrics
from xds.server import Call, Caller, Gate, Server
from xds.state import StateError

if TYPE_CHECKING:
    import grpc

    from xds.api.core import Key
    from xds.events import Watch
    from xds.explain.answer import Answer
    from xds.explain.question import Question
    from xds.fields import Problem
    from xds.ledger import Response
    from xds.rotation import Root
    from xds.sources.directory import Batch
    from xds.sources.informer import Status as Following
    from xds.stream import Session
    from xds.trust import Fleet, Status, Trust

log = logging.getLogger("xds")

TICK_S = 1.0
"""How often rotations and renewals are looked at: leaves are due within hours, barriers within a second."""

GC_THRESHOLDS = (50_000, 20, 50)
"""What a push leaves behind is freed by its reference count; cycles come from streams that end. With CPython's
700 young objects, one fan-out to 1,000 streams made several collections, each over all that the streams hold: a
quarter of its CPU. 50,000 are a few megabytes."""

GRACE_S = 0.5
"""How long open streams get at shutdown; proxies keep their configuration and reconnect."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Where one control plane listens."""

    xds: Address
    admin: Address
    health: Address | None = None
    """Health and metrics alone, for a kubelet and a scraper, while the API itself stays on loopback."""


class Home(Protocol):
    """Where a control plane lives: what it reads, who may call it, and where its keys are kept."""

    has_keys: bool
    """False: plaintext and no secret."""
    sees_sidecars: bool
    """Whether its Pods show their sidecars."""

    async def load(self, life: Life, /) -> Batch:
        """Return all that is in force as one batch, once all of it has been read."""
        ...

    def watch(self) -> AsyncGenerator[Batch]:
        """Yield what changes from then on."""
        ...

    def placed(self, problems: tuple[Problem, ...]) -> tuple[Problem, ...]:
        """Return the compiler's problems with their places, as far as there are any."""
        ...

    async def open(self, app: App, life: Life) -> grpc.ServerCredentials | None:
        """Open keys and ports of its own on the loaded world; None: the xDS port is plaintext."""
        ...

    async def authenticate(self, call: Call) -> Caller:
        """Return who is calling, or raise Refused."""
        ...

    def loading(self) -> str:
        """Return what `load` and `open` are waiting for."""
        ...

    def leads(self) -> bool:
        """Whether this is the replica that takes the steps of a rotation."""
        ...

    def fleet(self, own: Fleet) -> Fleet:
        """Return what every proxy has said, of which `own` are ours."""
        ...

    async def settled(self) -> None:
        """Wait until an ordered step of trust is in force; raises CaError if it is not."""
        ...

    def told(self, problems: tuple[Problem, ...]) -> None:
        """Take the problems of the world, at every batch and every second."""
        ...

    def answered(self, response: Response) -> None:
        """Take the answer of a proxy."""
        ...

    def counters(self) -> Mapping[str, int]:
        """Return what else is counted, by the name of the event."""
        ...

    def kinds(self) -> Iterable[Following]:
        """Return how each kind that it follows is doing; nothing where nothing is followed."""
        ...


class Life:
    """The life of one control plane: what it closes at its end, and the tasks that run until then."""

    def __init__(self, stack: AsyncExitStack, tasks: asyncio.TaskGroup) -> None:
        self.stack = stack
        self._tasks = tasks
        self._running: list[asyncio.Task[None]] = []

    def run(self, name: str, job: Coroutine[object, object, None]) -> None:
        """Start a task that lasts as long as the control plane; its failure ends the control plane."""
        self._running.append(self._tasks.create_task(job, name=name))

    def end(self) -> None:
        """Ask every task to stop."""
        for task in self._running:
            task.cancel()


def serve(app: App) -> int:
    """Serve until SIGINT or SIGTERM; return the exit code. A start that cannot succeed says why on stderr."""
    logs.to_stderr()
    code = 0
    try:
        uvloop.run(app.run())
    except* (StateError, OSError) as group:
        for error in leaves(group):
            sys.stderr.write(f"proa serve: {error}\n")
        code = 1
    return code


def leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    """Yield the errors of a group and of the groups in it."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from leaves(cast("BaseExceptionGroup[BaseException]", error))
        else:
            yield error


class App:
    """The tasks of one control plane and what they share."""

    def __init__(self, home: Home, ports: Ports, options: ServerOptions | None = None) -> None:
        self.home = home
        self.ports = ports
        self.plane = ControlPlane(has_keys=home.has_keys, sees_sidecars=home.sees_sidecars)
        self.metrics = Metrics(self._counters, self._readings)
        self._lag_s = 0.0
        self._is_synced = False
        self._read_problems: tuple[Problem, ...] = ()
        self.intake = Intake(self.plane)
        plane = self.plane
        self.server = Server(plane.snapshot, plane.registry, plane.ledger, self._gate(), options)

    async def run(self) -> None:
        """Load the world, open the ports, then run until a signal comes."""
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
            life = Life(stack, tasks)
            life.run("start", self._live(life))
            await stop.wait()
            life.end()

    async def _live(self, life: Life) -> None:
        """Load, then serve: in this order, because a proxy that is told half a world loses the other half."""
        if self.ports.health is not None:
            await life.stack.enter_async_context(admin.listening_health(self.facts(), self.ports.health))
        self.take(await self.home.load(life))
        credentials = await self.home.open(self, life)
        gc.collect()
        gc.set_threshold(*GC_THRESHOLDS)
        gc.freeze()  # the loaded world lives as long as the process: no collection need walk it again
        port = await self._start(credentials)
        life.stack.push_async_callback(self.server.stop, GRACE_S)
        at = await life.stack.enter_async_context(admin.listening(self.facts(), self.ports.admin))
        self._is_synced = True
        sys.stderr.write(f"proa serve: xds {Address(self.ports.xds.host, port)}, admin {at}\n")
        life.run("source", self._watch())
        life.run("trust", self._tick())
        life.run("sweeper", self.server.sweep())

    async def _start(self, credentials: grpc.ServerCredentials | None) -> int:
        try:
            return await self.server.start(str(self.ports.xds), credentials)
        except RuntimeError as error:  # gRPC's only word for a port that is taken
            raise OSError(f"--xds {self.ports.xds}: cannot listen: {error}") from None

    # -- tasks -----------------------------------------------------------------------------

    async def _watch(self) -> None:
        async for batch in self.home.watch():
            self.take(batch)

    async def _tick(self) -> None:
        while True:
            due = time.monotonic() + TICK_S
            await asyncio.sleep(TICK_S)
            self._lag_s = max(0.0, time.monotonic() - due)
            self._renew()
            woken, has_ended = self.plane.tick(time.time())
            if has_ended:
                self.server.wake(woken)
                self._report()
            self.home.told(self.plane.problems)
            self.plane.telemetry.prune(now_s=time.time())
            self.plane.sweep(time.time())

    def take(self, batch: Batch) -> None:
        """Bring one batch of changes into force."""
        woken = self.plane.apply(batch.changes, at=batch.detected_at, now=time.time(), broken=batch.broken)
        self.server.wake(woken)
        for key, _ in batch.changes:
            self.metrics.caused(key.kind)
        self._read_problems = batch.problems
        self._report()

    def _report(self) -> None:
        """Log each problem when it appears, not at every batch."""
        problems = (*self._read_problems, *self.home.placed(tuple(self.plane.plan.problems())))
        known = frozenset(self.plane.problems)
        for problem in problems:
            if problem not in known:
                log.warning("problem: %s", problem)
        self.plane.problems = problems
        self.home.told(problems)

    def _renew(self) -> None:
        """Take every step of trust that is due; a root that cannot sign keeps the leaves that are out."""
        trust = self.plane.trust
        if trust is None:
            return
        try:
            fleet = self.home.fleet(self.plane.fleet())
            puts = trust.tick(time.time(), fleet, leads=self.home.leads())
        except CaError:
            log.exception("certificate not renewed")
            return
        self.server.wake(self.plane.put_secrets(puts, time.time()))

    # -- decisions about calls -------------------------------------------------------------

    def _gate(self) -> Gate:
        return Gate(
            authenticate=self.home.authenticate,
            rule_of=lambda caller, kind: rule_of(caller, kind.url),
            connect=self.plane.connect,
            on_secret=self._on_secret,
            on_close=lambda session: self.server.wake(self.plane.close(session, time.time())),
            on_names=self._on_names,
            on_metrics=self.intake.on_metrics,
            on_logs=self.intake.on_logs,
            on_answer=self._on_answer,
            ready=lambda: self._is_synced,
            now=time.time,
            holds=lambda caller: caller is None or caller.holds(self.pod_facts),
        )

    def _counters(self) -> Mapping[str, int]:
        return {**self.server.counters, **self.home.counters(), **self.intake.counters()}

    def _readings(self) -> Iterator[Reading]:
        yield from gauges.of_ledger(self.plane.ledger)
        if self.plane.trust is not None:
            yield from gauges.of_trust(self._status())
        yield from gauges.of_kinds(self.home.kinds(), now_s=time.time())
        yield Reading("proa_event_loop_lag_seconds", self._lag_s)

    def pod_facts(self, namespace: str, pod: str) -> PodFacts | None:
        """Return what our own view says of a Pod, None if it knows none."""
        found = self.plane.plan.world.pod((namespace, pod))
        if found is None:
            return None
        backend = self.plane.plan.world.backend((namespace, pod))
        return PodFacts(backend.service_account, backend.workload, found.uid, found.finished)

    def _on_secret(self, session: Session, caller: Caller, name: str, claimed: str | None) -> None:
        try:
            woken = self.plane.on_secret(session, caller, name, claimed, time.time())
        except CaError:
            log.exception("certificate not issued", extra={"proxy": session.proxy})
            return
        self.server.wake(woken)

    def _on_names(self, session: Session, watch: Watch) -> None:
        self.server.wake(self.plane.on_names(session, watch, time.time()))

    def _on_answer(self, response: Response) -> None:
        self.metrics.answered(response)
        self.home.answered(response)

    # -- what the admin port asks ------------------------------------------------------------

    def facts(self) -> admin.Facts:
        """Return what the admin API may ask and order."""
        return admin.Facts(
            ledger=self.plane.ledger,
            metrics=self.metrics,
            not_ready=self._not_ready,
            workload=self._workload,
            problems=lambda: self.plane.problems,
            edges=self.intake.edges,
            evidence=self.intake.sightings,
            repeats=self.intake.repeats,
            explain=self._explain,
            seen=lambda node_id: self.plane.seen(node_id, time.time()),
            ca=self._status,
            rotate=self._rotate,
            retire=self._retire,
            fingerprint=self._fingerprint,
            settled=self.home.settled,
        )

    def _not_ready(self) -> str:
        return "" if self._is_synced else self.home.loading()

    def _fingerprint(self, key: Key) -> str:
        found = self.plane.store.get(key)
        return "" if found is None else fingerprint(found)

    def _workload(self, node_id: str) -> str:
        pod, _, namespace = node_id.rpartition(".")
        facts = self.pod_facts(namespace, pod)
        return f"{namespace}/{facts.workload}" if facts else ""

    async def _explain(self, question: Question) -> Answer:
        """Walk at once, on one state of the world; look for places in files beside the loop."""
        found = explain(self.plane.known(time.time()), question)
        return await asyncio.to_thread(located, found, lambda asked: self.home.placed(tuple(asked)))

    def _status(self) -> Status:
        return self._trusted().status(self.plane.fleet())

    def _rotate(self, root: Root) -> None:
        now = time.time()
        self.server.wake(self.plane.put_secrets(self._trusted().rotate(root, now), now))

    def _retire(self, root: Root) -> None:
        now = time.time()
        self.server.wake(self.plane.put_secrets(self._trusted().retire(root, now), now))

    def _trusted(self) -> Trust:
        if self.plane.trust is None:
            message = "this control plane runs with --insecure and has no certificate authority"
            raise CaError(message)
        return self.plane.trust
