"""A mesh of pods whose traffic is redirected: network namespaces, nft rules, real Envoys, the real control plane.

It owns where processes run and as whom; it must never assert: tests do.

    mesh = start_pods(App("client"), App("orders"), App("plain", labels=OUTSIDE), manifests=STRICT)
    mesh.ask("client", mesh.vip("orders"), 80, "http://orders/echo")      # from inside a pod, through its sidecar
    mesh.ask(STRANGER, mesh.at("orders").ip, 8080, "http://x/echo")       # from the bridge, without any
    with mesh.inside("client"): ...                                       # sockets and processes of this thread

A Service has the addresses `vip(name)` and `vip6(name)`; nothing but a sidecar answers there, as there is no
kube-proxy. While the mesh runs, the test itself stands in the namespace of the bridge.
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Protocol, Self

from netns import HOST, Addresses, Namespace, Network
from rig import STRICT, App, MeshUnderTest, Reply

from xds import bootstrap, ca, settings
from xds.bootstrap import READY_PORT
from xds.bootstrap.probes import tcp_probes
from xds.demo import admin, programs
from xds.demo.manifests import PodSpec
from xds.demo.mesh import is_taken
from xds.demo.processes import Child, wait_until
from xds.identity import Identity, Proof
from xds.redirect import init_command
from xds.state import StateDirectory, system_entropy

STRANGER: Final = ""
"""The source that is no pod: whoever can reach the pods' network."""

OUTSIDE: Final = {"proa.dev/inject": "false"}
"""Labels of a pod without a sidecar."""

PERMISSIVE: Final = STRICT.replace("STRICT", "PERMISSIVE")

_APPLICATION_UID: Final = 1000
_START_S: Final = 60.0
_CONNECT_S: Final = 10.0


def as_user(uid: int) -> list[str]:
    """Return the prefix that starts a program as a user, who may read what a test has written and nothing more."""
    return [
        "setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--no-new-privs", "--pdeathsig=TERM",
        "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search", "--bounding-set=-all,+dac_read_search", "--",
    ]  # fmt: skip


