"""A mesh for one test: pods on loopback addresses of their own, real Envoys, the real control plane, the shop.

It owns addresses, start order and waiting (on conditions, with deadlines); it must never assert: tests do.

    mesh = start_mesh(App("client"), App("orders-v1", app="orders"), App("orders-v2", app="orders", version="v2"),
                      manifests=SPLIT)
    assert mesh.get("client", "http://orders/echo").json["workload"] == "orders-v1"
    mesh.edit("manifests.yaml", SPLIT.replace("weight: 90", "weight: 0"))

Each `App` becomes a ServiceAccount, a Pod and (once for each `app`) a Service; a request "from" a pod goes to its
sidecar's outbound address, where the Host decides.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol, Self, TypeVar
from urllib.parse import urlsplit

import yaml

from xds.bootstrap import ADMIN_PORT, READY_PORT
from xds.demo import admin, programs
from xds.demo.manifests import OUTBOUND_PORT, PodSpec, read_pods
from xds.demo.mesh import Mesh
from xds.demo.processes import Child, wait_until
from xds.demo.run import live_at

NAMESPACE: Final = "shop"

T = TypeVar("T")

LIVE_S: Final = 30.0
"""Deadline for a change that should take 0.1 s: a busy machine is no failure, a lost push is."""

_REQUEST_S: Final = 60.0
"""Of one request, or of all the calls that an application is asked to make."""

_AT_ONCE_S: Final = 1.0
"""Half of the shortest time that a sidecar waits for a hello."""

_WARMING: Final = r"^(cluster_manager\.warming_clusters|listener_manager\.total_listeners_warming)$"

STRICT: Final = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: proa-system}
spec: {mtls: {mode: STRICT}}
"""

# 127.0.0.0/8 belongs to this machine. The process id chooses a block, so that test runs side by side, and the
# demonstration with them (127.0), do not meet.
_BLOCK: Final = 1 + os.getpid() % 250
_NUMBERS: Final = itertools.count(1)


def address() -> str:
    """Return a loopback address that no other caller of this process has had."""
    number = next(_NUMBERS)
    return f"127.{_BLOCK}.{number // 250}.{1 + number % 250}"


@dataclass(frozen=True, slots=True)
class Container:
    """A further container of a pod: `shop SERVES` on a port of its own."""

    name: str
    """Also the name of its port, which Services target."""
    port: int
    serves: str = ""
    """The command of `shop`, unless `listen` is given."""
    args: tuple[str, ...] = ()
    listen: Callable[[str, int], object] | None = None
    """A server of the test's own, which is told its address and port."""
    probes: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """`readinessProbe` and the like, as in a manifest."""

    def document(self) -> dict[str, Any]:
        """Return it as Kubernetes would have it."""
        ports = [{"name": self.name, "containerPort": self.port}]
        return {
            "name": self.name,
            "image": "shop",
            "args": [self.serves, *self.args],
            "ports": ports,
            **self.probes,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Settings:
    app: str = ""
    """The Service that it belongs to; its own name if empty."""
    version: str = "v1"
    serves: str = "orders"
    """The command of `shop`: orders answers /echo and /call over HTTP, stock is gRPC, tcp speaks first."""
    protocol: str = "http"
    """appProtocol of the Service's port."""
    service_port: int = 80
    port: int = 8080
    args: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    annotations: Mapping[str, str] = field(default_factory=dict[str, str])
    namespace: str = NAMESPACE
    probes: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """`readinessProbe` and the like of its container, as in a manifest."""
    more: tuple[Container, ...] = ()
    """Further containers of the pod."""
    cluster_ips: tuple[str, ...] = ()
    """Addresses of its Service; none makes it one that only names reach."""
    pod_ip6: str = ""
    """Its IPv6 address, where it has one."""
    init: tuple[str, ...] = ()
    """The command of its init container, where its network has rules of its own."""


@dataclass(frozen=True, slots=True)
class App(_Settings):
    """One pod to be."""

    name: str = field(kw_only=False)
    pod_ip: str = field(default_factory=address, kw_only=True)
    app_address: str = field(default_factory=address, kw_only=True)

    @property
    def service(self) -> str:
        """The name of its Service."""
        return self.app or self.name

    def documents(self) -> list[dict[str, Any]]:
        """Return its ServiceAccount and Pod as Kubernetes would have them."""
        meta = {"name": self.name, "namespace": self.namespace}
        labels = {"app": self.service, "version": self.version, **self.labels}
        annotations = {"proa.dev/app-address": self.app_address, **self.annotations}
        container = {
            "name": "app",
            "image": "shop",
            "args": [self.serves, f"--version={self.version}", *self.args],
            "ports": [{"name": "main", "containerPort": self.port}],
            **self.probes,
        }
        containers = [container, *(more.document() for more in self.more)]
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {**meta, "labels": labels, "annotations": annotations},
            "spec": {"serviceAccountName": self.name, "containers": containers, **self._init_containers()},
            "status": {
                "podIP": self.pod_ip,
                "podIPs": [{"ip": ip} for ip in (self.pod_ip, self.pod_ip6) if ip],
            },
        }
        return [{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta}, pod]

    def _init_containers(self) -> dict[str, Any]:
        return {"initContainers": [{"name": "proa-init", "command": list(self.init)}]} if self.init else {}

    def service_document(self) -> dict[str, Any]:
        """Return its Service."""
        port = {
            "name": "main",
            "port": self.service_port,
            "targetPort": self.port,
            "appProtocol": self.protocol,
        }
        return {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": self.service, "namespace": self.namespace},
            "spec": {"selector": {"app": self.service}, "ports": [port], **self._cluster_ips()},
        }

    def _cluster_ips(self) -> dict[str, Any]:
        return (
            {"clusterIP": self.cluster_ips[0], "clusterIPs": list(self.cluster_ips)}
            if self.cluster_ips
            else {}
        )


