"""The example services as Deployments of a cluster, a pod to speak through, and a load that counts every loss.

It owns manifests, calls and counts; it must never assert: tests do.

    cluster.apply(shop.everything(), namespace)
    shop.wait(cluster, namespace)
    with shop.Client(cluster, namespace, "web") as web:
        web.call("http://orders/echo", n=100)["by_workload"]
    with shop.load(cluster, namespace, "http://web/buy", rps=200) as load:
        load.wait(ok=1000)
        ...
    assert load.final().failed == 0
"""

from __future__ import annotations

import json
import re
import secrets
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import msgspec
import yaml

from tests.cluster import images
from tests.cluster.cluster import Cluster
from xds.demo.processes import DemoError, wait_until
from xds.demo.report import Second

ROLLOUT_S: Final = 180.0
"""Pods start in 2 s on an idle machine; beside a build and ten other Pods it took a minute."""

_PORTS: Final[Mapping[str, tuple[int, int]]] = {"http": (80, 8080), "grpc": (9090, 9090), "tcp": (9000, 9000)}
"""Kind → port of the Service and of the container."""

_KINDS: Final[Mapping[str, str]] = {
    "web": "http",
    "orders": "http",
    "echo": "http",
    "payments": "grpc",
    "stock": "grpc",
    "tcp": "tcp",
}
"""Command of `shop` → what it speaks."""

_PROBES: Final[Mapping[str, Mapping[str, object]]] = {
    "http": {"httpGet": {"path": "/healthz", "port": 8080}},
    "grpc": {"grpc": {"port": 9090}},
    "tcp": {"tcpSocket": {"port": 9000}},
}

_CALL_S: Final = 60.0
# What is in flight when the load is told to stop may wait for its own timeout of 10 s.
_FINAL_S: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One Deployment with a ServiceAccount of its name, and what tests vary of it."""

    name: str
    serves: str = "web"
    """The command of `shop`: web and orders answer /echo, /call and /grpc."""
    app: str = ""
    """The label that a Service selects; by default the name."""
    version: str = "v1"
    replicas: int = 1
    args: Sequence[str] = ()
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    annotations: Mapping[str, str] = field(default_factory=dict[str, str])
    serves_on_s: int = 2
    """How long it accepts connections after its end has been announced, as the endpoints need time to learn it."""
    spec: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Further fields of the Pod's spec."""

    def manifest(self) -> str:
        """Return the documents."""
        labels = {"app": self.app or self.name, "version": self.version, "workload": self.name, **self.labels}
        template = {
            "metadata": {"labels": labels, "annotations": dict(self.annotations)},
            "spec": {
                "serviceAccountName": self.name,
                "containers": [self._container()],
                "terminationGracePeriodSeconds": 30,
                **self.spec,
            },
        }
        deployment = {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": self.name},
            "spec": {
                "replicas": self.replicas,
                "selector": {"matchLabels": {"workload": self.name}},
                "template": template,
            },
        }
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": self.name}}
        return str(yaml.safe_dump_all([account, deployment]))

    def _container(self) -> dict[str, Any]:
        kind = _KINDS[self.serves]
        port = _PORTS[kind][1]
        words = ["--listen", f":{port}", "--workload", self.name, "--version", self.version]
        return {
            "name": "shop",
            "image": images.SHOP,
            "args": [self.serves, *words, *self.args],
            "ports": [{"name": kind, "containerPort": port}],
            "readinessProbe": {**_PROBES[kind], "periodSeconds": 1},
            "lifecycle": {"preStop": {"sleep": {"seconds": self.serves_on_s}}},
        }


def service(name: str, kind: str = "http", *, app: str = "", headless: bool = False) -> str:
    """Return a Service for the workloads with a label ``app``; `kind` is http, grpc or tcp."""
    outside, inside = _PORTS[kind]
    port = {"name": kind, "port": outside, "targetPort": inside, "appProtocol": kind}
    spec = {"selector": {"app": app or name}, "ports": [port], "ipFamilyPolicy": "PreferDualStack"}
    if headless:
        spec["clusterIP"] = "None"
    document = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}
    return str(yaml.safe_dump(document))


