"""From a Pod that is Ready, as an independent watcher receives it, to the last proxy that has accepted its endpoint.

It owns the Pods and the matching of two clocks' readings of one machine; it must never let the control plane say when
a Pod was Ready. Needs root; it starts a cluster of its own, or uses the one in the folder that PROA_CLUSTER names.
"""

from __future__ import annotations

import asyncio
import json
import math
import ssl
import threading
import time
import urllib.request
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from benchmarks.figures import Result
from benchmarks.losses import meshed
from tests.cluster import images, shop
from tests.cluster import mesh as proa
from tests.cluster.cluster import Cluster
from xds.demo.processes import wait_until
from xds.kube import survey
from xds.kube.client import Client
from xds.kube.forward import exchange
from xds.report import Pushes, PushRecord

STEP: Final = 15
STEPS: Final = 4
ROUNDS: Final = 2
"""120 Pods, at most 60 at once: a kubelet takes 110."""
TARGET_MS: Final = 500

_CHANGE_S: Final = 120.0
_LATE_S: Final = 0.05
"""How much later than the control plane this program may read the same event, and the other way round."""


@dataclass(slots=True)
class Seen:
    """When a watcher received what: of each Pod that it is Ready, of each address that a slice holds it as ready."""

    ready: dict[str, float] = field(default_factory=dict[str, float])
    """Address of the Pod → seconds since the epoch."""
    sliced: dict[str, float] = field(default_factory=dict[str, float])

    def pod(self, raw: Mapping[str, Any], at: float) -> None:
        """Take a Pod as it is now."""
        status = raw.get("status", {})
        conditions = {one["type"]: one["status"] for one in status.get("conditions", ())}
        for ip in status.get("podIPs", ()):
            if conditions.get("Ready") == "True":
                self.ready.setdefault(ip["ip"], at)

    def slice(self, raw: Mapping[str, Any], at: float) -> None:
        """Take an EndpointSlice as it is now."""
        for endpoint in raw.get("endpoints") or ():
            if endpoint["conditions"].get("ready"):
                for address in endpoint["addresses"]:
                    self.sliced.setdefault(address, at)


