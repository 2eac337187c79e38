"""A Kubernetes cluster as a source: every kind that Proa reads followed, and handed on as one batch a turn.

What an event means is decided in ``reflector``, what is in force in ``mirror``, both pure. It must never hand on
anything before every kind is complete, nor take an object out of force because the API could not be asked.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec

from xds import settings
from xds.api import mesh
from xds.api.manifest import BUILT_IN, CUSTOM
from xds.fields import Problem, Severity
from xds.sources.directory import Batch
from xds.sources.discovery import (
    DEFINITIONS,
    Definition,
    group_of,
    group_path,
    kind_of,
    read_definition,
    read_group,
)
from xds.sources.envelope import Name
from xds.sources.informer import Informer, Status
from xds.sources.mirror import Kind, Mirror
from xds.sources.reflector import Backoff, Delta, Put
from xds.sources.transport import ApiError, Transport

log = logging.getLogger("xds.kubernetes")

_NOT_FOUND = 404
_REFUSED_FROM, _BROKEN_FROM = 400, 500

T = TypeVar("T")

_MESH = Kind(
    "ConfigMap",
    "v1",
    f"/api/v1/namespaces/{mesh.HOME_NAMESPACE}/configmaps",
    f"metadata.name={mesh.NAME}",
)
"""The mesh's settings: one object, so that no other ConfigMap of the cluster is ever read."""

_GROUPS: Final = frozenset(group_path(version) for versions in BUILT_IN.values() for version in versions)
_CUSTOM_GROUPS: Final = frozenset(
    version.partition("/")[0] for versions in CUSTOM.values() for version in versions
)


@dataclass(slots=True)
class _Followed:
    """A running informer; ``uid`` is its definition's, empty for Kubernetes' own kinds."""

    informer: Informer
    task: asyncio.Task[None]
    uid: str = ""


