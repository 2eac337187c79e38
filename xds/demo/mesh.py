"""A mesh on loopback addresses: one control plane, one real Envoy per pod, and the pods' applications.

It owns the order in which they start and stop; it must never look at traffic. The tests with real Envoys build on
this class as the demonstration does.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import sys
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from xds import bootstrap, settings
from xds.demo import admin, programs
from xds.demo.manifests import PodSpec
from xds.demo.processes import Child, DemoError, Family, wait_until
from xds.state import StateDirectory, write_private

# On two busy cores the control plane's imports take 2 s and a first Envoy 1 s; on a new machine nothing is cached.
_START_S = 60.0


_PORTS: Final = range(20_000, 32_000)
"""Below the range from which Linux takes the ports of outgoing connections (32768 and up): a port of that range
may be gone between the look and the listening, and again while a control plane is restarted."""


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody has now, and that no connection will take."""
    (port,) = free_ports(1)
    return port


def free_ports(count: int) -> tuple[int, ...]:
    """Return as many such ports, all different: two looks one after the other might find the same."""
    found: list[int] = []
    for port in random.sample(_PORTS, len(_PORTS)):
        if len(found) == count:
            return tuple(found)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
    message = f"{count} ports of 127.0.0.1 are not free between {_PORTS.start} and {_PORTS.stop}"
    raise DemoError(message)


