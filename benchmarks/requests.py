"""What a request costs on its way through two sidecars: processor time and latency, with each thing that is told of it.

It owns the ways and the load; everything else is real. All ways run at once, each with sidecars of its own, and take
their turn in every round: nothing is edited meanwhile, so that no connection is made anew because of the measurement.
It must never compare figures of different runs.

The ends of the scale are the application without any mesh and the *floor*, a pair of stock Envoys that only pass on.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from benchmarks import stock
from benchmarks.clock import process_cpu_s
from benchmarks.figures import ROUNDS, Result
from benchmarks.fleet import laboratory
from xds.demo.manifests import OUTBOUND_PORT

RPS: Final = 1_000
"""The rate of the study that the targets come from."""

POLICIES: Final = 50
"""The last of them allows the request, so that all are asked."""

URL: Final = "http://orders/echo"

NO_MESH, FLOOR, NOTHING, ALL = "no mesh", "floor", "nothing", "all of it"

_SILENT: Final = "metrics: [{overrides: [{disabled: true}]}]"
_LOG: Final = "accessLogging: [{providers: [{name: envoy}]}]"
_TRACES: Final = "tracing: [{providers: [{name: otel}], randomSamplingPercentage: 1}]"


@dataclass(frozen=True, slots=True)
class Way:
    """A namespace with a client and a service, and what their sidecars do besides passing on."""

    name: str
    namespace: str
    telemetry: tuple[str, ...]
    is_guarded: bool = False

    def pod(self, app: str) -> str:
        """Return the name of its pod of this application, which is also that of its ServiceAccount."""
        return f"{app}-{self.namespace}"


WAYS: Final = (
    Way(NOTHING, "nothing", (_SILENT,)),
    Way("RED metrics", "metrics", ("metrics: []",)),
    Way("JSON log", "log", (_SILENT, _LOG)),
    Way("1 % traces", "traces", (_SILENT, _TRACES)),
    Way(f"{POLICIES} policies", "policies", (_SILENT,), is_guarded=True),
    Way(ALL, "all", (_LOG, _TRACES), is_guarded=True),
)
"""What is compared; the first is what the others are compared with."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What one load of one way has shown."""

    latency_ms: Mapping[str, float]
    cpu_us: float
    """Of a request and sidecar: the mean of both."""
    opened: int
    """Connections that the client's sidecar has made to the service's."""


def run(result: Result) -> None:
    """Load every way in turns; tell processor time, latency, and what both sidecars add to no mesh."""
    rounds, seconds = (1, 1) if result.is_quick else (ROUNDS, 5)
    rig, otlp = rig_and_collector()
    turns: dict[str, list[Turn]] = {}
    with tempfile.TemporaryDirectory() as folder, otlp.sink(Path(folder)) as sink, laboratory() as lab:
        mesh = rig.MeshUnderTest(
            lab.work, applications(rig), rig.STRICT + manifests(sink.port), is_insecure=False
        )
        try:
            mesh.start()
            at = mesh.pods[WAYS[0].pod("orders")]
            client, server = ((rig.address(), port) for port in (OUTBOUND_PORT, at.ports[0]))
            with stock.pair(lab.work, client, server, (at.app_address, at.ports[0])) as floor:
                loads = _loads(mesh, floor)
                for _ in range(rounds):
                    for name, load in loads.items():
                        load(1)  # opens the connections that the load needs
                        turns.setdefault(name, []).append(load(seconds))
        finally:
            mesh.stop()
        spans = len(sink.spans)
    _report(result, turns)
    result.add("spans that arrived", spans, "")


def _report(result: Result, turns: Mapping[str, list[Turn]]) -> None:
    sidecars = {name: [turn.cpu_us for turn in found] for name, found in turns.items() if name != NO_MESH}
    for name, rounds in sidecars.items():
        result.add(f"{name}: CPU of a request and sidecar", rounds, "µs")
    for name, rounds in sidecars.items():
        if name != NOTHING:
            ratios = [one / bare for one, bare in zip(rounds, sidecars[NOTHING], strict=True)]
            target = 1.3 if name == ALL else None
            result.add(f"{name}: CPU against {NOTHING}", ratios, "", target=target)
    for share, target in (("p50", 0.8), ("p99", 2.5)):
        latency = {name: [turn.latency_ms[share] for turn in found] for name, found in turns.items()}
        for name, rounds in latency.items():
            result.add(f"{share} at {RPS} rps, {name}", rounds, "ms")
        for name in (FLOOR, NOTHING, ALL):
            added = [one - without for one, without in zip(latency[name], latency[NO_MESH], strict=True)]
            title = f"{share} that both sidecars add, {name}"
            result.add(title, added, "ms", target=target if name == ALL else None)
    for name in (NOTHING, ALL):
        opened = [turn.opened for turn in turns[name]]
        result.add(f"{name}: connections opened between the sidecars under the load", opened, "")