def everything() -> str:
    """Return the shop: web, orders in two versions, payments, stock, and their Services."""
    workloads = (
        Workload(name="web"),
        Workload(name="orders-v1", serves="orders", app="orders"),
        Workload(name="orders-v2", serves="orders", app="orders", version="v2"),
        Workload(name="payments", serves="payments"),
        Workload(name="stock", serves="stock"),
    )
    services = (
        service("web"),
        service("orders"),
        service("payments", "grpc"),
        service("stock", "grpc"),
    )
    return "\n---\n".join((*(workload.manifest() for workload in workloads), *services))


def street() -> str:
    """Return two callers, orders in two versions, and a ledger that both sidecars take for bytes, under STRICT."""
    workloads = (
        Workload(name="web"),
        Workload(name="visitor"),
        Workload(name="orders-v1", serves="orders", app="orders"),
        Workload(name="orders-v2", serves="orders", app="orders", version="v2"),
        Workload(name="ledger", serves="echo"),
    )
    bytes_only = {"name": "bytes", "port": 9000, "targetPort": 8080, "appProtocol": "tcp"}
    ledger = {"selector": {"app": "ledger"}, "ports": [bytes_only]}
    return "\n---\n".join(
        (
            *(workload.manifest() for workload in workloads),
            service("visitor"),
            service("orders"),
            json.dumps(
                {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "ledger"}, "spec": ledger}
            ),
            STRICT,
        )
    )


