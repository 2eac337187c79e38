"""`make bench`: run the benchmarks, print their tables, write their JSON.

It owns the order and the command line; it must never fail because a figure misses its target: the table says it.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import Final

from benchmarks.figures import RESULTS, Result

NAMES = (
    "events",
    "building",
    "memory",
    "telemetry",
    "fanout",
    "streams",
    "outbound",
    "requests",
    "limits",
    "webhook",
    "edits",
    "policy",
)
"""In this order: what needs a quiet process first, what starts many processes last."""

APART: Final = ("losses", "ready", "outage", "idle", "instructions")
"""Only by their names: they need a cluster and most of them root, or valgrind, and take minutes."""


def main(argv: list[str]) -> int:
    """Run what the arguments name, by default all but those apart; `quick`: sizes so small that it takes seconds."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"quick, or any of {', '.join((*NAMES, *APART))}"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="directory of the JSON documents")
    args = parser.parse_args(argv)
    unknown = set(args.names) - {"quick", *NAMES, *APART}
    if unknown:
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join((*NAMES, *APART))}")
    is_quick = "quick" in args.names
    chosen = [name for name in (*NAMES, *APART) if name in args.names] or list(NAMES)
    missed = 0
    for name in chosen:
        result = measure(name, is_quick=is_quick)
        path = result.write(args.results)
        print(f"{result.table()}\n  → {path}\n", flush=True)
        missed += sum(figure.verdict == "MISS" for figure in result.figures)
    print(f"{missed} figures miss their target" if missed and not is_quick else "done")
    return 0


def measure(name: str, *, is_quick: bool) -> Result:
    """Run one benchmark."""
    result = Result(name, is_quick)
    importlib.import_module(f"benchmarks.{name}").run(result)
    return result


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
