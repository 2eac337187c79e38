"""The benchmarks: each runs with tiny sizes and writes the figures that it promises."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmarks import run
from benchmarks.figures import Figure, Result

PROMISED = {
    "events": {"10 endpoints, 100 services": 60, "against 10 services": 1.5, "share of upb": 0.02},
    "memory": {"RSS": 250},
    "webhook": {"answer p99": 25},
    "building": {
        "Cluster, cold": None,
        "Listener, cold": None,
        "ClusterLoadAssignment of 10: one change against upb": None,
        "RouteConfiguration of 10: one change against upb": None,
        "Secret": None,
    },
}
"""For each benchmark that needs no other process than itself: parts of figures' names, and their targets."""

PROMISED_OF_PROCESSES = {
    "telemetry": {"CPU, share of a core": 5},
    "fanout": {
        "plaintext, 8 streams: Proa against grpc-go": 3.2,
        "TLS, 8 streams: Proa against grpc-go": 3.2,
        "TLS, 8 streams: Proa above bare grpc.aio": 40,
    },
    "streams": {
        "staleness p99": 100,
        "last change to its last arrival": 1000,
        "refused": 0,
        "RSS of the server": 153,
        "resources sent again": 0,
        "unchanged reconnect: CPU per proxy": 5,
        "cold connect": 11,
        "one weight": 0.6,
    },
    "outbound": {
        "used, 1 of them with rules: RSS": 80,
        "used, 1 of them with rules: configuration": 60,
        "one at a time, 8: p99": 50,
        "30 at a time, 30: p99": 250,
    },
    "limits": {
        "10/s burst 20 under 100 rps for 3 s: off by": 5,
        "neither 200 nor 429": 0,
        "1 worker: most that the handler saw": 10,
        "that leave after 0.1 s": None,
    },
    "requests": {
        "all of it: CPU against nothing": 1.3,
        "floor: CPU of a request": None,
        "p50 that both sidecars add, floor": None,
        "p50 that both sidecars add, all of it": 0.8,
        "p99 that both sidecars add, all of it": 2.5,
    },
    "edits": {"p99": 300, "proa --help against it": 1.5},
    "policy": {"Envoys, 4 edits: p99": 500, "open connection, 4 edits: p99": 500},
}
"""The same for those that start servers, the Go client or Envoys."""


def check(name: str, promised: Mapping[str, float | None], directory: Path) -> None:
    """Run one benchmark as `make bench` does, and look for what it promises in its document."""
    assert run.main(["quick", name, "--results", str(directory)]) == 0

    document: dict[str, Any] = json.loads((directory / f"{name}.json").read_text("utf-8"))
    assert document["benchmark"] == name
    assert document["machine"]["cores"] >= 1
    assert document["versions"]["grpcio"]
    for part, target in promised.items():
        found = [one for one in document["figures"] if part in one["name"]]
        assert found, f"no figure is called …{part}…"
        assert any(one["target"] == target for one in found)
        assert all(isinstance(one["value"], float) for one in found)


@pytest.mark.parametrize("name", PROMISED)
def test_a_benchmark_writes_its_figures(name: str, tmp_path: Path) -> None:
    """The JSON document has machine, versions, and each promised figure with its target."""
    check(name, PROMISED[name], tmp_path)


@pytest.mark.envoy
@pytest.mark.parametrize("name", PROMISED_OF_PROCESSES)
def test_a_benchmark_of_processes_writes_its_figures(name: str, tmp_path: Path) -> None:
    """The same, with the real server, the Go programs and real Envoys."""
    check(name, PROMISED_OF_PROCESSES[name], tmp_path)


def test_every_benchmark_is_tested() -> None:
    """A benchmark without a promise could rot."""
    assert {*PROMISED, *PROMISED_OF_PROCESSES} == set(run.NAMES)


def test_the_median_of_the_rounds_counts() -> None:
    """A hiccup of the machine in one round does not move the figure."""
    figure = Result("x", is_quick=False).add("f", [1.0, 2.0, 3.0, 4.0, 1000.0], "µs", target=3)

    assert (figure.value, figure.verdict) == (3.0, "ok")


@pytest.mark.parametrize(("value", "verdict"), [(3.0, "ok"), (3.1, "MISS")])
def test_a_target_is_an_upper_bound(value: float, verdict: str) -> None:
    """What is at its target holds it."""
    assert Figure("f", value, "µs", target=3).verdict == verdict
