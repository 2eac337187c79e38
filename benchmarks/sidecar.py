"""What being seen and being guarded costs a sidecar: processor time of a request, with each of it and with all of it.

It owns the variants and the load; everything else is real: two Envoys, two Go services, `proa serve`. All variants run
in one mesh, in turns, so that a busy machine is busy for each of them.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import psutil
import yaml

from benchmarks.figures import ROUNDS, Result

SIDECARS: Final = ("client", "orders")
BARE: Final = "nothing"
POLICIES: Final = 50

_METRICS_OFF: Final = "metrics: [{overrides: [{disabled: true}]}]"
_LOG: Final = "accessLogging: [{providers: [{name: envoy}]}]"
_TRACES: Final = "tracing: [{providers: [{name: otel}], randomSamplingPercentage: 1}]"


def telemetry(*rules: str) -> str:
    """Return a Telemetry of the namespace."""
    kind = "apiVersion: telemetry.istio.io/v1\nkind: Telemetry"
    return f"{kind}\nmetadata: {{name: default, namespace: shop}}\nspec: {{{', '.join(rules)}}}\n"


def policies() -> str:
    """Return policies for the called workload: one that lets the caller in, behind those for others."""
    documents = [
        _policy(number, f"cluster.local/ns/shop/sa/nobody-{number}") for number in range(POLICIES - 1)
    ]
    documents.append(_policy(POLICIES, "cluster.local/ns/shop/sa/client"))
    return yaml.safe_dump_all(documents)


VARIANTS: Final[dict[str, Callable[[], str]]] = {
    BARE: lambda: telemetry(_METRICS_OFF),
    "RED metrics": lambda: telemetry("metrics: []"),
    "JSON log": lambda: telemetry(_METRICS_OFF, _LOG),
    "1 % traces": lambda: telemetry(_METRICS_OFF, _TRACES),
    f"{POLICIES} policies": lambda: f"{telemetry(_METRICS_OFF)}---\n{policies()}",
    "all of it": lambda: f"{telemetry(_LOG, _TRACES)}---\n{policies()}",
}
"""What is compared, as manifests; the first is what the others are compared with."""


def run(result: Result) -> None:
    """Measure every variant in turns, and tell each as a ratio to the first."""
    rounds, seconds, rps = (1, 1.0, 100) if result.is_quick else (ROUNDS, 4.0, 400)
    rig, otlp = _rig(), importlib.import_module("tests.fakes.otlp")
    spent: dict[str, list[float]] = {name: [] for name in VARIANTS}
    with tempfile.TemporaryDirectory() as place, otlp.sink(Path(place)) as sink:
        apps = (rig.App("client"), rig.App("orders"))
        fixed = rig.STRICT + _settings(sink.port)
        mesh = rig.MeshUnderTest(Path(place) / "mesh", apps, fixed, is_insecure=False)
        try:
            mesh.start()
            for _ in range(rounds):
                for name, manifests in VARIANTS.items():
                    mesh.edit("variant.yaml", manifests())
                    _load(mesh, 1.0, rps)  # connections of the variant before end
                    spent[name].append(_cpu_us(mesh, seconds, rps))
        finally:
            mesh.stop()
    for name, times in spent.items():
        result.add(f"{name}: CPU of both sidecars, a request", times, "µs")
    bare = spent[BARE]
    for name, times in spent.items():
        if name != BARE:
            ratios = [with_it / without for with_it, without in zip(times, bare, strict=True)]
            target = 1.3 if name == "all of it" else None
            result.add(f"{name}: ratio to {BARE}", ratios, "", target=target)


def _settings(port: int) -> str:
    return f"""
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: proa, namespace: proa-system}}
data:
  mesh: |
    extensionProviders:
    - {{name: otel, opentelemetry: {{service: collector.example.com, port: {port}}}}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: collector, namespace: shop}}
spec:
  hosts: [collector.example.com]
  ports: [{{number: {port}, name: grpc, protocol: GRPC}}]
  resolution: STATIC
  endpoints: [{{address: 127.0.0.1}}]
"""


def _policy(number: int, principal: str) -> dict[str, Any]:
    rule = {
        "from": [{"source": {"principals": [principal]}}],
        "to": [{"operation": {"methods": ["GET", "POST"], "paths": ["/echo", f"/only/{number}/*"]}}],
    }
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": f"policy-{number}", "namespace": "shop"},
        "spec": {"selector": {"matchLabels": {"app": "orders"}}, "action": "ALLOW", "rules": [rule]},
    }


def _load(mesh: Any, seconds: float, rps: float) -> int:
    """Send for a while; return how many requests were answered, and say so where not all were answered well."""
    traffic = mesh.load("client", "http://orders/echo", rps=rps)
    time.sleep(seconds)
    report = traffic.finish()
    if report["failed"]:
        print(f"requests that failed: {report['failed']} of {report['sent']}: {report['reasons']}")
    return int(report["sent"])


def _cpu_us(mesh: Any, seconds: float, rps: float) -> float:
    """Return the processor time of both sidecars for a request, in microseconds."""
    before = _cpu_s(mesh)
    sent = _load(mesh, seconds, rps)
    return 1e6 * (_cpu_s(mesh) - before) / sent


def _cpu_s(mesh: Any) -> float:
    times = [psutil.Process(mesh.sidecars[name].process.pid).cpu_times() for name in SIDECARS]
    return float(sum(found.user + found.system for found in times))


def _rig() -> Any:
    """Return the rig of the tests with real Envoys, which is no package."""
    place = str(Path(__file__).resolve().parent.parent / "tests" / "envoy")
    if place not in sys.path:
        sys.path.insert(0, place)
    return importlib.import_module("rig")
