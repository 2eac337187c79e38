"""What ``proa --help`` costs: against the smallest click program with the same verbs, in the same run."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from xds.__main__ import VERBS

ROOT = Path(__file__).resolve().parent.parent

RATIO_MAX = 1.5
ROUNDS = 9
"""Rounds of both programs, interleaved, so that load on the machine falls on both; medians ignore a hiccup."""

SMALLEST = "import click\n@click.group()\ndef main(): pass\n" + "".join(
    f"@main.command(help={verb.summary!r})\ndef {name}(): pass\n" for name, verb in VERBS.items()
)

HEAVY = (
    "rich",
    "grpc",
    "kubernetes",
    "google.protobuf",
    "aiohttp",
    "msgspec",
    "cryptography",
    "yaml",
    "asyncio",
)


def cpu_s(script: str) -> float:
    """Run a script with ``--help`` and return its user and system CPU seconds."""
    child = subprocess.Popen([sys.executable, "-c", script, "--help"], cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0
    return usage.ru_utime + usage.ru_stime


def test_help_costs_little_more_than_click_itself() -> None:
    """At most 1.5 times the CPU of the smallest click program with the same verbs."""
    ours, smallest = "from xds.__main__ import main\nmain()\n", f"{SMALLEST}main()\n"
    rounds = [(cpu_s(ours), cpu_s(smallest)) for _ in range(ROUNDS)]
    ratio = statistics.median(a for a, _ in rounds) / statistics.median(b for _, b in rounds)

    assert ratio <= RATIO_MAX


@pytest.mark.parametrize("heavy", HEAVY)
def test_help_imports_nothing_heavy(heavy: str) -> None:
    """What a verb needs is imported when it runs."""
    script = (
        "import sys\nfrom xds.__main__ import main\n"
        "main(['--help'], standalone_mode=False)\n"
        f"sys.exit({heavy!r} in sys.modules)\n"
    )
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.DEVNULL, check=False)

    assert result.returncode == 0
