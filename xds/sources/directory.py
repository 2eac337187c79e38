"""A directory of manifests as a source: read, watched, and handed on as one batch for each settled edit.

What the bytes mean is decided in ``manifest_file`` and what is in force in ``manifests``, both pure; the
system calls are in ``files``. It must never take an object out of force because a file could not be read.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import watchfiles

from xds import settings
from xds.api.core import Key
from xds.api.manifest import Object
from xds.fields import Problem, Severity
from xds.sources.endpoints import Derivation
from xds.sources.files import Files, RefusedError, Scan, Signature
from xds.sources.manifest_file import Spot, place, read_file, unreadable
from xds.sources.manifests import Manifests, duplicate

_QUIET_MS = 1000
"""How long the watcher waits before it says that nothing happened: the pulse of the rescan's clock."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One settled edit: what changed, everything that is wrong now, and when the edit was made.

    ``changes`` holds derived endpoint slices as well; None: the object is gone. ``broken`` are
    objects that a file holds and that could never be read. ``detected_at`` is in seconds since
    the epoch: the newest file's own time, else the time of the notice.
    """

    changes: tuple[tuple[Key, Object | None], ...]
    problems: tuple[Problem, ...]
    broken: frozenset[Key]
    detected_at: float


class Directory:
    """The manifests below one directory: ``load`` once, then ``watch``."""

    def __init__(self, root: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._root = root
        self._clock = clock
        self._files = Files(root)
        # Places are asked for beside the loop, while an edit may be read in another thread.
        self._lock = threading.RLock()
        self._manifests = Manifests()
        self._derivation = Derivation()
        self._signatures: dict[str, Signature] = {}
        self._digests: dict[str, bytes] = {}
        self._placed: dict[tuple[Problem, bytes | None], Problem] = {}
        self._unlisted: tuple[Problem, ...] = ()
        self._problems: tuple[Problem, ...] = ()

    def load(self) -> Batch:
        """Read every file and return all that is in force as one batch; raise NotADirectoryError."""
        if not self._root.is_dir():
            raise NotADirectoryError(f"{self._root} is not a directory")
        return self.rescan()

    def rescan(self) -> Batch:
        """Look at every file again and return what changed; a directory that cannot be listed changes nothing."""
        return self._refresh(None)

    async def watch(self) -> AsyncGenerator[Batch]:
        """Yield a batch for each settled edit that changes an object or a problem, until it is closed."""
        rescan_at = 0.0  # the first pulse looks once more: an edit may lie between load and watch
        async with aclosing(_notices(self._root)) as notices:
            async for paths in notices:
                now = time.monotonic()
                names = None if now >= rescan_at else self._files.affected(paths, self._manifests.names())
                if names is None:
                    rescan_at = now + settings.DIRECTORY_RESCAN_S
                elif not names:
                    continue
                before = self._problems
                batch = await asyncio.to_thread(self._refresh, names)
                if batch.changes or batch.problems != before:
                    yield batch

    def problems(self) -> tuple[Problem, ...]:
        """Return everything that is wrong with the files now, in the order of their places."""
        return self._problems

    def placed(self, problems: Iterable[Problem]) -> tuple[Problem, ...]:
        """Return the problems with ``where`` filled in from the file of their object, as far as there is one.

        Reads those files once more, so it is meant for what is about to be reported.
        """
        with self._lock:
            return self._placed_all(list(problems))

    def _placed_all(self, listed: list[Problem]) -> tuple[Problem, ...]:
        by_file: dict[str, list[tuple[int, Spot]]] = {}
        for index, problem in enumerate(listed):
            found = None if problem.where else self._manifests.spot(_key(problem.subject))
            if found is not None:
                by_file.setdefault(found[0], []).append((index, found[1]))
        for name, wanted in by_file.items():
            placed = self._place(name, [(spot, listed[index]) for index, spot in wanted])
            for (index, _), problem in zip(wanted, placed, strict=True):
                listed[index] = problem
        return tuple(listed)

    def _refresh(self, names: frozenset[str] | None) -> Batch:
        """Look at some files (None: at all) and return what that changes."""
        with self._lock:
            return self._look(names)

    def _look(self, names: frozenset[str] | None) -> Batch:
        noticed_at = self._clock()
        scan = self._files.scan() if names is None else self._files.look(names)
        if names is None:
            self._unlisted = tuple(map(_unlisted, sorted(scan.unlisted)))
        edited = [name for name in sorted(scan.files) if self._signatures.get(name) != scan.files[name]]
        for name in edited:
            self._read(name, scan.files[name])
        for name, reason in scan.refused.items():
            self._refuse(name, reason)
        for name in self._gone(scan, names):
            self._forget(name)
        return self._settle(_edit_time((scan.files[name] for name in edited), noticed_at))

    def _gone(self, scan: Scan, names: frozenset[str] | None) -> list[str]:
        known = self._manifests.names() if names is None else self._manifests.names() & names
        absent = known - scan.files.keys() - scan.refused.keys()
        return [name for name in absent if not scan.hides(name)]

    def _settle(self, detected_at: float) -> Batch:
        changes = self._manifests.settle()
        changes += self._derivation.apply(changes)
        problems = [*self._manifests.problems(), *self._unlisted, *self._duplicates()]
        problems += self._derived_problems()
        self._problems = tuple(sorted(problems, key=_reading_order))
        return Batch(changes, self._problems, self._manifests.broken(), detected_at)

    def _derived_problems(self) -> Iterable[Problem]:
        """Return the derivation's problems with their places; those of untouched files are not placed again."""
        known, self._placed = self._placed, {}
        for key, problem in self._derivation.problems():
            found = self._manifests.spot(key)
            stamp = (problem, self._digests.get(found[0]) if found else None)
            self._placed[stamp] = known.get(stamp, problem)
        self._placed = dict(zip(self._placed, self.placed(self._placed.values()), strict=True))
        return self._placed.values()

    def _read(self, name: str, seen: Signature) -> None:
        try:
            content, seen = self._files.read(name)
        except FileNotFoundError:
            self._forget(name)
            return
        except RefusedError as refusal:
            self._refuse(name, str(refusal))
            self._signatures[name] = seen
            return
        self._signatures[name] = seen
        digest = hashlib.blake2b(content, digest_size=16).digest()
        if self._digests.get(name) != digest:
            self._digests[name] = digest
            self._manifests.put(name, read_file(name, content))

    def _refuse(self, name: str, reason: str) -> None:
        self._forget_signature(name)
        self._manifests.put(name, unreadable(name, reason))

    def _forget(self, name: str) -> None:
        self._forget_signature(name)
        self._manifests.drop(name)

    def _forget_signature(self, name: str) -> None:
        self._signatures.pop(name, None)
        self._digests.pop(name, None)

    def _place(self, name: str, problems: list[tuple[Spot, Problem]]) -> tuple[Problem, ...]:
        try:
            text = self._files.read(name)[0].decode("utf-8-sig")
        except (FileNotFoundError, RefusedError, UnicodeDecodeError):
            return tuple(problem.at(f"{name}:1:1") for _, problem in problems)
        return place(name, text, problems)

    def _duplicates(self) -> Iterator[Problem]:
        for name, spot, key in self._manifests.duplicates():
            (first,) = self.placed((Problem(Severity.ERROR, str(key), "", ""),))
            yield from self._place(name, [(spot, duplicate(key, first.where))])


