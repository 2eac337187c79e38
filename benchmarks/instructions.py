"""What one request makes a sidecar execute: instructions of its worker thread, counted by valgrind's callgrind.

It owns the counting; the ways are those of `requests`. Time says what a request costs on this machine at this hour, a
count says what a change of ours costs: it needs no quiet machine, and it must never be called a time.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import subprocess
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from benchmarks import stock
from benchmarks.figures import Result
from benchmarks.fleet import Lab, laboratory
from benchmarks.requests import FLOOR, NOTHING, WAYS, applications, manifests, rig_and_collector
from xds.demo.manifests import OUTBOUND_PORT
from xds.demo.processes import Child, wait_until

START_S: Final = 120.0
"""An Envoy under valgrind starts in 10 s where it has a core for itself."""

_WARM: Final = 30
"""Requests before those that count: allocators and caches of Envoy have then seen one."""

_HTTP_OK: Final = 200
_TOTALS: Final = re.compile(r"^totals: (\d+)", re.MULTILINE)

_Send = Callable[[int], None]


def run(result: Result) -> None:
    """Count for each way at both sides; the other side runs at full speed meanwhile."""
    requests, ways = (20, WAYS[:1]) if result.is_quick else (200, WAYS)
    rig, otlp = rig_and_collector()
    counts: dict[tuple[str, str], float] = {}
    with tempfile.TemporaryDirectory() as folder, otlp.sink(Path(folder)) as sink, laboratory() as lab:
        mesh = rig.MeshUnderTest(
            lab.work, applications(rig), rig.STRICT + manifests(sink.port), is_insecure=False
        )
        try:
            mesh.start()
            at = mesh.pods[WAYS[0].pod("orders")]
            client, server = ((rig.address(), port) for port in (OUTBOUND_PORT, at.ports[0]))
            with stock.pair(lab.work, client, server, (at.app_address, at.ports[0])) as floor:
                for side, child in (("client", floor.client), ("service", floor.server)):
                    counts[FLOOR, side] = _counted(lab, child, client[0], requests)
            for way in ways:
                source = mesh.pods[way.pod("client")].pod_ip
                for side, app in (("client", "client"), ("service", "orders")):
                    child = mesh.sidecars[way.pod(app)]
                    counts[way.name, side] = _counted(lab, child, source, requests)
        finally:
            mesh.stop()
    for (name, side), count in counts.items():
        result.add(f"{name}: instructions of a request at the {side}'s", count, "")
    for side in ("client", "service"):
        ratio = counts[NOTHING, side] / counts[FLOOR, side]
        result.add(f"{NOTHING} against {FLOOR} at the {side}'s", ratio, "", target=1.1)


def _counted(lab: Lab, child: Child, outbound: str, requests: int) -> float:
    """Return the instructions of one request of so many, which come one after the other on one connection."""
    out = lab.work / f"{child.name}.callgrind"
    with _under_valgrind(lab, child, out) as valgrind, _connection(outbound, valgrind) as send:
        send(_WARM)
        _tell(valgrind, "--instr=on")
        send(_WARM)
        _tell(valgrind, "--zero")
        send(requests)
        _tell(valgrind, "--dump")
        found = [_TOTALS.search(path.read_text("utf-8", "replace")) for path in _files(out)]
    # The worker is the thread that did the work; the others wait.
    return max(int(total[1]) for total in found if total) / requests


def _files(out: Path) -> list[Path]:
    return list(out.parent.glob(f"{out.name}*"))


@contextmanager
def _under_valgrind(lab: Lab, child: Child, out: Path) -> Generator[Child]:
    """Run a sidecar again under callgrind, which counts nothing yet, and afterwards as it was."""
    argv: Any = child.process.args
    child.stop()
    options = ["--tool=callgrind", "--instr-atstart=no", "--separate-threads=yes"]
    counted = lab.family.start(
        f"{child.name}-counted", ["valgrind", *options, f"--callgrind-out-file={out}", *argv]
    )
    try:
        yield counted
    finally:
        lab.stop(counted)
        lab.family.start(f"{child.name}-again", argv)


@contextmanager
def _connection(outbound: str, child: Child) -> Generator[_Send]:
    """Return what sends requests on one connection, as soon as one is answered."""
    connection = http.client.HTTPConnection(outbound, OUTBOUND_PORT, timeout=START_S)

    def status() -> int:
        connection.request("GET", "/echo", headers={"Host": "orders"})
        response = connection.getresponse()
        response.read()
        return response.status

    def is_answered() -> bool:
        with contextlib.suppress(OSError, http.client.HTTPException):
            return status() == _HTTP_OK
        connection.close()
        return False

    def send(count: int) -> None:
        for _ in range(count):
            assert status() == _HTTP_OK

    with contextlib.closing(connection):
        wait_until(f"{child.name} answers", is_answered, timeout_s=START_S, child=child)
        yield send


def _tell(child: Child, order: str) -> None:
    argv = ["callgrind_control", order, str(child.process.pid)]
    subprocess.run(argv, check=True, capture_output=True, timeout=START_S)
