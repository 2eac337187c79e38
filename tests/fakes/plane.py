"""A control plane of its own process, over TLS with tokens, and a client for it that knows no class of ours.

It owns the process and the channel; what is said on the channel is bytes, and a test's affair.
"""

from __future__ import annotations

import http.client
import json
import os
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import grpc
import grpc.aio
import psutil

from xds import bootstrap
from xds.demo.mesh import free_ports
from xds.demo.processes import Child, Family, wait_until
from xds.state import StateDirectory
from xds.tokens import TokenKey

ADS_DELTA: Final = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
ADS_SOTW: Final = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
CSDS: Final = "/envoy.service.status.v3.ClientStatusDiscoveryService/FetchClientStatus"
OTLP: Final = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export"

DEADLINE_S: Final = 30.0
"""Nothing here takes a second on an idle machine."""

_OPTIONS: Final = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0))
"""A connection for each channel, and no second try behind a test's back."""

_ROOT: Final = Path(__file__).parents[2]

Call = grpc.aio.StreamStreamCall[bytes, bytes]


@dataclass(frozen=True)
class Plane:
    """A running control plane over a directory."""

    manifests: Path
    state: Path
    port: int
    admin_port: int
    child: Child

    @property
    def tokens(self) -> TokenKey:
        """The key that signs join tokens."""
        return StateDirectory.open(self.state).token_key()

    def token(
        self, pod: str, namespace: str = "shop", account: str = "", *, ttl_s: int = 600, at: float = 0
    ) -> str:
        """Return a genuine token of a pod whose ServiceAccount has its name."""
        return self.tokens.issue(
            namespace=namespace,
            pod=pod,
            service_account=account or pod,
            trust_domain="cluster.local",
            now=at or time.time(),
            octets=os.urandom,
            ttl_s=ttl_s,
        )

    def write(self, name: str, text: str) -> None:
        """Put a manifest file in place with one rename."""
        draft = self.manifests / f".{name}.draft"
        draft.write_text(text, "utf-8")
        draft.replace(self.manifests / name)

    def api(self, path: str) -> Any:
        """Return a document of the admin API; empty where there is none."""
        connection = http.client.HTTPConnection("127.0.0.1", self.admin_port, timeout=DEADLINE_S)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read()
            return json.loads(body) if answer.status == http.client.OK else {}
        finally:
            connection.close()

    def rss_mib(self) -> float:
        """Return the memory of the process."""
        return psutil.Process(self.child.process.pid).memory_info().rss / 2**20

    @asynccontextmanager
    async def channel(self) -> AsyncGenerator[grpc.aio.Channel]:
        """Open a TLS channel of its own connection."""
        async with grpc.aio.secure_channel(self._target, self._credentials(), _OPTIONS) as channel:
            yield channel

    def blocking_channel(self) -> grpc.Channel:
        """Return a TLS channel of its own connection for calls that block."""
        return grpc.secure_channel(self._target, self._credentials(), _OPTIONS)

    @property
    def _target(self) -> str:
        return f"127.0.0.1:{self.port}"

    def _credentials(self) -> grpc.ChannelCredentials:
        roots = bootstrap.tls_of_state(self.state, self.state / "token").roots
        return grpc.ssl_channel_credentials("".join(roots).encode())


def start(family: Family, work: Path, manifests: dict[str, str], module: str = "xds") -> Plane:
    """Start `proa serve` (or the module that stands for it) over these files, and wait until it is ready."""
    directory = work / "manifests"
    directory.mkdir(parents=True)
    for name, text in manifests.items():
        (directory / name).write_text(text, "utf-8")
    state, (port, admin_port) = work / "state", free_ports(2)
    argv = [sys.executable, "-m", module]
    if module == "xds":
        argv += ["serve", "--from", str(directory), "--state", str(state)]
        argv += ["--xds", f"127.0.0.1:{port}", "--admin", f"127.0.0.1:{admin_port}"]
    else:
        argv += [str(directory), str(state), str(port), str(admin_port)]
    child = family.start("control-plane", argv, env={"PYTHONPATH": str(_ROOT)})
    plane = Plane(directory, state, port, admin_port, child)
    wait_until("the control plane is ready", lambda: _is_ready(plane), timeout_s=60, child=child)
    return plane


def _is_ready(plane: Plane) -> bool:
    try:
        plane.api("/api/v1/proxies")
    except OSError:
        return False
    return True


def open_stream(
    channel: grpc.aio.Channel, method: str, authorization: str, *, timeout_s: float = DEADLINE_S
) -> Call:
    """Open a stream of bytes with an `authorization` header, none if it is empty."""
    factory = cast("Callable[[str], Callable[..., Call]]", channel.stream_stream)  # pyright: ignore[reportUnknownMemberType]
    return factory(method)(metadata=metadata(authorization), timeout=timeout_s)


async def ask(channel: grpc.aio.Channel, method: str, body: bytes, authorization: str) -> bytes:
    """Make one unary call of bytes."""
    factory = cast("Callable[[str], Callable[..., Awaitable[bytes]]]", channel.unary_unary)  # pyright: ignore[reportUnknownMemberType]
    return await factory(method)(body, metadata=metadata(authorization), timeout=DEADLINE_S)


def metadata(authorization: str) -> tuple[tuple[str, str], ...]:
    """Return the headers of a call with this `authorization`, none if it is empty."""
    return (("authorization", authorization),) if authorization else ()
