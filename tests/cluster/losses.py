"""What may happen to a mesh under load without a request being lost; each returns the load's own count.

It owns the disturbances; it must never judge a count: tests and benchmarks do. Nothing retries, anywhere.
"""

from __future__ import annotations

import json
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

import msgspec

from tests.cluster import images, shop
from tests.cluster import mesh as proa
from tests.cluster.cluster import Cluster
from xds.demo.processes import wait_until
from xds.demo.report import Second

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


def apiserver_down(mesh: Cluster, namespace: str, *, rps: int, seconds: float) -> Second:
    """Kill the apiserver for so long; after its return a new Pod of the called service gets its share.

    The controller manager goes and comes with it, as one does that loses its Lease. Ours elects nobody: it would stay,
    and at the return call every node unreachable whose heartbeats it had not seen meanwhile.
    """
    with shop.load(mesh, namespace, URL, rps=rps) as load:
        load.wait(ok=rps)
        mesh.kill("kube-apiserver")
        mesh.kill("kube-controller-manager")
        reports = len(load.reports())
        wait_until(
            f"{seconds} s without an apiserver",
            lambda: len(load.reports()) >= reports + seconds,
            timeout_s=seconds + 30,
        )
        mesh.start("kube-apiserver")
        mesh.wait_ready()
        mesh.start("kube-controller-manager")
        count = mesh.get("deployment", "echo", "-n", namespace)["spec"]["replicas"]
        mesh.kubectl("scale", "deployment/echo", "-n", namespace, f"--replicas={count + 1}")
        shop.wait(mesh, namespace)
        _go_on(load, rps)
    # Its watches back off for half a minute: whoever comes next needs a DNS server that knows new Services.
    dns = ("deployment/coredns", "-n", "kube-system")
    mesh.kubectl("rollout", "restart", *dns)
    mesh.kubectl("rollout", "status", *dns, "--timeout=90s", timeout_s=100)
    return load.final()


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
