"""Which destinations each workload uses, learnt from the streams of its proxies and kept for its next one.

It owns that memory of one replica and its bounds; it must never decide what a name means.

    join(stream, workload) → what the workload is known to use
    use(stream, names)     → counts names that a stream holds
    leave(stream, now)     → the names that nobody of the workload, or of the namespace, holds any more
    forget(now)            drops workloads that have had no stream for a while
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from xds import settings

T = TypeVar("T")

Workload = tuple[str, str]
"""(namespace, workload)."""


@dataclass(slots=True)
class _Used:
    """One workload: its names, the oldest first, and since when it has had no stream (None: it has one)."""

    names: dict[str, None] = field(default_factory=dict[str, None])
    streams: int = 0
    idle_since: float | None = None


@dataclass(frozen=True, slots=True)
class Left:
    """What a stream was the last to hold: of its workload, and of its namespace."""

    namespace: str = ""
    of_workload: tuple[str, ...] = ()
    of_namespace: tuple[str, ...] = ()


class Demand:
    """The destinations of all workloads of which this replica serves, or has served, a proxy."""

    def __init__(
        self, *, names_max: int = settings.ON_DEMAND_NAMES_MAX, memory_s: float = settings.ON_DEMAND_MEMORY_S
    ) -> None:
        self._names_max = names_max
        self._memory_s = memory_s
        self._used: dict[Workload, _Used] = {}
        self._streams: dict[str, tuple[Workload, set[str]]] = {}
        self._in_workloads: Counter[tuple[Workload, str]] = Counter()
        self._in_namespaces: Counter[tuple[str, str]] = Counter()

    def join(self, stream: str, workload: Workload) -> tuple[str, ...]:
        """Begin a stream; return what its workload is known to use."""
        used = self._used.setdefault(workload, _Used())
        if stream not in self._streams:
            self._streams[stream] = (workload, set())
            used.streams += 1
            used.idle_since = None
        return tuple(used.names)

    def use(self, stream: str, names: Iterable[str]) -> list[str]:
        """Count names that a stream holds; return those that it did not hold before. A full memory learns no more."""
        workload, held = self._streams[stream]
        used = self._used[workload].names
        new = [name for name in dict.fromkeys(names) if name not in held]
        held.update(new)
        self._in_workloads.update((workload, name) for name in new)
        self._in_namespaces.update((workload[0], name) for name in new)
        for name in new:
            if len(used) < self._names_max:
                used[name] = None
        return new

    def leave(self, stream: str, now: float) -> Left:
        """End a stream; return what it was the last to hold."""
        workload, held = self._streams.pop(stream, (("", ""), set[str]()))
        used = self._used.get(workload)
        if used is None:
            return Left()
        used.streams -= 1
        if not used.streams:
            used.idle_since = now
        namespace = workload[0]
        of_workload = tuple(name for name in held if _was_last(self._in_workloads, (workload, name)))
        of_namespace = tuple(name for name in held if _was_last(self._in_namespaces, (namespace, name)))
        return Left(namespace, of_workload, of_namespace)

    def forget(self, now: float) -> None:
        """Drop what is known of workloads that have had no stream for a while."""
        until = now - self._memory_s
        for workload, used in list(self._used.items()):
            if used.idle_since is not None and used.idle_since <= until:
                del self._used[workload]

    def drop(self, workload: Workload, names: Iterable[str]) -> None:
        """Forget names that mean nothing any more, such as the addresses of Pods that are gone."""
        used = self._used.get(workload)
        for name in names if used is not None else ():
            used.names.pop(name, None)  # type: ignore[union-attr]  # the condition above

    def held(self, stream: str) -> frozenset[str]:
        """Return the names that a stream holds."""
        return frozenset(self._streams[stream][1]) if stream in self._streams else frozenset()

    def names(self, workload: Workload) -> tuple[str, ...]:
        """Return what a workload is known to use."""
        used = self._used.get(workload)
        return tuple(used.names) if used else ()

    @property
    def workloads(self) -> int:
        """The number of workloads that are remembered: what the memory costs."""
        return len(self._used)


def _was_last(holders: Counter[T], held: T) -> bool:
    """Count a holder out; return whether that was the last one."""
    holders[held] -= 1
    if holders[held]:
        return False
    del holders[held]
    return True
