"""The control groups of containers: their weight against everything else on this machine, and their removal.

It owns containerd's group in every hierarchy; it must never touch a group of another name.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

from xds.demo.processes import wait_until

_PARENT: Final = "k8s.io"
"""Containerd's name for its Kubernetes namespace; the same for every cluster."""

# A container without a request weighs 2, a process outside 1,024, and all containers together as much as one such
# process: with 20 of those, DNS queries were answered after 5 s. Sixteen times as much is more than the cluster's own
# components need together, and does not starve them.
_WEIGHTS: Final = {"cpu.shares": "16384", "cpu.weight": "1600"}  # versions 1 and 2

# The kernel empties a control group after its last process is gone.
_END_S: Final = 20.0


def prefer_containers() -> None:
    """Give all containers together the weight of 16 processes, wherever this machine weighs processors."""
    for root in _roots():
        group = root / _PARENT
        group.mkdir(exist_ok=True)
        for file, weight in _WEIGHTS.items():
            if (group / file).exists():
                (group / file).write_text(weight, encoding="ascii")


def of(folder: Path) -> list[Path]:
    """Return the control groups of a cluster's containers, one for each container and hierarchy of this machine.

    Containerd's list of tasks says whose they are.
    """
    tasks = folder / "own/run/containerd/io.containerd.runtime.v2.task" / _PARENT
    containers = sorted(task.name for task in tasks.iterdir()) if tasks.is_dir() else []
    groups = (root / _PARENT / container for root in _roots() for container in containers)
    return [group for group in groups if group.is_dir()]


def remove(folder: Path) -> None:
    """Remove a cluster's control groups when their processes are gone; DemoError when one is not after 20 s."""
    for group in of(folder):
        wait_until(f"end of {group}", lambda group=group: _is_removed(group), timeout_s=_END_S)
    for root in _roots():
        with contextlib.suppress(OSError):  # another cluster's containers are in it, or there is none
            (root / _PARENT).rmdir()


def _roots() -> list[Path]:
    mounts = [line.split() for line in Path("/proc/mounts").read_text("utf-8").splitlines()]
    return sorted({Path(fields[1]) for fields in mounts if fields[2] in {"cgroup", "cgroup2"}})


def _is_removed(group: Path) -> bool:
    for directory, _, _ in os.walk(group, topdown=False):
        try:
            Path(directory).rmdir()
        except FileNotFoundError:
            continue
        except OSError:  # the kernel still counts a process in it
            return False
    return True
