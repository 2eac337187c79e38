"""CPU seconds of this process and of others.

It owns the reading of the kernel's counters; it must never use wall time, which a shared machine makes useless.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.figures import ROUNDS

_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_us(work: Callable[[], object], times: int) -> float:
    """Return the CPU time of one call in microseconds, from so many calls in a row."""
    before = time.process_time_ns()
    for _ in range(times):
        work()
    return (time.process_time_ns() - before) / times / 1000


def interleaved(works: Mapping[str, tuple[Callable[[], object], int]]) -> dict[str, list[float]]:
    """Return the CPU time of each work, in five rounds in which all take their turn."""
    rounds: dict[str, list[float]] = {name: [] for name in works}
    for work, times in works.values():
        cpu_us(work, max(1, times // 5))  # warm caches before anything counts
    for _ in range(ROUNDS):
        for name, (work, times) in works.items():
            rounds[name].append(cpu_us(work, times))
    return rounds


def ratio(above: list[float], below: list[float]) -> float:
    """Return the ratio of two medians of one run."""
    return statistics.median(above) / statistics.median(below)


def process_cpu_s(pid: int) -> float:
    """Return user and system seconds of another process, all threads."""
    fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def rss_mib(pid: int | str = "self") -> float:
    """Return the resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text("utf-8").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ProcessLookupError(pid)
