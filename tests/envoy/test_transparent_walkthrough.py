"""docs/transparent.md keeps its word: its commands are run as they stand, in a network of their own."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import netns
import pytest

from xds.demo import programs

NEEDS = netns.NEEDS

ROOT: Final = Path(__file__).resolve().parent.parent.parent
BLOCKS: Final = re.findall(
    r"^```sh\n(.*?)^```$", (ROOT / "docs/transparent.md").read_text("utf-8"), re.MULTILINE | re.DOTALL
)
DEADLINE_S: Final = 200

# /run/netns of its own, and a process namespace whose end is everybody's: nothing is left behind.
PRIVATE: Final = ("unshare", "--net", "--mount", "--pid", "--mount-proc", "--fork", "--kill-child", "--")
BEFORE: Final = "mkdir -p /run/netns; mount -t tmpfs none /run/netns\n"


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that the sidecar's user may enter, with the programs that the document asks for."""
    with tempfile.TemporaryDirectory(prefix="proa-walk-") as name:
        place = Path(name)
        place.chmod(0o755)
        (place / "bin").mkdir()
        proa = place / "bin" / "proa"
        proa.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m xds "$@"\n')
        proa.chmod(0o755)
        shutil.copy(programs.envoy(), place / "bin" / "envoy")
        shutil.copy(programs.shop(), place / "bin" / "shop")
        yield place


def test_the_walk_through_works(place: Path) -> None:
    """Over mutual TLS by the Service's address; closed to plaintext from outside."""
    script = "\n".join((BEFORE, *BLOCKS))
    done = subprocess.run(
        [*PRIVATE, "bash", "-euc", f"PATH={place}/bin:$PATH; {script}"],
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_S,
    )

    assert done.returncode == 0, done.stderr[-4000:]
    assert '"workload": "orders"' in done.stdout
    assert "URI=spiffe://cluster.local/ns/shop/sa/web" in done.stdout
