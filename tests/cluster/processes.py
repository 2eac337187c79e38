"""The processes of a cluster: started with a mark in their environment, and found again by it, even by another program.

It owns start, search and end of marked processes; it must never signal one that does not carry the cluster's mark.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from xds.demo.processes import wait_until

FOLDER: Final = "PROA_CLUSTER_FOLDER"
"""The environment variable that says to which cluster a process belongs; a container's shim inherits it."""

_COMPONENT: Final = "PROA_CLUSTER_COMPONENT"

# SIGKILL takes effect in milliseconds, except for a process that the kernel holds in a disk write.
_END_S: Final = 20.0


def start(folder: Path, component: str, argv: Sequence[str], *, is_bound: bool) -> None:
    """Start a component in a session of its own; its words go to ``logs/COMPONENT.log``.

    `is_bound`: the kernel ends it when the thread that starts it ends, so that a killed test run leaves none.
    """
    log = log_of(folder, component)
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [*(["setpriv", "--pdeathsig", "KILL", "--"] if is_bound else []), *argv]
    program = shutil.which(command[0])
    if program is None:
        message = f"{command[0]} is not installed: run `make cluster-up` as root, it installs what is missing"
        raise RuntimeError(message)
    # No subprocess.Popen: its owner must live as long as the process, and a cluster outlives its starter.
    pid = os.posix_spawn(
        program,
        command,
        {**os.environ, FOLDER: str(folder), _COMPONENT: component},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
        setsigmask=(),  # ours may be blocked, and Python ignores SIGPIPE
        setsigdef=(signal.SIGPIPE,),
    )
    with _spawned(folder).open("a", encoding="utf-8") as file:
        file.write(f"{pid}\n")


def log_of(folder: Path, component: str) -> Path:
    """Return the file with a component's words."""
    return folder / "logs" / f"{component}.log"


def find(folder: Path, component: str = "") -> list[int]:
    """Return the ids of the living processes that carry a cluster's mark, of one component or of all."""
    marks = {f"{FOLDER}={folder}".encode()}
    if not component:
        return [pid for pid in _pids() if marks <= _environment(pid)]
    marks.add(f"{_COMPONENT}={component}".encode())
    return [pid for pid in _pids() if marks <= _environment(pid) and not _is_shim(pid)]


def end(folder: Path, component: str = "", *, number: signal.Signals = signal.SIGKILL) -> None:
    """Signal the marked processes; with SIGKILL or SIGTERM, return when none is left.

    The first process of a process namespace has ended when all others in it have: the kernel waits for them.
    DemoError when one is still there after 20 s.
    """
    with contextlib.ExitStack() as stack:
        # All of them before the first signal: the end of one may be the end of another.
        handles = list(_handles(stack, folder, component))
        for handle in handles:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, number)
        if number in {signal.SIGKILL, signal.SIGTERM}:
            wait_until(
                f"end of {component or 'the components'} of {folder}",
                lambda: not _left(folder, component) and _have_ended(handles),
                timeout_s=_END_S,
            )


def _have_ended(handles: Sequence[int]) -> bool:
    """Tell whether processes are over; one that is ending already shows no environment, and is not found."""
    ends = select.poll()
    for handle in handles:
        ends.register(handle, select.POLLIN)
    return len(ends.poll(0)) == len(handles)


def _left(folder: Path, component: str) -> bool:
    _reap(folder)
    return bool(find(folder, component))


def _pids() -> Iterator[int]:
    return (int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit())


def _environment(pid: int) -> set[bytes]:
    """Return the variables that a process was started with; none for a zombie or for one that is gone."""
    try:
        return set(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return set()


def _is_shim(pid: int) -> bool:
    """Tell whether a process keeps a container: it has containerd's mark, and outlives it, as everywhere."""
    try:
        return Path(f"/proc/{pid}/comm").read_text("utf-8").startswith("containerd-shim")
    except (FileNotFoundError, ProcessLookupError):
        return False


def _handles(stack: contextlib.ExitStack, folder: Path, component: str) -> Iterator[int]:
    """Yield a handle of each marked process, so that a number that the kernel gave away meanwhile hits nobody."""
    for pid in find(folder, component):
        with contextlib.suppress(ProcessLookupError):
            handle = os.pidfd_open(pid)
            stack.callback(os.close, handle)
            if f"{FOLDER}={folder}".encode() in _environment(pid):
                yield handle


def _reap(folder: Path) -> None:
    """Take our own children that ended: nothing else waits for them. Other children have owners who do."""
    spawned = _spawned(folder)
    for pid in map(int, spawned.read_text("utf-8").split() if spawned.exists() else ()):
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def _spawned(folder: Path) -> Path:
    return folder / "logs" / "pids"
