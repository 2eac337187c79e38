"""The README's way through a cluster, command by command: its end is a meshed shop."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import removal
from tests.cluster.cluster import Cluster
from xds.demo.processes import wait_until

ROOT = Path(__file__).resolve().parent.parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = next(
    found
    for found in re.findall(r"^```sh\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    if "cluster-up" in found
)

BUILD_S = 2400
"""For `make cluster-up` on a machine that has built nothing yet: Kubernetes, CoreDNS and the images take 12 minutes."""

FIRST_REQUEST_S = 90
"""From `proa install` on a running cluster to the first order over mutual TLS."""
BUSY = 4
"""By how much a machine may be slower that runs everything else of this suite as well; `docs/figures.md` has
the figure of an idle one."""


@pytest.fixture
def started() -> Iterator[dict[str, str]]:
    """Yield the environment that `make cluster-up` prints, of a cluster in a folder of its own."""
    with removal.temporary() as folder:
        argv = [sys.executable, "-m", "tests.cluster", "up", str(folder)]
        printed = subprocess.run(
            argv, cwd=ROOT, capture_output=True, text=True, check=True, timeout=BUILD_S
        ).stdout
        shown = f'{printed}\nprintf "%s\\n%s\\n" "$KUBECONFIG" "$PATH"'
        kubeconfig, path = subprocess.run(
            ["/bin/bash", "-c", shown], capture_output=True, text=True, check=True
        ).stdout.splitlines()
        yield {
            **os.environ,
            "KUBECONFIG": kubeconfig,
            "PATH": f"{Path(sys.executable).parent}:{path}",
            "FOLDER": str(folder),
        }


@pytest.mark.timeout(900, func_only=True)
def test_the_way_through_a_cluster_ends_in_a_meshed_shop(started: dict[str, str]) -> None:
    """Each command succeeds; the load's orders go 90/10 over mutual TLS, and a Pod outside is refused."""
    at: dict[str, float] = {}
    for command in BLOCK.splitlines():
        if command.startswith("eval"):
            continue  # it was run, in the fixture
        at[command] = time.monotonic()
        done = subprocess.run(
            ["/bin/bash", "-o", "pipefail", "-c", command],
            cwd=ROOT,
            env=started,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        # `proa check` warns of what a demonstration has: one node, and young Pods
        assert done.returncode == 0 or (command.startswith("proa check") and done.returncode == 3), (
            f"{command}: {done.stdout}{done.stderr}"
        )
    cluster = Cluster.open(Path(started["FOLDER"]))
    installed_at = at["proa install | kubectl apply -f -"]

    wait_until("the first meshed order", lambda: _ordered(cluster) > 0, timeout_s=120)
    print(f"install → first meshed order: {time.monotonic() - installed_at:.0f} s")  # noqa: T201 -- a figure
    assert time.monotonic() - installed_at < FIRST_REQUEST_S * BUSY
    wait_until("the canary's share", lambda: _is_canary(cluster), timeout_s=120)
    wait_until("STRICT refuses who has no sidecar", lambda: _outsider(cluster) == "403", timeout_s=30)


def _seconds(cluster: Cluster) -> list[dict[str, Any]]:
    """Return what the load in the mesh has said, a document for each second."""
    said = cluster.kubectl("logs", "-n", "shop", "deployment/load", "-c", "load", "--tail=30")
    lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    return [line for line in lines if line["type"] == "second"]


def _ordered(cluster: Cluster) -> int:
    pods = cluster.get("pods", "-n", "shop", "-l", "app=load")["items"]
    if len(pods) != 1 or len(pods[0]["spec"].get("initContainers", ())) == 0:
        return 0  # the old one is still going
    return sum(second["ok"] for second in _seconds(cluster))


def _is_canary(cluster: Cluster) -> bool:
    orders: dict[str, int] = {}
    for second in _seconds(cluster):
        for workload, count in second["by_orders"].items():
            orders[workload] = orders.get(workload, 0) + count
    total = sum(orders.values())
    return total > 200 and 0.80 < orders.get("orders-v1", 0) / total < 0.97


def _outsider(cluster: Cluster) -> str:
    """Return the status that curl on the node, which has no sidecar, gets from a Pod of the shop."""
    pod = cluster.get("pods", "-n", "shop", "-l", "app=web")["items"][0]
    url = f"http://{pod['status']['podIP']}:8080/buy"
    return cluster.run("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "5", url)
