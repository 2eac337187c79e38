"""The Debian packages that a node, and a network namespace, needs.

It owns their list and their installation when one is missing; it must never leave a service running that a package
started.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Final

from tests.cluster import programs

NEEDED: Final = MappingProxyType(
    {
        "containerd": "/usr/bin/containerd",
        "runc": "/usr/sbin/runc",
        "containernetworking-plugins": "/usr/lib/cni/bridge",
        "nftables": "/usr/sbin/nft",
        "conntrack": "/usr/sbin/conntrack",
        "iproute2": "/usr/sbin/ip",
        "iptables": "/usr/sbin/iptables",
        "buildah": "/usr/bin/buildah",
        "procps": "/usr/sbin/sysctl",
        "util-linux": "/usr/bin/unshare",
        "curl": "/usr/bin/curl",
    }
)
"""Package → a file that says that it is there."""

SYSTEMS: Final = MappingProxyType(
    {
        "redis-server": "/usr/bin/redis-server",
        "prometheus": "/usr/bin/prometheus",
        "default-jre-headless": "/usr/bin/java",
    }
)
"""The same of what a test starts beside the mesh; no node needs it."""

_POLICY: Final = Path("/usr/sbin/policy-rc.d")

# Fetching and unpacking 60 MB took 20 s; a mirror may be slow.
_INSTALL_S: Final = 600


def missing(packages: Iterable[str] = NEEDED) -> list[str]:
    """Return those of the packages that are not installed."""
    return [package for package in packages if not Path({**NEEDED, **SYSTEMS}[package]).exists()]


def install(packages: Iterable[str] = NEEDED) -> None:
    """Install those that are missing; RuntimeError with the command to type when that is not possible."""
    wanted = missing(packages)
    if os.geteuid() != 0:
        message = "namespaces and containers need root: run this as root, or `make unit`"
        raise RuntimeError(message)
    if not wanted:
        return
    with programs.lock("packages"), _no_service():
        _apt("update")
        _apt("install", "--yes", "--no-install-recommends", *wanted)


@contextmanager
def _no_service() -> Generator[None]:
    """Answer no, while packages are installed, to the question whether a service may start (invoke-rc.d(8))."""
    is_ours = not _POLICY.exists()
    if is_ours:
        _POLICY.write_text("#!/bin/sh\nexit 101\n", encoding="ascii")
        _POLICY.chmod(0o755)
    try:
        yield
    finally:
        if is_ours:
            _POLICY.unlink()


def _apt(*words: str) -> None:
    apt = shutil.which("apt-get")
    if apt is None:
        message = f"install {' '.join(missing())}: this machine has no apt-get"
        raise RuntimeError(message)
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(
        [apt, *words], env=env, capture_output=True, text=True, check=False, timeout=_INSTALL_S
    )
    if done.returncode:
        message = f"apt-get {' '.join(words)} failed:\n{done.stderr[-2_000:]}"
        raise RuntimeError(message)