STRICT: Final = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default}
spec: {mtls: {mode: STRICT}}
"""


def wait(cluster: Cluster, namespace: str) -> None:
    """Wait until every Deployment of a Namespace has rolled out."""
    for name in cluster.kubectl("get", "deployments", "-n", namespace, "-o", "name").split():
        words = ("rollout", "status", name, "-n", namespace, "--timeout", f"{ROLLOUT_S:.0f}s")
        cluster.kubectl(*words, timeout_s=ROLLOUT_S + 10)


class Client:
    """A web or orders workload that a test speaks through, by a port-forward that no sidecar sees."""

    def __init__(self, cluster: Cluster, namespace: str, workload: str) -> None:
        self._argv = [
            *(str(cluster.kube.with_name("kubectl")), "--kubeconfig", str(cluster.kubeconfig)),
            *("port-forward", "-n", namespace, f"deployment/{workload}", ":8080"),
        ]
        # A file and no pipe: kubectl writes a line for each connection, and would stop when nobody reads them.
        self._log = cluster.folder / "logs" / f"forward-{secrets.token_hex(3)}.log"
        self._forward: subprocess.Popen[bytes] | None = None
        self._url = ""

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._forward = subprocess.Popen(self._argv, stdout=log, stderr=subprocess.STDOUT)
        try:
            wait_until("a port-forward", self._has_spoken, timeout_s=_CALL_S)
            self._url = f"http://127.0.0.1:{self._port()}"
        except (DemoError, RuntimeError):
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._forward is not None:
            with self._forward as forward:
                forward.terminate()

    def _has_spoken(self) -> bool:
        has_ended = self._forward is not None and self._forward.poll() is not None
        return "\n" in self._log.read_text("utf-8") or has_ended

    def _port(self) -> str:
        said = self._log.read_text("utf-8")
        found = re.search(r"127\.0\.0\.1:(\d+)", said)
        if found is None:
            message = f"{' '.join(self._argv)}: {said}"
            raise RuntimeError(message)
        return found[1]

    def call(self, url: str, *, headers: Mapping[str, str] | None = None, **words: object) -> Any:
        """Let the pod make HTTP calls; the answer is that of ``/call`` (examples/go-services/README.md)."""
        return self._get("/call", {"url": url, **words}, headers)

    def grpc(self, target: str, *, headers: Mapping[str, str] | None = None, **words: object) -> Any:
        """Let the pod make gRPC Echo calls; the answer is that of ``/grpc``."""
        return self._get("/grpc", {"target": target, **words}, headers)

    def _get(self, path: str, words: Mapping[str, object], headers: Mapping[str, str] | None) -> Any:
        pairs = [(name, str(value)) for name, value in words.items()]
        pairs += [("h", f"{name}:{value}") for name, value in (headers or {}).items()]
        url = f"{self._url}{path}?{urllib.parse.urlencode(pairs)}"
        with urllib.request.urlopen(url, timeout=_CALL_S) as answer:  # noqa: S310 (our own port-forward)
            return json.loads(answer.read())


class Load:
    """A pod that sends requests at a fixed rate; its counts are read from the node's log, without the apiserver."""

    def __init__(self, log: Path) -> None:
        # Open before the pod is deleted: kubelet then removes the file, and an open one can be read to its end.
        self._log = log.open(encoding="utf-8")
        self._reports: list[Second] = []
        self._rest = ""

    def reports(self) -> Sequence[Second]:
        """Return what has been reported so far, one entry a second; the last may be the whole run's."""
        if self._log.closed:
            return self._reports
        *lines, self._rest = (self._rest + self._log.read()).split("\n")
        words = [line.split(" ", 3) for line in lines]
        self._reports += [
            msgspec.json.decode(line[3], type=Second) for line in words if line[1:3] == ["stdout", "F"]
        ]
        return self._reports

    def wait(self, *, ok: int = 0, failed: int = 0, timeout_s: float = 60.0) -> None:
        """Wait until so many requests have succeeded and so many have failed."""

        def is_reached() -> bool:
            reports = [one for one in self.reports() if one.type == "second"]
            return sum(one.ok for one in reports) >= ok and sum(one.failed for one in reports) >= failed

        wait_until(f"{ok} good and {failed} bad answers", is_reached, timeout_s=timeout_s)

    def final(self) -> Second:
        """Return the counts of the whole run, where sent = ok + failed; it must have ended."""
        last = self.reports()[-1] if self.reports() else None
        if last is None or last.type != "final":
            message = f"the load has not reported its end; last: {last}"
            raise RuntimeError(message)
        return last

    def is_finished(self) -> bool:
        """Tell whether the run has ended."""
        return bool(self.reports()) and self._reports[-1].type == "final"

    def close(self) -> None:
        """Close the log."""
        self._log.close()


@contextmanager
def load(
    cluster: Cluster, namespace: str, url: str, *, rps: int = 100, args: Sequence[str] = ()
) -> Generator[Load]:
    """Send requests from a pod of their own as long as the block runs; after it, `final` has the counts."""
    name = f"load-{secrets.token_hex(3)}"
    container = {
        "name": "shop",
        "image": images.SHOP,
        "args": ["load", "--url", url, "--rps", str(rps), "--workload", name, *args],
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "load"}},
        "spec": {"restartPolicy": "Never", "containers": [container]},
    }
    cluster.kubectl("create", "-n", namespace, "-f", "-", stdin=json.dumps(pod))
    words = ("wait", f"pod/{name}", "-n", namespace, "--for", "condition=Ready")
    cluster.kubectl(*words, "--timeout", f"{ROLLOUT_S:.0f}s", timeout_s=ROLLOUT_S + 10)
    uid = cluster.get("pod", name, "-n", namespace)["metadata"]["uid"]
    log = cluster.folder / f"own/var/log/pods/{namespace}_{name}_{uid}/shop/0.log"
    running = Load(log)
    try:
        yield running
        cluster.kubectl("delete", "pod", name, "-n", namespace, "--wait=false")
        wait_until(f"final report of {name}", running.is_finished, timeout_s=_FINAL_S)
    finally:
        running.close()
