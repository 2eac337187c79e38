"""Network namespaces for one test: pods on a bridge, in a world of their own that vanishes with its processes.

It owns namespaces, links, addresses and routes; it must never touch the network of the machine: the bridge, too, lies
in a namespace. Each is held by a sleeping child, so that a test that is killed leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Generator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from tests.cluster import packages
from xds.demo.processes import Child, Family, wait_until

HOST: Final = "10.83.0.1"
HOST6: Final = "fd83::1"
"""The bridge: where the control plane listens, and from where a stranger calls."""

NEEDS: Final = (partial(packages.install, ("iproute2", "nftables", "util-linux")),)
"""What tests with namespaces need of the machine."""

_CLONE_NEWNET: Final = 0x40000000
_START_S: Final = 60.0
_COMMAND_S: Final = 60.0


class Namespace:
    """One network namespace."""

    def __init__(self, family: Family, name: str) -> None:
        self.name = name
        outside = Path("/proc/thread-self/ns/net").readlink()
        self._holder: Child = family.start(f"netns-{name}", ["unshare", "--net", "sleep", "infinity"])
        self._place = Path(f"/proc/{self.pid}/ns/net")
        wait_until(
            f"the network namespace {name}",
            lambda: self._place.readlink() != outside,
            timeout_s=_START_S,
            child=self._holder,
        )
        self.run("ip", "link", "set", "lo", "up")

    @property
    def pid(self) -> int:
        """The process that holds it."""
        return self._holder.process.pid

    @contextlib.contextmanager
    def inside(self) -> Generator[None]:
        """Let this thread, and the processes and threads that it starts, use this namespace's network."""
        with Path("/proc/thread-self/ns/net").open("rb") as before, self._place.open("rb") as here:
            _enter(here.fileno())
            try:
                yield
            finally:
                _enter(before.fileno())

    def run(self, *argv: str, stdin: str = "") -> str:
        """Run a command in it as root; a failure shows what the command said."""
        with self.inside():
            done = subprocess.run(
                argv, input=stdin, capture_output=True, text=True, check=False, timeout=_COMMAND_S
            )
        assert done.returncode == 0, f"{argv}: {done.stderr}"
        return done.stdout


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a pod is."""

    ip: str
    ip6: str


class Network:
    """A bridge with pods on it."""

    def __init__(self, family: Family) -> None:
        for need in NEEDS:
            need()
        self._family = family
        self.fabric = Namespace(family, "fabric")
        self.pods: dict[str, Namespace] = {}
        run = self.fabric.run
        run("ip", "link", "add", "br0", "type", "bridge")
        run("ip", "addr", "add", f"{HOST}/16", "dev", "br0")
        run("ip", "-6", "addr", "add", f"{HOST6}/64", "dev", "br0", "nodad")
        run("ip", "link", "set", "br0", "up")

    @staticmethod
    def addresses(number: int) -> Addresses:
        """Return the addresses of the pod with this number, 1 to 254."""
        return Addresses(f"10.83.1.{number}", f"fd83::1:{number}")

    def add(self, name: str, at: Addresses) -> Namespace:
        """Add a pod: a namespace with `eth0` on the bridge, and the bridge as its way out."""
        pod = self.pods[name] = Namespace(self._family, name)
        link = f"v{len(self.pods)}"
        run = self.fabric.run
        run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", str(pod.pid))
        run("ip", "link", "set", link, "master", "br0", "up")
        pod.run("ip", "addr", "add", f"{at.ip}/16", "dev", "eth0")
        pod.run("ip", "-6", "addr", "add", f"{at.ip6}/64", "dev", "eth0", "nodad")
        pod.run("ip", "link", "set", "eth0", "up")
        pod.run("ip", "route", "add", "default", "via", HOST)
        pod.run("ip", "-6", "route", "add", "default", "via", HOST6)
        return pod


def _enter(descriptor: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