class TransparentMesh(MeshUnderTest):
    """A running mesh of intercepted pods; `start_pods` of the fixtures makes and stops it."""

    def __init__(  # noqa: PLR0913  # a world has many sides
        self,
        work: Path,
        apps: tuple[App, ...],
        manifests: str,
        *,
        serve_args: tuple[str, ...] = (),
        redirect: Mapping[str, Mapping[str, Any]] | None = None,
        tcp_ports: Mapping[str, tuple[int, ...]] | None = None,
    ) -> None:
        """Lay everything out; `redirect` are arguments of `init_command`, `tcp_ports` have TCP probes, by pod."""
        services = {app.service: number for number, app in enumerate(apps, 1)}
        self.addresses = {app.name: Network.addresses(number) for number, app in enumerate(apps, 1)}
        self._vips = {name: Addresses(f"10.96.0.{n}", f"fd96::{n}") for name, n in services.items()}
        self._redirect, self._tcp_ports = redirect or {}, tcp_ports or {}
        placed = tuple(self._place(app) for app in apps)
        super().__init__(work, placed, manifests, is_insecure=False, serve_args=serve_args)
        self.mesh.xds_host = HOST
        self._stack = contextlib.ExitStack()
        self.network: Network | None = None

    def _place(self, app: App) -> App:
        vip = self._vips[app.service]
        ips = app.cluster_ips or (vip.ip, vip.ip6)
        at = self.addresses[app.name]
        own = self._redirect.get(app.name)
        init = () if own is None else tuple(init_command(**own))
        return replace(app, pod_ip=at.ip, pod_ip6=at.ip6, app_address="127.0.0.1", cluster_ips=ips, init=init)

    # -- start and stop --------------------------------------------------------------------

    def start(self) -> Self:
        """Start everything and wait until every proxy has acknowledged all that it was sent."""
        programs.shop()
        self.network = Network(self.mesh.family)
        self._stack.enter_context(self.network.fabric.inside())
        self.mesh.serve()
        for name, pod in self.pods.items():
            self.network.add(name, self.addresses[name])
            if self.is_meshed(name):
                self.intercept(pod)
                self.sidecars[name] = self.start_sidecar(pod)
            self.applications[name] = self.start_application(pod)
        for name, child in self.sidecars.items():
            self.mesh.wait_ready(self.pods[name], child)
        for name, child in self.applications.items():
            self._wait_application(self.pods[name], child)
        self.wait_synced()
        return self

    def stop(self) -> None:
        """Stop everything, and leave the namespace of the bridge."""
        try:
            super().stop()
        finally:
            self._stack.close()

    def is_meshed(self, name: str) -> bool:
        """Tell whether a pod has a sidecar."""
        return self.apps[name].labels.get("proa.dev/inject") != "false"

    def intercept(self, pod: PodSpec) -> None:
        """Do what the init container does."""
        self.namespace(pod.name).run(*init_command(**self._redirect.get(pod.name, {})))

    def start_sidecar(self, pod: PodSpec) -> Child:
        """Start a pod's Envoy as the sidecar's user."""
        spec = bootstrap.Spec(
            pod=pod.name,
            namespace=pod.namespace,
            workload=pod.name,
            service_account=pod.service_account,
            is_transparent=True,
            xds_host=self.mesh.xds_host,
            xds_port=self.mesh.xds_port,
            channel=self.mesh.channel(pod),
        )
        document = self.mesh.proxies_directory / f"{pod.node_id}.json"
        content = tcp_probes(bootstrap.build(spec), self._tcp_ports.get(pod.name, ()))
        content["dynamic_resources"]["ads_config"]["api_type"] = self.mesh.ads_variant
        document.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
        argv = [*as_user(settings.SIDECAR_UID), str(programs.envoy()), "-c", str(document)]
        argv += ["--concurrency", "1", "--disable-hot-restart", "-l", "warning"]
        argv += ["--drain-strategy", "immediate", "--drain-time-s", str(settings.DRAIN_S)]
        with self.inside(pod.name):
            return self.mesh.family.start(f"envoy-{pod.name}", argv)

    def start_application(self, pod: PodSpec) -> Child:
        """Start a pod's containers, each on every address of the pod."""
        shop = [*as_user(_APPLICATION_UID), str(programs.shop())]
        env = {"SHOP_WORKLOAD": pod.name, "SHOP_LISTEN": f":{pod.ports[0]}", **pod.env}
        with self.inside(pod.name):
            first = self.mesh.family.start(f"app-{pod.name}", [*shop, *pod.args], env=env)
            for more in self.apps[pod.name].more:
                if more.listen is not None:
                    more.listen("::", more.port)
                else:
                    argv = [
                        *shop,
                        more.serves,
                        *more.args,
                        "--workload",
                        pod.name,
                        "--listen",
                        f":{more.port}",
                    ]
                    self.mesh.family.start(f"app-{pod.name}-{more.name}", argv)
        return first

    def _wait_application(self, pod: PodSpec, child: Child) -> None:
        with self.inside(pod.name):
            for port in pod.ports:
                wait_until(
                    f"the application of {pod.name} listens on {port}",
                    lambda port=port: is_taken("127.0.0.1", port),
                    timeout_s=_START_S,
                    child=child,
                )

    # -- where things are ------------------------------------------------------------------

    def at(self, name: str) -> Addresses:
        """Return a pod's addresses."""
        return self.addresses[name]

    def vip(self, service: str) -> str:
        """Return a Service's IPv4 address."""
        return self._vips[service].ip

    def vip6(self, service: str) -> str:
        """Return a Service's IPv6 address."""
        return self._vips[service].ip6

    def namespace(self, name: str) -> Namespace:
        """Return a pod's network namespace, the bridge's for STRANGER."""
        assert self.network is not None
        return self.network.pods[name] if name else self.network.fabric

    def inside(self, name: str) -> AbstractContextManager[None]:
        """Let this thread's sockets and processes be those of a pod, as any user but the sidecar's."""
        return self.namespace(name).inside()

    # -- traffic ---------------------------------------------------------------------------

    def ask(  # noqa: PLR0913, PLR0917  # who asks whom, and for what
        self,
        source: str,
        address: str,
        port: int,
        url: str,
        headers: Mapping[str, str] | None = None,
        method: str = "GET",
    ) -> Reply:
        """Send one request from a pod to an address, with the Host and path of `url`."""
        with self.inside(source):
            return self.request(address, port, url, headers, method)

    def connect(
        self, source: str, address: str, port: int, *, timeout_s: float = _CONNECT_S
    ) -> socket.socket:
        """Return a TCP connection from a pod."""
        with self.inside(source):
            return socket.create_connection((address, port), timeout_s)

    def call(self, source: str, url: str, *, n: int = 1, query: str = "") -> dict[str, Any]:
        """Let a pod's application call a URL n times, through its sidecar if it has one."""
        with self.inside(source):
            return super().call(source, url, n=n, query=query)

    def call_grpc(self, source: str, target: str, *, n: int = 1, query: str = "") -> dict[str, Any]:
        """Let a pod's application make n Echo calls, through its sidecar if it has one."""
        with self.inside(source):
            return super().call_grpc(source, target, n=n, query=query)

    def identity(self, account: str, *, alpn: str = "mesh", state: Path | None = None) -> ssl.SSLContext:
        """Return the client side of mutual TLS as a workload of the mesh would speak it; peers are not judged.

        Another `state` directory has another root.
        """
        now, entropy = time.time(), system_entropy()
        directory = StateDirectory.open(state or self.mesh.state)
        slots = directory.workload_roots(settings.TRUST_DOMAIN, now=now, entropy=entropy)
        caller = Identity(account, "shop", account, account, settings.TRUST_DOMAIN, Proof.TOKEN)
        leaf = ca.issue_leaf(slots.signer, caller, ttl_s=3600, now=now, entropy=entropy)
        file = self.mesh.work / f"{account}.pem"
        file.write_bytes(leaf.certificate_pem + leaf.key_pem.reveal())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.load_cert_chain(file)
        context.set_alpn_protocols([alpn])
        return context

    # -- what there is to see --------------------------------------------------------------

    def _knock(self, name: str) -> bool:
        with self.inside(name):
            return admin.is_ready("127.0.0.1", READY_PORT)

    def stats(self, name: str, pattern: str) -> dict[str, int]:
        """Return the counters and gauges of a pod's Envoy whose names match a regex (RE2)."""
        with self.inside(name):
            return admin.stats("127.0.0.1", pattern)

    def admin(self, name: str, path: str) -> str:
        """Return what a pod's Envoy answers on its admin port."""
        with self.inside(name):
            return admin.get("127.0.0.1", settings.SIDECAR_ADMIN_PORT, path).decode("utf-8")

    def listener(self, name: str, listener: str) -> dict[str, Any]:
        """Return one listener that a pod's Envoy runs."""
        (dump,) = (
            found
            for found in json.loads(self.admin(name, "/config_dump?resource=dynamic_listeners"))["configs"]
            if found["name"] == listener
        )
        return dump["active_state"]["listener"]

    def config_dump(self, name: str) -> dict[str, Any]:
        """Return what a pod's Envoy says that it runs."""
        return json.loads(self.admin(name, "/config_dump?include_eds"))


