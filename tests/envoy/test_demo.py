"""The demonstration holds what its document says, and leaves nothing behind."""

from __future__ import annotations

import json
import math
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from rig import address

from xds.demo import programs
from xds.demo.manifests import read_pods, read_split
from xds.demo.mesh import Mesh
from xds.demo.processes import wait_until
from xds.demo.run import live_at

EDITS = 100
LIVE_P99_MS = 300
SERIES = 3


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    """The shop's manifests, on addresses that no other demonstration uses."""
    place = tmp_path / "mesh"
    place.mkdir()
    moved: dict[str, str] = {}
    for path in sorted((programs.examples() / "mesh").glob("*.yaml")):
        text = path.read_text()
        for old in re.findall(r"127\.0\.\d+\.\d+", text):
            moved.setdefault(old, address())
            text = re.sub(rf"{re.escape(old)}\b", moved[old], text)
        (place / path.name).write_text(text)
    return place


@pytest.fixture
def shop(manifests: Path, tmp_path: Path) -> Iterator[Mesh]:
    """The shop's control plane and Envoys, without its services."""
    mesh = Mesh(tmp_path / "work")
    shutil.copytree(manifests, mesh.manifests)
    try:
        mesh.serve()
        sidecars = [(pod, mesh.start_sidecar(pod)) for pod in read_pods(mesh.manifests)]
        for pod, child in sidecars:
            mesh.wait_ready(pod, child)
        yield mesh
    finally:
        mesh.stop()


def _demo(manifests: Path, *args: str) -> list[str]:
    return [sys.executable, "-m", "xds", "demo", "--from", str(manifests), "--output", "json", *args]


def test_the_demonstration_succeeds_and_says_so_in_one_document(manifests: Path) -> None:
    """No request fails, every hop is TLS, both splits are fair, and the edit is live on every proxy.

    The demonstration itself fails beyond three standard deviations, which fair splits are once in 200 runs; a
    test that runs every day allows five, and nothing else.
    """
    # Half of the default's rate, for longer: a slow machine has to keep up with every hop.
    words = _demo(manifests, "--duration", "40", "--rps", "75")
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    document = json.loads(done.stdout)

    assert [problem for problem in document["problems"] if "split" not in problem] == []
    assert (done.returncode == 0) == (document["problems"] == [])
    assert max(_deviations(document["split"][when]) for when in ("before", "after")) <= 5
    assert len(document["proxies"]) == 6
    assert all(proxy["acked"] for proxy in document["proxies"])
    assert document["failed"] == 0
    assert document["plaintext_hops"] == 0
    assert document["live_ms"] > 0
    assert document["denial"] == {"caller": "load", "service": "orders", "status": 403}
    assert document["split"]["before"]["desired"] == {"orders-v1": 0.9, "orders-v2": 0.1}
    assert document["split"]["after"]["desired"] == {"orders-v1": 0.5, "orders-v2": 0.5}
    assert min(document["split"][when]["n"] for when in ("before", "after")) >= 1000


def _deviations(split: dict[str, Any]) -> float:
    """Return how many standard deviations the observed share of one workload is away from the desired one."""
    share = split["desired"]["orders-v1"]
    return abs(split["observed"]["orders-v1"] - share) / math.sqrt(share * (1 - share) / split["n"])


def test_ctrl_c_stops_every_process(manifests: Path, tmp_path: Path) -> None:
    """After SIGINT nothing runs any more, and the document is still written."""
    with (tmp_path / "err").open("w+") as err:
        demo = subprocess.Popen(
            _demo(manifests, "--duration", "0"), stdout=subprocess.PIPE, stderr=err, text=True
        )
        wait_until("requests are sent", lambda: "requests/s" in (tmp_path / "err").read_text(), timeout_s=150)
        children = psutil.Process(demo.pid).children(recursive=True)

        demo.send_signal(signal.SIGINT)
        output, _ = demo.communicate(timeout=90)

    assert len(children) == 1 + 6 + 6
    assert not [child for child in children if child.is_running()]
    assert json.loads(output)["failed"] == 0
    assert demo.returncode == 0


def test_weight_edits_are_live_on_every_proxy_in_time(shop: Mesh) -> None:
    """Of 100 edits, the file's rename to the last proxy's ACK takes at most 300 ms in 99.

    What is slow by itself is slow in each of three series; a machine that has other things to do is so now and then.
    """
    p99s_ms: list[float] = []
    while len(p99s_ms) < SERIES and min(p99s_ms, default=math.inf) > LIVE_P99_MS:
        took_ms = _edited(shop)
        p99s_ms.append(took_ms[98])
        p50, p99, most = (took_ms[at] for at in (49, 98, 99))
        print(f"rename to last ACK: p50 {p50:.0f} ms, p99 {p99:.0f} ms, max {most:.0f} ms")  # noqa: T201

    assert min(p99s_ms) <= LIVE_P99_MS


def _edited(shop: Mesh) -> list[float]:
    """Edit the weights 100 times; return how long each edit took to be live (milliseconds), the fastest first."""
    took_ms: list[float] = []
    for number in range(EDITS):
        split = read_split(shop.manifests)
        at = split.write((number + 1, EDITS - number))
        wait_until(
            "the edit is live",
            lambda at=at, name=split.name: live_at(shop.api.pushes(), name, at) is not None,
            timeout_s=30,
        )
        took_ms.append(((live_at(shop.api.pushes(), split.name, at) or time.time()) - at) * 1000)
    return sorted(took_ms)