def grpc(name: str, *, app: str = "", version: str = "v1", args: tuple[str, ...] = ()) -> App:
    """Return a gRPC service on port 9090, called `name:9090`."""
    return App(
        name=name,
        app=app,
        version=version,
        args=args,
        serves="stock",
        protocol="grpc",
        service_port=9090,
        port=9090,
    )


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer; header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)

    @property
    def workload(self) -> str:
        """Which workload answered, "" if none did."""
        return self.headers.get("x-shop-workload", "")


class MeshUnderTest:
    """A running mesh; `start_mesh` of the fixtures makes and stops it."""

    def __init__(
        self,
        work: Path,
        apps: tuple[App, ...],
        manifests: str,
        *,
        is_insecure: bool,
        serve_args: tuple[str, ...] = (),
    ) -> None:
        self.mesh = Mesh(work, is_insecure=is_insecure, serve_args=serve_args)
        self.apps = {app.name: app for app in apps}
        self.mesh.manifests.mkdir()
        self.write("namespaces.yaml", yaml.safe_dump_all(_namespaces(apps)))
        services = {(app.namespace, app.service): app.service_document() for app in apps}
        documents = [*services.values(), *(document for app in apps for document in app.documents())]
        self.write("apps.yaml", yaml.safe_dump_all(documents))
        self.write("manifests.yaml", manifests)
        self.pods: dict[str, PodSpec] = {pod.name: pod for pod in read_pods(self.mesh.manifests)}
        self.sidecars: dict[str, Child] = {}
        self.applications: dict[str, Child] = {}

    def start(self) -> Self:
        """Start everything and wait until every proxy has acknowledged all that it was sent."""
        programs.shop()
        self.mesh.serve()
        self.sidecars = {name: self.mesh.start_sidecar(pod) for name, pod in self.pods.items()}
        self.applications = {name: self.mesh.start_application(pod) for name, pod in self.pods.items()}
        for app in self.apps.values():
            self._start_containers(app)
        for name, pod in self.pods.items():
            self.mesh.wait_ready(pod, self.sidecars[name])
            self.mesh.wait_application(pod, self.applications[name])
        self.wait_synced()
        return self

    def _start_containers(self, app: App) -> None:
        for container in app.more:
            if container.listen is not None:
                container.listen(app.app_address, container.port)
            else:
                argv = [str(programs.shop()), container.serves, *container.args]
                argv += ["--workload", app.name, "--listen", f"{app.app_address}:{container.port}"]
                self.mesh.family.start(f"app-{app.name}-{container.name}", argv)

    def stop(self) -> None:
        """Stop applications, Envoys and the control plane."""
        self.mesh.stop()

    # -- requests --------------------------------------------------------------------------

    def get(  # a request has many parts
        self,
        source: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        method: str = "GET",
        *,
        timeout_s: float = _REQUEST_S,
    ) -> Reply:
        """Send one request from a pod to `http://HOST[:PORT]/PATH`, over a connection of its own."""
        address = self.pods[source].pod_ip
        return self.request(address, OUTBOUND_PORT, url, headers, method, timeout_s=timeout_s)

    def request(  # noqa: PLR0913  # the same
        self,
        address: str,
        port: int,
        url: str,
        headers: Mapping[str, str] | None = None,
        method: str = "GET",
        *,
        timeout_s: float = _REQUEST_S,
    ) -> Reply:
        """Send one request to an address with the Host of `url`."""
        parts = urlsplit(url)
        path = parts.path or "/"
        connection = http.client.HTTPConnection(address, port, timeout=timeout_s)
        with contextlib.closing(connection):
            sent = {"Host": parts.netloc, **(headers or {})}
            connection.request(method, f"{path}?{parts.query}" if parts.query else path, headers=sent)
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return Reply(answer.status, found, answer.read())

    def call(self, source: str, url: str, *, n: int = 1, query: str = "") -> dict[str, Any]:
        """Let a pod's application (not `stock`) call a URL n times; see /call of examples/go-services."""
        pod = self.pods[source]
        target = f"http://app/call?url={url}&n={n}{query and '&' + query}"
        return self.request(pod.app_address, pod.ports[0], target).json

    def call_grpc(self, source: str, target: str, *, n: int = 1, query: str = "") -> dict[str, Any]:
        """Let a pod's application (not `stock`) make n Echo calls to `name:port`; see /grpc of examples/go-services."""
        pod = self.pods[source]
        url = f"http://app/grpc?target={target}&n={n}{query and '&' + query}"
        return self.request(pod.app_address, pod.ports[0], url).json

    def load(self, source: str, url: str, *, rps: float = 100, args: tuple[str, ...] = ()) -> Traffic:
        """Start sending from a pod at a fixed rate, and return when it does; `finish()` returns the final report."""
        before = self.sent(source)
        traffic = self.start_load(source, url, rps=rps, args=args)
        wait_until(
            "requests are sent", lambda: self.sent(source) > before, timeout_s=LIVE_S, child=traffic.child
        )
        return traffic

    def start_load(self, source: str, url: str, *, rps: float = 100, args: tuple[str, ...] = ()) -> Traffic:
        """Do the same without waiting for a request, for a load that passes the sidecar by."""
        argv = [str(programs.shop()), "load", "--url", url, "--rps", str(rps), "--quiet"]
        argv += ["--outbound", self.pods[source].outbound, *args]
        return Traffic(self.mesh.family.start(f"load-{source}", argv, stdout=subprocess.PIPE))

    def sent(self, source: str) -> int:
        """Return how many HTTP requests a pod's sidecar has taken from its application."""
        return sum(self.stats(source, r"^http\.outbound\.downstream_rq_total$").values())

    # -- changes ---------------------------------------------------------------------------

    def write(self, name: str, text: str) -> float:
        """Put a manifest file in place with one rename; return its time (epoch, seconds)."""
        path = self.mesh.manifests / name
        draft = path.with_name(f".{name}.draft")
        draft.write_text(text, "utf-8")
        at = time.time()
        draft.replace(path)
        return at

    def edit(self, name: str, text: str, *, cause: str = "") -> None:
        """Replace a manifest file and wait until every proxy runs what came of it.

        `cause` narrows which push is waited for, such as "VirtualService shop/orders"; an edit that changes
        nothing for any proxy is never live, so write() it. The same text again is in force already.
        """
        path = self.mesh.manifests / name
        if path.exists() and path.read_text("utf-8") == text:
            self.wait_synced()
            return
        at = self.write(name, text)
        wait_until(
            f"the edit of {name} is live",
            _answered(lambda: live_at(self.mesh.api.pushes(), cause, at) is not None),
            timeout_s=LIVE_S,
            child=self.mesh.control_plane,
        )
        self.wait_used()

    def restart_control_plane(self) -> None:
        """Kill the control plane (SIGKILL) and start it again on the same ports and state."""
        child = self.mesh.control_plane
        if child is not None:
            child.process.kill()
            child.process.wait()
            self.mesh.family.stop_one(child)
        self.mesh.serve()

    # -- what there is to see --------------------------------------------------------------

    def wait(self, what: str, is_true: Callable[[], bool], *, timeout_s: float = LIVE_S) -> None:
        """Wait for a condition with a deadline; the failure names it. Who gives no answer is asked again."""
        wait_until(what, _answered(is_true), timeout_s=timeout_s)

    def wait_synced(self) -> None:
        """Wait until the proxy of every pod that has one is connected, and uses everything that it was sent."""
        wanted = {self.pods[name].node_id for name in self.sidecars}

        def is_synced() -> bool:
            return {proxy.id for proxy in self.mesh.api.proxies() if proxy.acked} >= wanted

        self.wait("every proxy has acknowledged everything", is_synced)
        self.wait_used()

    def wait_used(self) -> None:
        """Wait until what running sidecars have acknowledged is what their workers use.

        Envoy acknowledges what it has understood. A cluster or a listener may still wait for endpoints or
        certificates, and then the one before it is used. When the main thread has handed a change to its one
        worker, the worker takes it before a connection that comes later: an answer says that it has.
        """
        for name, child in self.sidecars.items():
            if child.is_alive:
                self.wait(f"nothing of {name} is warming", lambda at=name: self._has_warmed(at))
                self.wait(f"the worker of {name} answers", lambda at=name: self._knock(at))

    def _has_warmed(self, name: str) -> bool:
        return not any(self.stats(name, _WARMING).values())

    def _knock(self, name: str) -> bool:
        return admin.is_ready(self.pods[name].pod_ip, READY_PORT)

    def stats(self, name: str, pattern: str) -> dict[str, int]:
        """Return the counters and gauges of a pod's Envoy whose names match a regex (RE2)."""
        return admin.stats(self.pods[name].pod_ip, pattern)

    def hops(self, name: str) -> tuple[int, int]:
        """Return how many connections a pod's inbound listeners took over TLS, and how many in plaintext."""
        return admin.hops(self.pods[name].pod_ip)

    def admin(self, name: str, path: str) -> str:
        """Return what a pod's Envoy answers on its admin port."""
        return admin.get(self.pods[name].pod_ip, ADMIN_PORT, path).decode("utf-8")

    def config_dump(self, name: str) -> dict[str, Any]:
        """Return what a pod's Envoy says that it runs."""
        return json.loads(admin.get(self.pods[name].pod_ip, ADMIN_PORT, "/config_dump?include_eds"))