class Kubernetes:
    """One cluster: start ``run`` as a task, ``load`` once, then ``watch``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._mirror = Mirror()
        self._followed: dict[str, _Followed] = {}
        self._definitions = Informer(transport, DEFINITIONS, self._define, is_metadata_only=True)
        self._resolving: dict[str, asyncio.Task[None]] = {}
        self._unserved: dict[str, Problem] = {}
        self._defined: dict[str, str] = {}
        self._undiscovered = set(_GROUPS)
        self._changed = asyncio.Event()
        self._synced = asyncio.Event()
        self._returned = asyncio.Event()
        self._unanswered = 0
        self._refusals = 0
        self._arrived_at: float | None = None
        self._told: tuple[Problem, ...] = ()
        self._tasks = asyncio.TaskGroup()

    async def run(self) -> None:
        """Follow the cluster until this is cancelled."""
        async with self._tasks:
            self._start(_MESH)
            self._tasks.create_task(self._definitions.run(), name="informer CustomResourceDefinition")
            self._tasks.create_task(self._probe(), name="apiserver probe")
            for path in sorted(_GROUPS):
                self._tasks.create_task(self._discover(path), name=f"discovery {path}")

    async def load(self) -> Batch:
        """Return everything as one batch once every kind has been listed completely, however long that takes."""
        await self._synced.wait()
        return self._settle()

    async def watch(self) -> AsyncGenerator[Batch]:
        """Yield a batch for what arrived together and changes an object or a problem, until it is closed."""
        while True:
            await self._changed.wait()
            before = self._told
            batch = self._settle()
            if batch.changes or batch.problems != before:
                yield batch

    def problems(self) -> tuple[Problem, ...]:
        """Return everything that is wrong with objects and definitions now."""
        return (*self._mirror.problems(), *(self._unserved[name] for name in sorted(self._unserved)))

    def placed(self, problems: Iterable[Problem]) -> tuple[Problem, ...]:
        """Return the problems as they are: in a cluster an object's name is its place."""
        return tuple(problems)

    def unsynced(self) -> tuple[str, ...]:
        """Return what has not been read completely yet, for /ready; empty from the first complete load on."""
        if self._synced.is_set():
            return ()
        waiting = [name for name, followed in self._followed.items() if not followed.informer.is_synced]
        waiting += [] if self._definitions.is_synced else [DEFINITIONS.name]
        return (*sorted(waiting), *sorted(self._undiscovered), *sorted(self._resolving))

    def statuses(self) -> tuple[Status, ...]:
        """Return how each kind is doing, by name."""
        followed = [followed.informer for followed in self._followed.values()]
        return tuple(sorted((i.status() for i in (*followed, self._definitions)), key=lambda s: s.kind))

    # -- what arrives ----------------------------------------------------------------------

    def _take(self, informer: Informer, deltas: Iterable[Delta], arrived_at: float) -> None:
        for delta in deltas:
            if isinstance(delta, Put):
                self._mirror.put(informer.kind, delta.name, delta.raw)
            else:
                self._mirror.gone(informer.kind, delta.name)
        self._touch(arrived_at)

    def _touch(self, arrived_at: float) -> None:
        self._arrived_at = arrived_at if self._arrived_at is None else self._arrived_at
        self._changed.set()
        if not self._synced.is_set() and not self.unsynced():
            self._synced.set()

    def _settle(self) -> Batch:
        self._changed.clear()
        held = {name for name, followed in self._followed.items() if not followed.informer.is_synced}
        changes = self._mirror.settle(held)
        detected_at = time.time() if self._arrived_at is None else self._arrived_at
        self._arrived_at = None
        self._told = self.problems()
        return Batch(changes, self._told, self._mirror.broken(), detected_at)

    # -- which kinds there are -------------------------------------------------------------

    async def _discover(self, path: str) -> None:
        """Follow those of our kinds that a group of Kubernetes serves; an older one may lack some."""
        served = await self._ask(path, read_group)
        for name, versions in BUILT_IN.items():
            if served and name in served and group_path(versions[0]) == path:
                self._start(Kind(name, versions[0], f"{path}/{served[name]}"))
        self._undiscovered.discard(path)
        self._touch(time.time())

    def _define(self, _: Informer, deltas: Iterable[Delta], arrived_at: float) -> None:
        """A definition came, changed or went; only its going takes its objects with it."""
        for delta in deltas:
            name = delta.name.name
            if group_of(name) not in _CUSTOM_GROUPS:
                continue
            resolving = self._resolving.pop(name, None)
            if resolving is not None:
                resolving.cancel()
            if isinstance(delta, Put):
                task = self._tasks.create_task(self._resolve(name), name=f"definition {name}")
                self._resolving[name] = task
            else:
                self._undefine(name)
        self._touch(arrived_at)

    async def _resolve(self, name: str) -> None:
        """Ask for a whole definition and follow its kind, in another version if that is what is served now."""
        definition = await self._ask(f"{DEFINITIONS.path}/{name}", read_definition)
        del self._resolving[name]
        if definition is not None:
            self._follow(name, definition)
        self._touch(time.time())

    def _follow(self, name: str, definition: Definition) -> None:
        kind = kind_of(definition, CUSTOM)
        self._unserved.pop(name, None)
        if kind is None or not definition.is_established:
            return
        if isinstance(kind, str):
            self._unserved[name] = Problem(
                Severity.ERROR, f"{DEFINITIONS.name} {name}", "spec.versions", kind
            )
            return
        before = self._followed.get(kind.name)
        if before is None or (before.informer.kind, before.uid) != (kind, definition.metadata.uid):
            known: tuple[Name, ...] = ()
            if before is not None:
                before.task.cancel()
                known = before.informer.names()
            self._start(kind, known=known, uid=definition.metadata.uid)
        self._defined[name] = kind.name

    def _undefine(self, definition: str) -> None:
        self._unserved.pop(definition, None)
        followed = self._followed.pop(self._defined.pop(definition, ""), None)
        if followed is not None:
            followed.task.cancel()
            self._mirror.gone_all(followed.informer.kind, followed.informer.names())
            log.info("kind no longer defined: kind=%s", followed.informer.kind.name)

    def _start(self, kind: Kind, *, known: Iterable[Name] = (), uid: str = "") -> None:
        informer = Informer(self._transport, kind, self._take, known=known)
        task = self._tasks.create_task(informer.run(), name=f"informer {kind.name}")
        self._followed[kind.name] = _Followed(informer, task, uid)

    # -- when the API does not answer ------------------------------------------------------

    async def _ask(self, path: str, read: Callable[[bytes], T]) -> T | None:
        """Return a document, None where the API says that there is none; asks until it says one of the two."""
        backoff = Backoff(random.random)
        while True:
            try:
                return read(await self._transport.call("GET", path))
            except ApiError as error:
                if error.status == _NOT_FOUND:
                    return None
                failure = str(error)
            except msgspec.DecodeError as error:
                failure = f"cannot be read: {error}"
            log.warning("API not read: path=%s reason=%s", path, failure)
            self._unanswered += 1
            try:
                async with asyncio.timeout(backoff.next_s(asyncio.get_running_loop().time())):
                    await self._returned.wait()
            except TimeoutError:
                pass
            finally:
                self._unanswered -= 1

    async def _probe(self) -> None:
        """While the API does not answer, ask it every second for all who wait, and tell them when it does."""
        while True:
            await asyncio.sleep(settings.KUBE_PROBE_S)
            informers = [followed.informer for followed in self._followed.values()]
            waiting = [informer for informer in (*informers, self._definitions) if informer.is_cut_off]
            if (waiting or self._unanswered) and await self._answers():
                for informer in waiting:
                    informer.reachable()
                self._returned.set()
                self._returned.clear()

    async def _answers(self) -> bool:
        """Ask whether the API is ready; who may not ask takes a refusal for an answer, once it has lasted.

        Everybody may, unless somebody took that right away; while the apiserver has not read its roles, nobody.
        """
        try:
            await self._transport.call("GET", "/readyz", timeout_s=settings.KUBE_PROBE_TIMEOUT_S)
        except ApiError as error:
            is_refused = _REFUSED_FROM <= error.status < _BROKEN_FROM
            self._refusals = self._refusals + 1 if is_refused else 0
            return self._refusals >= settings.KUBE_PROBE_REFUSALS
        self._refusals = 0
        return True
