"""What a request costs: two real sidecars, without and with metrics, logs, traces and fifty policies, and no mesh.

It owns the three ways and the load; it must never compare figures of different runs, nor different processes.

The same two Envoys serve *bare* (mutual TLS and nothing else) and *all*, by turns, so that memory and caches are the
same; the machine carries client, application and sidecars together.
"""

from __future__ import annotations

import importlib
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from benchmarks.clock import process_cpu_s
from benchmarks.figures import ROUNDS, Result
from benchmarks.fleet import laboratory

RPS: Final = 1_000
"""The rate of the study that the targets come from."""

POLICIES: Final = 50
"""The last of them allows the request, so that all are asked."""

URL: Final = "http://orders/echo"

SILENT: Final = """
---
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: default, namespace: proa-system}
spec:
  metrics: [{providers: [{name: prometheus}], overrides: [{match: {metric: ALL_METRICS}, disabled: true}]}]
"""

SEEN: Final = """
---
apiVersion: v1
kind: ConfigMap
metadata: {name: proa, namespace: proa-system}
data:
  mesh: |
    accessLogFile: /dev/stdout
    accessLogEncoding: JSON
    defaultProviders: {tracing: [collector]}
    defaultConfig: {tracing: {sampling: 1}}
    extensionProviders:
    - {name: collector, opentelemetry: {service: collector.example.com, port: PORT}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: collector, namespace: shop}
spec:
  hosts: [collector.example.com]
  ports: [{number: PORT, name: grpc, protocol: GRPC}]
  resolution: STATIC
  endpoints: [{address: 127.0.0.1}]
"""

POLICY: Final = """
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: policy-NUMBER, namespace: shop}
spec:
  selector: {matchLabels: {app: orders}}
  rules:
  - from: [{source: {principals: [cluster.local/ns/shop/sa/CALLER]}}]
    to: [{operation: {methods: [GET], paths: [PATH]}}]
"""


def run(result: Result) -> None:
    """Measure CPU of both sidecars for each request, and latency against no mesh, in rounds of all three."""
    rig, otlp = _tests()
    seconds = 2 if result.is_quick else 10
    cpu: dict[str, list[float]] = {"bare": [], "all": []}
    spent: dict[str, list[float]] = {"client": [], "server": []}
    latency: dict[str, list[dict[str, float]]] = {"no mesh": [], "bare": [], "all": []}
    with tempfile.TemporaryDirectory() as folder, otlp.sink(Path(folder)) as sink, laboratory() as lab:
        ways = {
            "bare": rig.STRICT + SILENT,
            "all": rig.STRICT + SEEN.replace("PORT", str(sink.port)) + _policies(),
        }
        mesh = rig.MeshUnderTest(
            lab.work, (rig.App("client"), rig.App("orders")), ways["all"], is_insecure=False
        )
        try:
            mesh.start()
            for _ in range(1 if result.is_quick else ROUNDS):
                latency["no mesh"].append(_direct(mesh, seconds))
                for name, manifests in ways.items():
                    mesh.edit("manifests.yaml", manifests)
                    mesh.wait_synced()
                    _load(mesh, 1)  # connections of the listeners before end, and new ones are made
                    found, used = _load(mesh, seconds)
                    latency[name].append(found["latency_ms"])
                    cpu[name].append(sum(used.values()) / 2)
                    if name == "all":
                        for side, each in used.items():
                            spent[side].append(each)
        finally:
            mesh.stop()
        spans = len(sink.spans)
    _report(result, cpu, spent, latency)
    result.add("spans that arrived", spans, "")


def _report(
    result: Result,
    cpu: dict[str, list[float]],
    spent: dict[str, list[float]],
    latency: dict[str, list[dict[str, float]]],
) -> None:
    for name, rounds in cpu.items():
        result.add(f"CPU a request and sidecar, {name}", rounds, "µs")
    for side, rounds in spent.items():
        result.add(f"of it at the {side}'s, all", rounds, "µs")
    more = 100 * (statistics.median(cpu["all"]) / statistics.median(cpu["bare"]) - 1)
    result.add("metrics, JSON log, 1 % traces and 50 policies: more CPU", more, "%", target=30)
    for share, target in (("p50", 0.8), ("p99", 2.5)):
        medians = {name: statistics.median(one[share] for one in found) for name, found in latency.items()}
        for name, value in medians.items():
            result.add(f"{share} at {RPS} rps, {name}", value, "ms")
        added = medians["all"] - medians["no mesh"]
        result.add(f"{share} that both sidecars add, all", added, "ms", target=target)


def _tests() -> tuple[Any, Any]:
    """Return the rig of the tests with real Envoys, which is no package, and their collector."""
    place = str(Path(__file__).resolve().parent.parent / "tests" / "envoy")
    if place not in sys.path:
        sys.path.insert(0, place)
    return importlib.import_module("rig"), importlib.import_module("tests.fakes.otlp")


def _policies() -> str:
    def one(number: int, caller: str, path: str) -> str:
        return POLICY.replace("NUMBER", f"{number:02}").replace("CALLER", caller).replace("PATH", path)

    others = (one(number, f"other-{number}", f"/path-{number}*") for number in range(POLICIES - 1))
    return "".join((*others, one(POLICIES - 1, "client", "/echo")))


def _load(mesh: Any, seconds: int) -> tuple[dict[str, Any], dict[str, float]]:
    """Send for so long; return the report, and the CPU microseconds of each sidecar for each request."""
    sides = {"client": mesh.sidecars["client"], "server": mesh.sidecars["orders"]}
    before = {side: process_cpu_s(child.process.pid) for side, child in sides.items()}
    traffic = mesh.load("client", URL, rps=RPS, args=("--duration", f"{seconds}s"))
    report = _finished(traffic)
    used = {
        side: (process_cpu_s(child.process.pid) - before[side]) * 1e6 / report["ok"]
        for side, child in sides.items()
    }
    return report, used


def _direct(mesh: Any, seconds: int) -> dict[str, float]:
    """Send to the application itself, past both sidecars; return the latency."""
    pod = mesh.pods["orders"]
    traffic = mesh.load(
        "client", f"http://{pod.app_address}:{pod.ports[0]}/echo", rps=RPS,
        args=("--duration", f"{seconds}s", "--outbound", ""),
    )  # fmt: skip
    return _finished(traffic)["latency_ms"]


def _finished(traffic: Any) -> dict[str, Any]:
    traffic.child.process.wait(timeout=120)
    report = traffic.finish()
    assert not report["failed"], report["first_errors"]
    return report