class StartMesh(Protocol):
    """What `start_mesh` is: start these pods under these manifests."""

    def __call__(
        self, *apps: App, manifests: str = STRICT, is_insecure: bool = False, serve_args: tuple[str, ...] = ()
    ) -> MeshUnderTest:
        """Return the running mesh; it is stopped when the test ends."""
        ...


@dataclass(slots=True)
class Traffic:
    """A running load."""

    child: Child

    def finish_alone(self) -> dict[str, Any]:
        """Wait for a load of limited duration to end by itself, and return its final report."""
        self.child.process.wait(timeout=60)
        return self.finish()

    def finish(self) -> dict[str, Any]:
        """Stop sending, wait for what is in flight, and return the final report of `shop load`."""
        self.child.stop()
        output = self.child.process.stdout
        assert output is not None
        with output:
            return json.loads(output.read().splitlines()[-1])


def at_once(ask: Callable[[], T]) -> T:
    """Ask until an answer comes within a second, and return it.

    Whoever waits for a hello of TLS, or for any other time to pass, does so each time; a busy machine is slow now
    and then. AssertionError when five tries were slow.
    """
    took_s: list[float] = []
    for _ in range(5):
        began = time.monotonic()
        answer = ask()
        took_s.append(time.monotonic() - began)
        if took_s[-1] < _AT_ONCE_S:
            return answer
    message = f"no answer came within {_AT_ONCE_S:g} s: {took_s}"
    raise AssertionError(message)


def _answered(is_true: Callable[[], bool]) -> Callable[[], bool]:
    """Return the same condition, which does not hold while who is asked gives no answer."""

    def holds() -> bool:
        try:
            return is_true()
        except admin.Unreachable:
            return False

    return holds


def _namespaces(apps: tuple[App, ...]) -> list[dict[str, Any]]:
    names = sorted({app.namespace for app in apps})
    meshed = [{"name": name, "labels": {"proa.dev/inject": "enabled"}} for name in names]
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": meta}
        for meta in ({"name": "proa-system"}, *meshed)
    ]
