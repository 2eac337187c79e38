"""The programs of a cluster, built from their Go modules at most once for each state of go.mod, go.sum and main.go.

It owns the build cache outside the clone; it must never build two programs at once, nor leave half of one.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Final

from xds.demo import programs

_HERE: Final = Path(__file__).resolve().parent

# Kubernetes is 2,300 packages: 15 min of CPU, eight on two idle cores, and other work may share them.
_BUILD_TIMEOUT_S: Final = 3_000

KUBERNETES: Final = "v1.37.2"
"""What `kubectl version` says; the module pins it, and without a linker flag it would say v0.0.0."""

_KUBE_FLAGS: Final = " ".join(
    (
        "-s -w",
        f"-X k8s.io/component-base/version.gitVersion={KUBERNETES}",
        "-X k8s.io/component-base/version.gitMajor=1",
        "-X k8s.io/component-base/version.gitMinor=37",
    )
)

_COMPONENTS: Final = (
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-proxy",
    "kube-scheduler",
    "kubectl",
    "kubelet",
)


def cache() -> Path:
    """Return the directory for what is built once: $XDG_CACHE_HOME/proa, else ~/.cache/proa."""
    return programs.cache()


def kube() -> Path:
    """Return the binary that is all of Kubernetes; beside it stand links named after its components."""
    return _built("kube", _KUBE_FLAGS, links=_COMPONENTS)


def coredns() -> Path:
    """Return the DNS server that runs as a pod; it is static, so its image is one file."""
    return _built("coredns", "-s -w", env={"CGO_ENABLED": "0"})


def pause() -> Path:
    """Return the program that keeps namespaces alive."""
    return _built("pause", "-s -w", env={"CGO_ENABLED": "0"})


def probed() -> Path:
    """Return an application whose probes a test breaks."""
    return _built("probed", "-s -w", env={"CGO_ENABLED": "0"})


def ratelimit() -> Path:
    """Return the rate limit service of Envoy's project, which wants a Redis beside it."""
    return _built("ratelimit", "-s -w", env={"CGO_ENABLED": "0"})


def key(module: Path) -> str:
    """Return what names a state of a Go module of ours."""
    digest = hashlib.sha256()
    for name in ("go.mod", "go.sum", "main.go"):
        if (module / name).is_file():  # a module without requirements has no sums
            digest.update(name.encode() + b"\0" + (module / name).read_bytes())
    return digest.hexdigest()[:16]


@contextmanager
def lock(name: str) -> Generator[None]:
    """Hold the machine-wide lock of a kind of work, as long as its owner lives."""
    path = cache() / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # freed by the kernel, even after a crash
        yield


def _built(
    name: str, ldflags: str, *, env: Mapping[str, str] = MappingProxyType({}), links: tuple[str, ...] = ()
) -> Path:
    module = _HERE / name
    binary = cache() / name / key(module) / name
    if not binary.is_file():
        with lock("build"):
            if not binary.is_file():  # the lock's last owner may have built it
                _build(module, binary, ldflags, env)
    for link in links:
        place = binary.with_name(link)
        if not place.is_symlink():
            _link(place, name)
    return binary


def _build(module: Path, binary: Path, ldflags: str, env: Mapping[str, str]) -> None:
    """Build beside the target and rename: what stands there is whole."""
    binary.parent.mkdir(parents=True, exist_ok=True)
    sys.stderr.write(f"building {binary.name}, once for this machine (kube: 8 min on two idle cores)\n")
    whole = {"GOCACHE": str(cache() / "go-build"), **os.environ, **env}
    with tempfile.TemporaryDirectory(dir=binary.parent) as place:
        made = Path(place) / binary.name
        argv = [str(programs.go(module)), "build", "-trimpath", "-ldflags", ldflags, "-o", str(made), "."]
        done = subprocess.run(
            argv, cwd=module, env=whole, capture_output=True, text=True, check=False, timeout=_BUILD_TIMEOUT_S
        )
        if done.returncode:
            message = f"building {module} failed:\n{done.stderr[-4_000:]}"
            raise RuntimeError(message)
        made.replace(binary)


def _link(place: Path, target: str) -> None:
    try:
        place.symlink_to(target)
    except FileExistsError:  # another process was faster
        return
