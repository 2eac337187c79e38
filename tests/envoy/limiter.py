"""The rate limit service of Envoy's project with a Redis of its own, as real as they come.

It owns their ports, files and processes, and installs or builds what is missing; it must never assert: tests do.
"""

from __future__ import annotations

import socket
from collections.abc import Generator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from tests.cluster import packages, programs
from xds.demo.mesh import free_ports
from xds.demo.processes import Child, Family, wait_until

NEEDS: Final = (partial(packages.install, packages.SYSTEMS), programs.ratelimit)
"""What tests with it need of the machine."""

_START_S: Final = 60
"""A busy machine; on an idle one both answer within 0.2 s."""


@dataclass(slots=True)
class RateLimitService:
    """A running service; ``port`` is that of its gRPC."""

    work: Path
    config: str
    port: int = field(init=False)
    family: Family = field(init=False)
    _others: tuple[int, ...] = field(init=False)
    """Ports of Redis, and of the service's HTTP and debugging."""
    _children: list[Child] = field(default_factory=list[Child])

    def __post_init__(self) -> None:
        self.port, *others = free_ports(4)
        self._others = tuple(others)
        rules = self.work / "runtime" / "limits" / "config"
        rules.mkdir(parents=True)
        (rules / "limits.yaml").write_text(self.config, encoding="utf-8")
        self.family = Family(self.work / "logs")

    def start(self) -> None:
        """Start both, and return when the service takes connections."""
        redis_port, http_port, debug_port = self._others
        redis = [packages.SYSTEMS["redis-server"], "--port", str(redis_port), "--bind", "127.0.0.1"]
        redis += ["--save", "", "--appendonly", "no", "--dir", str(self.work)]
        self._children.append(self.family.start("redis", redis))
        self._wait(redis_port, "redis")
        environment = {
            "REDIS_SOCKET_TYPE": "tcp",
            "REDIS_URL": f"127.0.0.1:{redis_port}",
            "USE_STATSD": "false",
            "RUNTIME_ROOT": str(self.work / "runtime"),
            "RUNTIME_SUBDIRECTORY": "limits",
            "RUNTIME_WATCH_ROOT": "false",
            "HOST": "127.0.0.1",
            "GRPC_HOST": "127.0.0.1",
            "DEBUG_HOST": "127.0.0.1",
            "PORT": str(http_port),
            "DEBUG_PORT": str(debug_port),
            "GRPC_PORT": str(self.port),
            "LOG_LEVEL": "warn",
        }
        argv = [str(programs.ratelimit())]
        self._children.append(self.family.start("ratelimit", argv, env=environment))
        self._wait(self.port, "ratelimit")

    def stop(self) -> None:
        """End both; starting again counts from nothing."""
        self.family.stop()
        self.family = Family(self.work / "logs")
        self._children.clear()

    def _wait(self, port: int, what: str) -> None:
        wait_until(
            f"{what} takes connections", lambda: _takes(port), timeout_s=_START_S, child=self._children[-1]
        )


def _takes(port: int) -> bool:
    with closing(socket.socket()) as found:
        found.settimeout(1)
        return found.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def rate_limit_service(work: Path, config: str) -> Generator[RateLimitService]:
    """Run the service with these limits; install Redis and build the service where they are missing."""
    packages.install(packages.SYSTEMS)
    service = RateLimitService(work, config)
    try:
        service.start()
        yield service
    finally:
        service.stop()
