"""A control plane as a process of this machine, with exactly the rights of the one that the manifest installs.

It owns its start and what it asked and burned meanwhile; it must never judge: tests and benchmarks do.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.cluster.cluster import Cluster
from xds.demo.mesh import free_ports
from xds.demo.processes import Child, Family, wait_until

READY_S: Final = 90.0
"""A start takes 4 s on an idle machine; beside other tests it took 40 s."""


def serve(cluster: Cluster, family: Family, kubeconfig: Path) -> tuple[Child, int, int]:
    """Start a control plane as its ServiceAccount, ready; return it with its xDS and admin ports."""
    xds, admin, webhook = free_ports(3)
    argv = [sys.executable, "-m", "xds", "serve", "--kubernetes", "--kubeconfig", str(kubeconfig)]
    argv += ["--pod", "proa-1", "--xds", f"127.0.0.1:{xds}", "--admin", f"127.0.0.1:{admin}"]
    child = family.start("proa", [*argv, "--webhook", f"127.0.0.1:{webhook}"])
    wait_until("ready", lambda: ask(admin, "GET", "/readyz") == 200, timeout_s=READY_S, child=child)
    wait_until("the webhook is known", lambda: bundle(cluster) != "", timeout_s=READY_S, child=child)
    return child, xds, admin


def ask(port: int, method: str, path: str) -> int:
    """Return the status of the admin API, 0 while it does not answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path)
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()


def bundle(cluster: Cluster) -> str:
    """Return the roots that the apiserver trusts for the webhook, as PEM."""
    found = cluster.get("mutatingwebhookconfiguration", "proa-injector")
    return base64.b64decode(found["webhooks"][0]["clientConfig"].get("caBundle", "")).decode("ascii")


@dataclass(frozen=True, slots=True)
class Idle:
    """What a control plane did while nobody changed anything."""

    seconds: float
    requests: Counter[str]
    """By verb and resource, as the apiserver answered them."""
    cpu: float
    """Share of one core."""

    def a_minute(self, what: str) -> float:
        """Return how often it asked that in a minute."""
        return self.requests[what] * 60 / self.seconds


def expire(cluster: Cluster) -> None:
    """Let every version that a watch could go on from be too old: an apiserver that starts knows none from before."""
    for number in range(5):
        cluster.kubectl("create", "namespace", f"later-{number}")
    cluster.kill("kube-apiserver")
    cluster.start("kube-apiserver")
    cluster.wait_ready()


def record(cluster: Cluster, child: Child, seconds: float) -> Idle:
    """Return what a control plane asks and burns in the time that begins now."""
    begun, burned, size = time.monotonic(), _cpu_s(child), written(cluster)
    time.sleep(seconds)  # the measurement itself
    took = time.monotonic() - begun
    return Idle(took, requests_since(cluster, size), (_cpu_s(child) - burned) / took)


def written(cluster: Cluster) -> int:
    """Return how many bytes the apiserver has recorded so far."""
    return (cluster.folder / "audit.log").stat().st_size


def requests_since(cluster: Cluster, size: int) -> Counter[str]:
    """Return what was answered since so many bytes were recorded, by verb and resource."""
    requests: Counter[str] = Counter()
    with (cluster.folder / "audit.log").open("rb") as file:
        file.seek(size)
        for line in file.read().decode().splitlines():
            event = json.loads(line)
            if event["stage"] == "ResponseComplete":
                about = event.get("objectRef", {"resource": event["requestURI"].partition("?")[0]})
                requests[f"{event['verb']} {about['resource']}"] += 1
    return requests


def _cpu_s(child: Child) -> float:
    fields = Path(f"/proc/{child.process.pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