def rig_and_collector() -> tuple[Any, Any]:
    """Return the rig of the tests with real Envoys, which is no package, and their collector."""
    place = str(Path(__file__).resolve().parent.parent / "tests" / "envoy")
    if place not in sys.path:
        sys.path.insert(0, place)
    return importlib.import_module("rig"), importlib.import_module("tests.fakes.otlp")


# --- The load ---------------------------------------------------------------------------------


def _loads(mesh: Any, floor: stock.Pair) -> dict[str, Any]:
    """Return how to load each way for so many seconds, in the order of their turns."""
    first = WAYS[0].pod("client")
    at = mesh.pods[WAYS[0].pod("orders")]
    direct = f"http://{at.app_address}:{at.ports[0]}/echo"
    sent = _Sent(mesh, first, direct, ("--outbound", ""), ())
    passed = _Sent(mesh, first, URL, ("--outbound", floor.outbound), (floor.client, floor.server))
    through = {
        way.name: _Sent(
            mesh,
            way.pod("client"),
            URL,
            (),
            tuple(mesh.sidecars[way.pod(app)] for app in ("client", "orders")),
        )
        for way in WAYS
    }
    return {NO_MESH: sent, FLOOR: passed, **through}


@dataclass(frozen=True, slots=True)
class _Sent:
    """A load that is sent from a pod; calling it sends for so many seconds."""

    mesh: Any
    source: str
    url: str
    args: tuple[str, ...]
    sidecars: tuple[Any, ...]

    def __call__(self, seconds: int) -> Turn:
        opened, before = self._opened(), self._cpu_s()
        traffic = self.mesh.start_load(
            self.source, self.url, rps=RPS, args=(*self.args, "--duration", f"{seconds}s")
        )
        report = traffic.finish_alone()
        assert not report["failed"], report["first_errors"]
        used = (self._cpu_s() - before) * 1e6 / report["ok"] / max(1, len(self.sidecars))
        return Turn(report["latency_ms"], used, self._opened() - opened)

    def _cpu_s(self) -> float:
        return sum(process_cpu_s(child.process.pid) for child in self.sidecars)

    def _opened(self) -> int:
        found = self.mesh.stats(self.source, r"^cluster\.outbound\|.*\|orders_.*\.upstream_cx_total$")
        return sum(found.values())


# --- The manifests ----------------------------------------------------------------------------


def applications(rig: Any) -> tuple[Any, ...]:
    """Return a client and a service for each way."""
    return tuple(
        rig.App(way.pod(app), app=app, namespace=way.namespace)
        for way in WAYS
        for app in ("client", "orders")
    )


def manifests(port: int) -> str:
    """Return what each way's sidecars are told to do; the collector of traces listens on this port."""
    guarded = [policy for way in WAYS if way.is_guarded for policy in _policies(way)]
    telemetries = "".join(map(_telemetry, WAYS))
    return f"{_SETTINGS.replace('PORT', str(port))}{telemetries}---\n{yaml.safe_dump_all(guarded)}"


_SETTINGS: Final = """
---
apiVersion: v1
kind: ConfigMap
metadata: {name: proa, namespace: proa-system}
data:
  mesh: |
    extensionProviders:
    - {name: otel, opentelemetry: {service: collector.example.com, port: PORT}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: collector, namespace: nothing}
spec:
  hosts: [collector.example.com]
  ports: [{number: PORT, name: grpc, protocol: GRPC}]
  resolution: STATIC
  endpoints: [{address: 127.0.0.1}]
"""


def _telemetry(way: Way) -> str:
    kind = "apiVersion: telemetry.istio.io/v1\nkind: Telemetry"
    meta = f"metadata: {{name: default, namespace: {way.namespace}}}"
    return f"---\n{kind}\n{meta}\nspec: {{{', '.join(way.telemetry)}}}\n"


def _policies(way: Way) -> list[dict[str, Any]]:
    """Return policies for the service: one that lets the caller in, behind those for others."""
    callers = [*(f"nobody-{number}" for number in range(POLICIES - 1)), way.pod("client")]
    return [_policy(way, number, caller) for number, caller in enumerate(callers)]


def _policy(way: Way, number: int, caller: str) -> dict[str, Any]:
    rule = {
        "from": [{"source": {"principals": [f"cluster.local/ns/{way.namespace}/sa/{caller}"]}}],
        "to": [{"operation": {"methods": ["GET", "POST"], "paths": ["/echo", f"/only/{number}/*"]}}],
    }
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": f"policy-{number:02}", "namespace": way.namespace},
        "spec": {"selector": {"matchLabels": {"app": "orders"}}, "action": "ALLOW", "rules": [rule]},
    }