async def _notices(root: Path) -> AsyncGenerator[tuple[str, ...]]:
    """Yield the paths of each settled edit, and nothing (an empty tuple) once in a quiet second."""
    watch = cast("Callable[..., AsyncGenerator[set[tuple[object, str]]]]", getattr(watchfiles, "awatch"))  # noqa: B009 -- half typed
    changes = watch(
        root,
        watch_filter=None,
        debounce=settings.DIRECTORY_DEBOUNCE_MS,
        step=settings.DIRECTORY_STEP_MS,
        rust_timeout=_QUIET_MS,
        yield_on_timeout=True,
        recursive=True,
        ignore_permission_denied=True,
    )
    async with aclosing(changes):
        async for change in changes:
            yield tuple(path for _, path in change)


def _key(subject: str) -> Key:
    kind, _, rest = subject.partition(" ")
    namespace, slash, name = rest.partition("/")
    return Key(kind, namespace, name) if slash else Key(kind, "", rest)


def _unlisted(directory: str) -> Problem:
    reason = "cannot be listed; what it held stays in force"
    return Problem(Severity.ERROR, directory, "", reason, f"{directory}:1:1")


def _edit_time(edited: Iterable[Signature], noticed_at: float) -> float:
    """Return when the newest of the files was written or renamed, as far as that can be believed."""
    newest = max((signature.ctime_ns for signature in edited), default=0) / 1e9
    return newest if noticed_at - settings.DIRECTORY_NOTICE_MAX_S <= newest <= noticed_at else noticed_at


def _reading_order(problem: Problem) -> tuple[str, int, int, str]:
    """Order problems by file, then line and column as numbers."""
    name, line, column = problem.where.rsplit(":", 2) if problem.where else ("", "0", "0")
    return name, int(line), int(column), str(problem)
