"""What a benchmark found: figures against their targets, one table, one JSON document with machine and versions.

It owns the form of the results; it must never measure anything itself.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

SCHEMA: Final = "proa.dev/benchmark/v1"
"""Changes when a field changes its meaning; new fields do not change it."""

RESULTS: Final = Path(__file__).resolve().parent / "results"

ROUNDS: Final = 5
"""Rounds of everything that is compared, interleaved; the median of five ignores two hiccups of the machine."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One number; `target` is its upper bound, None for what is reported only."""

    name: str
    value: float
    unit: str
    target: float | None = None
    rounds: tuple[float, ...] = ()

    @property
    def verdict(self) -> str:
        """Say ok, MISS, or nothing where there is no target."""
        return "" if self.target is None else "ok" if self.value <= self.target else "MISS"

    def document(self) -> dict[str, object]:
        """Return the figure as it stands in the JSON document."""
        return {
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "target": self.target,
            "verdict": self.verdict,
            "rounds": list(self.rounds),
        }


@dataclass(slots=True)
class Result:
    """All figures of one benchmark."""

    name: str
    is_quick: bool
    figures: list[Figure] = field(default_factory=list[Figure])
    started: float = field(default_factory=time.time)

    def add(
        self, name: str, value: float | Sequence[float], unit: str, *, target: float | None = None
    ) -> Figure:
        """Add a figure; of several rounds the median counts."""
        rounds = () if isinstance(value, (int, float)) else tuple(value)
        middle = statistics.median(rounds) if rounds else float(value)  # type: ignore[arg-type]
        found = Figure(name, _rounded(middle), unit, target, tuple(_rounded(one) for one in rounds))
        self.figures.append(found)
        return found

    def table(self) -> str:
        """Return the figures as text, one a line."""
        lines = [f"{self.name}{' (quick: sizes too small for the targets)' if self.is_quick else ''}"]
        width = max(len(one.name) for one in self.figures)
        for one in self.figures:
            target = "" if one.target is None else f"≤ {one.target:g}"
            spread = f"[{min(one.rounds):g} … {max(one.rounds):g}]" if one.rounds else ""
            lines.append(
                f"  {one.name:<{width}}  {one.value:>10g} {one.unit:<7} {target:>8}  {one.verdict:<4}  {spread}"
            )
        return "\n".join(line.rstrip() for line in lines)

    def write(self, directory: Path = RESULTS) -> Path:
        """Write the document and return its path."""
        directory.mkdir(exist_ok=True)
        path = directory / f"{self.name}.json"
        path.write_text(json.dumps(self.document(), indent=1, ensure_ascii=False) + "\n", "utf-8")
        return path

    def document(self) -> dict[str, object]:
        """Return everything: figures, machine, versions, when and how long."""
        return {
            "schema": SCHEMA,
            "benchmark": self.name,
            "quick": self.is_quick,
            "started": self.started,
            "seconds": round(time.time() - self.started, 1),
            "machine": machine(),
            "versions": versions(),
            "figures": [one.document() for one in self.figures],
        }


def machine() -> dict[str, object]:
    """Return what the figures were taken on, and how busy it was."""
    cpu = [
        line
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        if line.startswith("model name")
    ]
    memory = Path("/proc/meminfo").read_text("utf-8").split()[1]
    return {
        "cpu": cpu[0].partition(": ")[2] if cpu else platform.machine(),
        "cores": os.cpu_count(),
        "memory_mib": int(memory) // 1024,
        "kernel": platform.release(),
        "load_average": list(os.getloadavg()),
    }


def versions() -> dict[str, str]:
    """Return the versions of what the figures depend on."""
    packages = ("proa", "grpcio", "protobuf", "msgspec", "uvloop", "xxhash", "cryptography")
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
    }


def _rounded(value: float) -> float:
    """Keep four digits: more would be noise."""
    return float(f"{value:.4g}")
