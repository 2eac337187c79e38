"""The images of a cluster, as archives in the cache outside the clone, made again only when their content changes.

It owns which program becomes which image, and which are kept; it must never ask a registry. Proa's own two images come
from deploy/, the way a user builds them.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import xds
from tests.cluster import packages, programs
from tests.cluster.archive import Image
from xds.demo import programs as demo

_ROOT: Final = Path(xds.__file__).resolve().parent.parent

PAUSE: Final = "localhost/cluster/pause:1"
COREDNS: Final = "localhost/cluster/coredns:1"
SHOP: Final = "localhost/cluster/shop:1"
PROBED: Final = "localhost/cluster/probed:1"

IN_USE_S: Final = 3600
"""For so long after its last use an image is kept: other clones of this machine may be at other states."""

# Staging Python, compiling it and two buildah runs took 40 s beside other work.
_PROA_BUILD_S: Final = 600


def basic() -> list[Path]:
    """Return the archives that every cluster has: the sandbox's, the DNS server's, the example services'."""
    passwd = {"/etc/passwd": "root:x:0:0::/:\nuser:x:65532:65532::/:\n"}
    return [
        _archive(Image(PAUSE, {"/pause": programs.pause()}, ["/pause"])),
        _archive(Image(COREDNS, {"/coredns": programs.coredns()}, ["/coredns"], user="0:0")),
        _archive(Image(SHOP, {"/shop": demo.shop()}, ["/shop"], texts=passwd)),
    ]


def probed() -> Path:
    """Return the archive of an application whose probes a test breaks (tests/cluster/probed)."""
    return _archive(Image(PROBED, {"/probed": programs.probed()}, ["/probed"]))


def proa(name: str) -> Path:
    """Return the archive of an image of Proa's own: ``control`` or ``proxy``, called localhost/proa/NAME:VERSION."""
    archive = programs.cache() / "images" / f"{name}-{_state_of_clone()}" / f"{name}.tar"
    if not archive.is_file():
        with programs.lock("images"):
            if not archive.is_file():
                _build(name, archive)
                prune(archive.parent)
    os.utime(archive.parent)
    return archive


def _archive(image: Image) -> Path:
    name = image.name.partition(":")[0].rpartition("/")[2]
    path = programs.cache() / "images" / f"{name}-{image.key()}.tar"
    if not path.is_file():
        with programs.lock("images"):
            image.write(path)
            prune(path)
    os.utime(path)
    return path


def prune(newest: Path) -> None:
    """Remove what stands beside a new image for an older state of the same one, unless somebody used it lately.

    An archive is read for seconds after its place was given out; each use renews the time of its place.
    """
    name = newest.name.rpartition("-")[0]
    for place in newest.parent.glob(f"{name}-*"):
        is_same = place.name.rpartition("-")[0] == name
        if is_same and place != newest and newest.stat().st_mtime - place.stat().st_mtime > IN_USE_S:
            shutil.rmtree(place) if place.is_dir() else place.unlink()


def _build(name: str, archive: Path) -> None:
    packages.install(("buildah", "nftables"))
    unfinished = archive.parent / "unfinished"
    argv = [sys.executable, "deploy/images.py", name, "--out", str(unfinished)]
    done = subprocess.run(argv, cwd=_ROOT, capture_output=True, text=True, check=False, timeout=_PROA_BUILD_S)
    if done.returncode:
        message = f"deploy/images.py {name} failed:\n{done.stderr[-4_000:]}"
        raise RuntimeError(message)
    (unfinished / archive.name).replace(archive)


def _state_of_clone() -> str:
    """Return what names all that goes into Proa's images: its code, its lock, its Dockerfiles, this Python."""
    digest = hashlib.sha256(platform.python_version().encode())
    files = [
        *(_ROOT / "xds").rglob("*"),
        *(_ROOT / "deploy").glob("*"),
        _ROOT / "envoy" / "Dockerfile",
        _ROOT / "uv.lock",
    ]
    for file in sorted(file for file in files if file.is_file() and "__pycache__" not in file.parts):
        digest.update(f"{file.relative_to(_ROOT)}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:16]
