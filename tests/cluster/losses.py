"""What may happen to a mesh under load without a request being lost; each returns the load's own count.

It owns the disturbances; it must never judge a count: tests and benchmarks do. Nothing retries, anywhere.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import msgspec

from tests.cluster import images, node, shop
from tests.cluster import mesh as proa
from tests.cluster.cluster import Cluster
from xds.cli.asking import replies
from xds.demo.processes import wait_until
from xds.demo.report import Second
from xds.kube.client import Client
from xds.report import Proxies

URL: Final = "http://echo/echo"

# A new Pod is Ready in 3 s on an idle machine; a new sidecar adds its first configuration.
_CHANGE_S: Final = 180.0


@contextmanager
def meshed_echo(mesh: Cluster, replicas: int = 3) -> Generator[str]:
    """Yield a meshed Namespace with Service and Deployment ``echo``, and a Deployment ``churn`` beside it."""
    with mesh.namespace("losses", proa.LABEL) as namespace:
        workloads = (
            shop.Workload(name="echo", serves="echo", replicas=replicas),
            shop.Workload(name="churn", serves="echo"),
        )
        parts = (*(one.manifest() for one in workloads), shop.service("echo"), shop.service("churn"))
        mesh.apply("\n---\n".join(parts), namespace)
        shop.wait(mesh, namespace)
        yield namespace


def rolling_update(mesh: Cluster, namespace: str, *, rps: int, seconds: float) -> Second:
    """Replace every Pod of the called service, one after the other, again and again for so long."""
    with shop.load(mesh, namespace, URL, rps=rps) as load:
        load.wait(ok=rps)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            mesh.kubectl("rollout", "restart", "deployment/echo", "-n", namespace)
            shop.wait(mesh, namespace)
        _go_on(load, rps)
    return load.final()


def control_plane_restart(mesh: Cluster, namespace: str, *, rps: int, seconds: float) -> Second:
    """Kill the only control plane while another service's Pods come and go, and let it come back, for so long."""
    proa.scale(mesh, 1)
    try:
        with shop.load(mesh, namespace, URL, rps=rps) as load:
            load.wait(ok=rps)
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                mesh.kubectl("rollout", "restart", "deployment/churn", "-n", namespace)
                mesh.kubectl("delete", "pod", "-n", proa.NAMESPACE, "--all", "--grace-period=0", "--force")
                proa.wait_ready(mesh)
                shop.wait(mesh, namespace)
            _go_on(load, rps)
        return load.final()
    finally:
        proa.scale(mesh, 2)


@dataclass(frozen=True, slots=True)
class Outage:
    """What an apiserver's absence cost."""

    final: Second
    moved: int
    """Proxies whose control plane died meanwhile: they came back to another one with the token that they had."""
    followed_s: float
    """From the apiserver's return to the last proxy's ACK of a rule that was written then."""


RULE: Final = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: after, namespace: NAMESPACE}
spec:
  hosts: [echo]
  http: [{timeout: 9s, route: [{destination: {host: echo}}]}]