def run(result: Result) -> None:
    """Make Pods Ready behind a Service that two sidecars use, a few at a time."""
    step, steps, rounds = (2, 1, 1) if result.is_quick else (STEP, STEPS, ROUNDS)
    took: list[float] = []
    from_slice: list[float] = []
    with meshed() as mesh, _used(mesh) as namespace:
        for _ in range(rounds):
            seen, pushes = _round(mesh, namespace, step, steps)
            for address, ready_at in seen.ready.items():
                sliced_at = seen.sliced[address]
                live_at = _live_at(pushes, sliced_at)
                took.append((live_at - ready_at) * 1000)
                from_slice.append((live_at - sliced_at) * 1000)
    result.add("endpoints", len(took), "")
    for name, values, target in (("Ready", took, TARGET_MS), ("its slice", from_slice, None)):
        values.sort()
        result.add(f"{name} → ACKed by all that use it, p50", values[len(values) // 2], "ms")
        worst = values[math.ceil(len(values) * 0.99) - 1]
        result.add(f"{name} → ACKed by all that use it, p99", worst, "ms", target=target)


@contextmanager
def _used(mesh: Cluster) -> Generator[str]:
    """Yield a Namespace with two meshed clients that have used the Service, and one control plane that tells all."""
    proa.scale(mesh, 1)
    try:
        with mesh.namespace("ready", proa.LABEL) as namespace:
            clients = ("one", "two")
            parts = (*(shop.Workload(name=name).manifest() for name in clients), shop.service("ready"))
            mesh.apply("\n---\n".join(parts), namespace)
            shop.wait(mesh, namespace)
            for name in clients:
                with shop.Client(mesh, namespace, name) as client:
                    client.call("http://ready/")  # nobody answers; the cluster is asked for
            yield namespace
    finally:
        proa.scale(mesh, 2)


def _round(mesh: Cluster, namespace: str, step: int, steps: int) -> tuple[Seen, Sequence[PushRecord]]:
    """Let a Deployment grow step by step, and return what a watcher saw and what the control plane did."""
    mesh.apply(json.dumps(_deployment()), namespace)
    found: dict[int, PushRecord] = {}
    with _watching(mesh, namespace) as seen:
        for number in range(1, steps + 1):
            mesh.kubectl("scale", "deployment/ready", "-n", namespace, f"--replicas={number * step}")
            # Each Pod has an address of each family, and the Service slices for both.
            wait_until(
                f"{number * step} Pods in slices",
                lambda number=number: len(seen.ready) == len(seen.sliced) == 2 * number * step,
                timeout_s=_CHANGE_S,
            )
            time.sleep(1)  # the last push's answers; a proxy that takes longer shows as a later push or none
            for push in asyncio.run(_pushes(mesh)):
                if any(cause.startswith(f"EndpointSlice {namespace}/ready-") for cause in push.causes):
                    found[push.id] = push
    mesh.kubectl("delete", "deployment/ready", "-n", namespace, "--cascade=foreground", timeout_s=_CHANGE_S)
    return seen, [found[number] for number in sorted(found)]


async def _pushes(mesh: Cluster) -> tuple[PushRecord, ...]:
    (pod,) = proa.pods(mesh, proa.NAMESPACE)
    async with await Client.connect(mesh.kubeconfig) as client:
        name = pod["metadata"]["name"]
        path = "/api/v1/pushes?limit=256"
        answer = await exchange(client, proa.NAMESPACE, name, survey.ADMIN_PORT, path)
    return msgspec.json.decode(answer.body, type=Pushes).pushes


def _live_at(pushes: Iterable[PushRecord], sliced_at: float) -> float:
    """Return when the push that carried a slice was live: the last that can have, never one before it."""
    answered = [push for push in pushes if push.live_ms is not None]
    could = [push for push in answered if abs(push.at - sliced_at) <= _LATE_S]
    push = could[-1] if could else next(push for push in answered if push.at > sliced_at)
    assert push.live_ms is not None
    return push.at + push.live_ms / 1000


@contextmanager
def _watching(mesh: Cluster, namespace: str) -> Generator[Seen]:
    """Watch Pods and slices in threads, without any code of the control plane."""
    seen, is_over = Seen(), threading.Event()
    for path, take in (
        (f"/api/v1/namespaces/{namespace}/pods?labelSelector=app%3Dready", seen.pod),
        (f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices", seen.slice),
    ):
        argv = (mesh, path, take, is_over)
        threading.Thread(target=_watch, args=argv, name=f"watch {path}", daemon=True).start()
    try:
        yield seen
    finally:
        is_over.set()


def _watch(mesh: Cluster, path: str, take: Any, is_over: threading.Event) -> None:
    context = ssl.create_default_context(cafile=str(mesh.ca))
    joiner = "&" if "?" in path else "?"
    request = urllib.request.Request(  # noqa: S310 (the URL is our own apiserver's)
        f"{mesh.url}{path}{joiner}watch=1", headers={"Authorization": f"Bearer {mesh.token()}"}
    )
    with urllib.request.urlopen(request, timeout=600, context=context) as lines:  # noqa: S310
        for line in lines:
            if is_over.is_set():
                return
            at = time.time()
            event = json.loads(line)
            if event["type"] in {"ADDED", "MODIFIED"}:
                take(event["object"], at)


def _deployment() -> dict[str, Any]:
    """Return Pods that are Ready as soon as they run, and speak to nobody."""
    labels = {"app": "ready", "proa.dev/inject": "false"}
    container = {"name": "pause", "image": images.PAUSE}
    spec = {"containers": [container], "terminationGracePeriodSeconds": 0}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "ready"},
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": {"app": "ready"}},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    }
