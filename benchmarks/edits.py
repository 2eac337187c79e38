"""What people wait for: a weight edited in a file until every Envoy has it, and `proa --help`.

It owns the edits and reads the time from the ledger; it must never replace an Envoy by something cheaper.
"""

from __future__ import annotations

import importlib.util
import shutil
import statistics
import time
from pathlib import Path
from types import ModuleType

from benchmarks.figures import Result
from benchmarks.fleet import laboratory
from xds.demo import programs
from xds.demo.manifests import read_pods, read_split
from xds.demo.mesh import Mesh
from xds.demo.processes import wait_until

LIVE_S = 10.0
"""An edit that is not live by then never will be."""


def run(result: Result) -> None:
    """Edit a weight of the demonstration's mesh of real Envoys, and ask for help."""
    _weights(result, 3 if result.is_quick else 100)
    _help(result, 3 if result.is_quick else 9)


def _weights(result: Result, edits: int) -> None:
    with laboratory() as lab:
        shutil.copytree(programs.examples() / "mesh", lab.work / "manifests")
        mesh = Mesh(lab.work)
        try:
            mesh.serve()
            pods = read_pods(mesh.manifests)
            for pod, child in [(pod, mesh.start_sidecar(pod)) for pod in pods]:
                mesh.wait_ready(pod, child)
            wait_until("every proxy has everything", lambda: _is_quiet(mesh, len(pods)), timeout_s=60)
            times = [_edit(mesh, number) for number in range(edits)]
        finally:
            mesh.stop()
    name = f"weight edit → ACKed by {len(pods)} Envoys, {edits} edits"
    result.add(f"{name}: p50", statistics.median(times), "ms")
    result.add(f"{name}: p99", sorted(times)[max(0, round(0.99 * edits) - 1)], "ms", target=300)
    result.add(f"{name}: slowest", max(times), "ms")


def _is_quiet(mesh: Mesh, proxies: int) -> bool:
    found = mesh.api.proxies()
    return len(found) == proxies and all(proxy.acked for proxy in found)


def _edit(mesh: Mesh, number: int) -> float:
    """Change the weights and return from the rename to the last ACK in milliseconds."""
    split = read_split(mesh.manifests)
    before = mesh.api.pushes()[0].id
    edited_at = split.write((10 + number % 80, 90 - number % 80))
    deadline = time.monotonic() + LIVE_S
    while time.monotonic() < deadline:
        newest = mesh.api.pushes()[0]
        if newest.id > before and newest.live_ms is not None:
            return (newest.at - edited_at) * 1000 + newest.live_ms
        time.sleep(0.02)
    message = "the edit did not become live"
    raise AssertionError(message)


def _help(result: Result, rounds: int) -> None:
    """Measure as tests/test_help_cost.py does: against the smallest click program with the same verbs."""
    test = _load(Path(__file__).resolve().parent.parent / "tests" / "test_help_cost.py")
    ours, smallest = "from xds.__main__ import main\nmain()\n", f"{test.SMALLEST}main()\n"
    seen = [(test.cpu_s(ours), test.cpu_s(smallest)) for _ in range(rounds)]
    helped, least = (statistics.median(pair[i] for pair in seen) for i in (0, 1))
    result.add("proa --help: CPU", helped * 1000, "ms")
    result.add("the smallest click program with the same verbs: CPU", least * 1000, "ms")
    result.add("proa --help against it", helped / least, "×", target=test.RATIO_MAX)


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