"""


def apiserver_down(mesh: Cluster, namespace: str, *, rps: int, seconds: float) -> Outage:
    """Kill the apiserver for so long, and at once the control plane with most proxies, which look for another one.

    After the apiserver's return the last proxy gets a new rule, and a new Pod of the called service its share. The
    controller manager goes and comes with it, as one does that loses its Lease. Ours elects nobody: it would stay, and
    at the return call every node unreachable whose heartbeats it had not seen meanwhile.
    """
    with shop.load(mesh, namespace, URL, rps=rps) as load:
        load.wait(ok=rps)
        proxies = connected(mesh)
        victim = max(proxies, key=lambda name: len(proxies[name]))
        container = mesh.get("pod", victim, "-n", proa.NAMESPACE)["status"]["containerStatuses"][0]
        mesh.kill("kube-apiserver")
        mesh.kill("kube-controller-manager")
        node.kill_container(mesh.folder, container["containerID"])
        reports = len(load.reports())
        wait_until(
            f"{seconds} s without an apiserver",
            lambda: len(load.reports()) >= reports + seconds,
            timeout_s=seconds + 30,
        )
        mesh.start("kube-apiserver")
        mesh.wait_ready()
        followed_s = _follow(mesh, namespace)
        there = connected(mesh)
        moved = proxies[victim] & {each for name in there if name != victim for each in there[name]}
        mesh.start("kube-controller-manager")
        count = mesh.get("deployment", "echo", "-n", namespace)["spec"]["replicas"]
        mesh.kubectl("scale", "deployment/echo", "-n", namespace, f"--replicas={count + 1}")
        shop.wait(mesh, namespace)
        _go_on(load, rps)
    # Its watches back off for half a minute: whoever comes next needs a DNS server that knows new Services.
    dns = ("deployment/coredns", "-n", "kube-system")
    mesh.kubectl("rollout", "restart", *dns)
    mesh.kubectl("rollout", "status", *dns, "--timeout=90s", timeout_s=100)
    proa.wait_ready(mesh)
    return Outage(load.final(), len(moved), followed_s)


def _follow(mesh: Cluster, namespace: str) -> float:
    """Apply a rule, and return after how many seconds every proxy that it concerns has accepted it."""
    begun = time.monotonic()
    with TemporaryDirectory() as folder:
        file = Path(folder) / "rule.yaml"
        file.write_text(RULE.replace("NAMESPACE", namespace), "utf-8")
        mesh.kubectl("apply", "-f", str(file))
        done = proa.verb(mesh, "wait", "-f", str(file), "--timeout", f"{_CHANGE_S:.0f}s")
    if done.exit_code:
        raise RuntimeError(done.output)
    took = time.monotonic() - begun
    mesh.kubectl("delete", "virtualservice/after", "-n", namespace)
    return took


def connected(mesh: Cluster) -> Mapping[str, set[str]]:
    """Return the proxies of each control plane that answers, by the name of its Pod."""

    async def ask() -> Mapping[str, set[str]]:
        async with await Client.connect(mesh.kubeconfig) as client:
            answers = await replies(client, "/api/v1/proxies")
        return {
            name: {one.id for one in msgspec.json.decode(answer.body, type=Proxies).proxies}
            for name, answer in answers.items()
            if not isinstance(answer, str)
        }

    return asyncio.run(ask())


def first_dials(mesh: Cluster, namespace: str, pods: int) -> list[Second]:
    """Return what each of so many fresh Pods says of the calls that it begins with.

    Each is a Pod of a Job, and so also shows that a Job with a sidecar completes.
    """
    container = {
        "name": "shop",
        "image": images.SHOP,
        "args": ["load", "--url", URL, "--rps", "10", "--duration", "50ms", "--quiet", "--workload", "first"],
    }
    template = {
        "metadata": {"labels": {"app": "first"}},
        "spec": {"restartPolicy": "Never", "containers": [container]},
    }
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "first"},
        "spec": {"completions": pods, "parallelism": min(10, pods), "backoffLimit": 0, "template": template},
    }
    mesh.apply(json.dumps(job), namespace)
    words = ("wait", "job/first", "-n", namespace, "--for=condition=Complete", f"--timeout={_CHANGE_S:.0f}s")
    mesh.kubectl(*words, timeout_s=_CHANGE_S + 10)
    words = (
        "logs",
        "-n",
        namespace,
        "-l",
        "app=first",
        "-c",
        "shop",
        "--tail=1",
        f"--max-log-requests={pods}",
    )
    lines = [line for line in mesh.kubectl(*words).splitlines() if line.startswith("{")]
    return [msgspec.json.decode(line, type=Second) for line in lines]


def _go_on(load: shop.Load, rps: int) -> None:
    """Let three more seconds of requests succeed: what a disturbance broke may show only afterwards."""
    good = sum(one.ok for one in load.reports())
    load.wait(ok=good + 3 * rps)