class StartPods(Protocol):
    """What `start_pods` is: start these pods, intercepted, under these manifests."""

    def __call__(
        self,
        *apps: App,
        manifests: str = STRICT,
        serve_args: tuple[str, ...] = (),
        redirect: Mapping[str, Mapping[str, Any]] | None = None,
        tcp_ports: Mapping[str, tuple[int, ...]] | None = None,
    ) -> TransparentMesh:
        """Return the running mesh; it is stopped when the test ends."""
        ...


def pods(tmp_path: Path) -> Iterator[StartPods]:
    """Start meshes one after another, and stop them whatever happens: the body of the fixture `start_pods`."""
    running: list[TransparentMesh] = []

    def start(
        *apps: App,
        manifests: str = STRICT,
        serve_args: tuple[str, ...] = (),
        redirect: Mapping[str, Mapping[str, Any]] | None = None,
        tcp_ports: Mapping[str, tuple[int, ...]] | None = None,
    ) -> TransparentMesh:
        work = tmp_path / f"pods-{len(running)}"
        mesh = TransparentMesh(
            work, apps, manifests, serve_args=serve_args, redirect=redirect, tcp_ports=tcp_ports
        )
        running.append(mesh)
        return mesh.start()

    try:
        yield start
    finally:
        for mesh in reversed(running):
            mesh.stop()