def is_taken(host: str, port: int) -> bool:
    """Tell whether somebody accepts connections there."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, port)) == 0


def check_free(host: str, ports: tuple[int, ...], owner: str) -> None:
    """Raise DemoError that names the address if one of the ports is taken."""
    for port in ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                message = (
                    f"{host}:{port}, where {owner} must listen: {error.strerror}; another demo may be running, "
                    "or a program listens on every address"
                )
                raise DemoError(message) from None


@dataclass(slots=True)
class Mesh:
    """Everything of one run, below one working directory."""

    work: Path
    """Holds manifests/, state/, proxies/ and logs/."""
    is_insecure: bool = False
    serve_args: tuple[str, ...] = ()
    """Further flags of `proa serve`."""
    ads_variant: str = "DELTA_GRPC"
    """`api_type` of the sidecars' ADS: `GRPC` is the state-of-the-world variant."""
    concurrency: int = 1
    """Workers of each Envoy."""
    xds_host: str = "127.0.0.1"
    """Where the control plane listens for sidecars."""
    collector: bootstrap.Collector | None = None
    """Where sidecars push their counters besides."""
    envoys: Mapping[str, Path] = field(default_factory=dict[str, Path])
    """Pods whose sidecar is another Envoy than that of the wheel."""
    older: Collection[str] = ()
    """Those of them that are before 1.37."""
    family: Family = field(init=False)
    xds_port: int = field(init=False)
    admin_port: int = field(init=False)
    control_plane: Child | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.xds_port, self.admin_port = free_ports(2)
        self.family = Family(self.work / "logs")
        self.proxies_directory.mkdir(exist_ok=True)

    @property
    def manifests(self) -> Path:
        """The directory that the control plane watches."""
        return self.work / "manifests"

    @property
    def state(self) -> Path:
        """The control plane's state directory."""
        return self.work / "state"

    @property
    def proxies_directory(self) -> Path:
        """Bootstraps and tokens."""
        return self.work / "proxies"

    @property
    def api(self) -> admin.ControlPlane:
        """The control plane's API."""
        return admin.ControlPlane("127.0.0.1", self.admin_port)

    def serve(self) -> None:
        """Start the control plane and wait until it has read the manifests."""
        argv = [
            sys.executable,
            "-m",
            "xds",
            "serve",
            "--from",
            str(self.manifests),
            "--state",
            str(self.state),
        ]
        argv += ["--xds", f"{self.xds_host}:{self.xds_port}", "--admin", f"127.0.0.1:{self.admin_port}"]
        argv += [*(("--insecure",) if self.is_insecure else ()), *self.serve_args]
        child = self.control_plane = self.family.start("control-plane", argv)
        wait_until("the control plane is ready", self.api.is_ready, timeout_s=_START_S, child=child)

    def start_sidecar(self, pod: PodSpec) -> Child:
        """Start a pod's Envoy from a bootstrap of its own; it becomes ready later, see `wait_ready`."""
        check_free(
            pod.pod_ip, (bootstrap.ADMIN_PORT, bootstrap.READY_PORT, *pod.ports), f"the sidecar of {pod.name}"
        )
        document = self.proxies_directory / f"{pod.node_id}.json"
        content = bootstrap.build(self._spec(pod))
        content["dynamic_resources"]["ads_config"]["api_type"] = self.ads_variant
        document.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
        envoy = self.envoys.get(pod.name) or programs.envoy()
        argv = [str(envoy), "-c", str(document), "--concurrency", str(self.concurrency)]
        argv += ["--disable-hot-restart", "-l", "warning"]
        argv += ["--drain-strategy", "immediate", "--drain-time-s", str(settings.DRAIN_S)]
        argv += ["--file-flush-interval-msec", str(settings.LOG_FLUSH_MS)]
        return self.family.start(f"envoy-{pod.name}", argv)

    def wait_ready(self, pod: PodSpec, child: Child) -> None:
        """Wait until a sidecar has all of its configuration."""

        def is_ready() -> bool:
            return admin.is_ready(pod.pod_ip, bootstrap.READY_PORT)

        wait_until(f"the sidecar of {pod.name} is ready", is_ready, timeout_s=_START_S, child=child)

    def start_application(self, pod: PodSpec, *args: str, stdout: int | None = None) -> Child:
        """Start a pod's first container: `shop ARGS`, told where to bind and where its sidecar is."""
        if pod.ports:
            check_free(pod.app_address, pod.ports, f"the application of {pod.name}")
        env = {"SHOP_WORKLOAD": pod.name, "SHOP_OUTBOUND": pod.outbound, "SHOP_LISTEN": pod.listen, **pod.env}
        return self.family.start(
            f"app-{pod.name}", [str(programs.shop()), *pod.args, *args], env=env, stdout=stdout
        )

    def wait_application(self, pod: PodSpec, child: Child) -> None:
        """Wait until a pod's application accepts connections on all of its ports."""
        for port in pod.ports:
            wait_until(
                f"the application of {pod.name} listens on {pod.app_address}:{port}",
                lambda port=port: is_taken(pod.app_address, port),
                timeout_s=_START_S,
                child=child,
            )

    def stop(self) -> None:
        """Stop everything, the last started first."""
        self.family.stop()

    def _spec(self, pod: PodSpec) -> bootstrap.Spec:
        return bootstrap.Spec(
            pod=pod.name,
            namespace=pod.namespace,
            workload=pod.name,
            service_account=pod.service_account,
            pod_ip=pod.pod_ip,
            xds_host=self.xds_host,
            xds_port=self.xds_port,
            channel=bootstrap.Plaintext() if self.is_insecure else self.channel(pod),
            collector=self.collector,
            is_older=pod.name in self.older,
        )

    def channel(self, pod: PodSpec) -> bootstrap.Tls:
        """Write a join token of the default life and the file that names it to Envoy; return the channel."""
        # A directory of its own: Envoy reads the secret again at each rename in the token's directory.
        place = self.proxies_directory / pod.node_id
        place.mkdir(mode=0o700, exist_ok=True)
        token = (
            StateDirectory.open(self.state)
            .token_key()
            .issue(
                namespace=pod.namespace,
                pod=pod.name,
                service_account=pod.service_account,
                trust_domain="cluster.local",
                now=time.time(),
                octets=os.urandom,
            )
        )
        write_private(place / "token", token.encode("ascii"))
        channel = bootstrap.tls_of_state(self.state, place / "token")
        bootstrap.write_secret(channel)
        return channel
