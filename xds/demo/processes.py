"""Child processes that are started with a log, watched, and stopped in the order opposite to their start.

It owns processes by their handle; it must never signal one that it has not started.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

# A service drains for at most 10 s (examples/go-services, --drain); two more and it is stuck.
_TERMINATE_S: Final = 12.0

# A condition is looked at this often: far below what people notice, far above a busy loop.
_POLL_S: Final = 0.05

_PR_SET_PDEATHSIG: Final = 1  # prctl(2)
_LOG_TAIL_BYTES: Final = 4_000


class DemoError(Exception):
    """Something outside this program is missing or failed; the text says what and how to fix it."""


@dataclass(frozen=True, slots=True)
class Child:
    """One running process and where its words go."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def is_alive(self) -> bool:
        """Tell whether the process still runs."""
        return self.process.poll() is None

    def tail(self) -> str:
        """Return the end of the log, for an error message."""
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - _LOG_TAIL_BYTES))
            return file.read().decode("utf-8", "replace").strip()

    def stop(self) -> None:
        """End the process: SIGTERM, and SIGKILL if that is ignored for 12 s."""
        if self.is_alive:
            self.process.terminate()
            try:
                self.process.wait(_TERMINATE_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class Family:
    """All children of one run."""

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self._children: list[Child] = []
        logs.mkdir(parents=True, exist_ok=True)

    def start(
        self,
        name: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        stdout: int | None = None,
    ) -> Child:
        """Start a process; its output goes to LOGS/name.log, or stdout to a pipe if asked for."""
        log = self.logs / f"{name}.log"
        with log.open("ab") as sink:
            child = Child(name, _spawn(argv, env, sink, stdout), log)
        self._children.append(child)
        return child

    def stop(self) -> None:
        """Stop every child, the last one started first."""
        for child in reversed(self._children):
            child.stop()
        self._children.clear()

    def stop_one(self, child: Child) -> None:
        """Stop one child and forget it."""
        child.stop()
        self._children.remove(child)

    def dead(self) -> tuple[Child, ...]:
        """Return the children that ended by themselves."""
        return tuple(child for child in self._children if not child.is_alive)


def wait_until(
    what: str, is_true: Callable[[], bool], *, timeout_s: float, child: Child | None = None
) -> None:
    """Wait for a condition; DemoError names it when the time is over or `child` died of its own."""
    deadline = time.monotonic() + timeout_s
    while not is_true():
        if child is not None and not child.is_alive:
            message = f"{child.name} ended with code {child.process.returncode}:\n{child.tail()}"
            raise DemoError(message)
        if time.monotonic() > deadline:
            words = f"\n{child.name} said:\n{child.tail()}" if child is not None else ""
            message = f"not within {timeout_s:g} s: {what}{words}"
            raise DemoError(message)
        time.sleep(_POLL_S)


def _spawn(
    argv: Sequence[str], env: Mapping[str, str] | None, log: IO[bytes], stdout: int | None
) -> subprocess.Popen[bytes]:
    libc = ctypes.CDLL(None)  # loaded here: the child may not load anything between fork and exec

    def die_with_parent() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    return subprocess.Popen(
        argv,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=log if stdout is None else stdout,
        stderr=log,
        # A session of its own: Ctrl-C reaches us alone, and we stop the others in order.
        start_new_session=True,
        # Nothing outlives us, not even after SIGKILL.
        preexec_fn=die_with_parent,  # noqa: PLW1509  # started from the main thread before any other exists
    )
