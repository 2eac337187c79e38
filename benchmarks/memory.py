"""What a large world costs to hold: the resident memory of a control plane without proxies.

It owns the measurement, in a process of its own that imports what `proa serve` imports; it must never count what
only the benchmark needs.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys

from benchmarks import clock, worlds
from benchmarks.figures import Result
from xds.channel import force_tls13

RSS_MIB_MAX = 250
BATCH = 100
"""Services in one change: as a source lists them page by page, so that no list of everything exists."""


def run(result: Result) -> None:
    """Load 10,000 services with 10 endpoints each, in a fresh process."""
    services = 100 if result.is_quick else 10_000
    argv = [sys.executable, "-m", "benchmarks.memory", str(services)]
    found = json.loads(subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout)
    name = f"{services} services, {10 * services} endpoints"
    result.add(f"{name}: RSS", found["rss_mib"], "MiB", target=RSS_MIB_MAX)
    result.add("the same process with an empty world: RSS", found["empty_mib"], "MiB")
    result.add(f"{name}: CPU of the first load", found["load_cpu_s"], "s")


def main(services: int) -> None:
    """Load the world as events would, and print what the process holds."""
    force_tls13()
    import xds.standalone
    from xds.control import ControlPlane

    assert xds.standalone.compose
    plane = ControlPlane()
    empty = clock.rss_mib()
    spent_us = 0.0
    plane.apply(worlds.objects([worlds.namespace()]), at=0.0, now=0.0)
    manifests = worlds.services(services, 10)
    for _ in range(services // BATCH):
        batch = worlds.objects(next(manifests) for _ in range(2 * BATCH))
        spent_us += clock.cpu_us(lambda found=batch: plane.apply(found, at=0.0, now=0.0), 1)
    gc.collect()
    held = sum(1 for _ in plane.plan.world.services())
    assert held == services
    found = {"rss_mib": clock.rss_mib(), "empty_mib": empty, "load_cpu_s": spent_us / 1e6}
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]))
