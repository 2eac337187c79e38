"""Fixtures of the tests with real Envoys: a mesh that is started by a test and stopped after it."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from xds.demo import programs
from xds.demo.processes import DemoError

# Test files are imported by path and are no package: what they share is put where `from rig import …` finds it.
sys.path.insert(0, str(Path(__file__).parent))

from rig import STRICT, App, MeshUnderTest, StartMesh  # after the path
from transparent import StartPods, pods

_TEST_S = 240
"""A mesh of four pods starts in 3 s on an idle machine; beside other work it took 30 s."""


@pytest.fixture
def start_mesh(tmp_path: Path) -> Iterator[StartMesh]:
    """Start meshes for one test, and stop them in order whatever happens."""
    running: list[MeshUnderTest] = []

    def start(
        *apps: App, manifests: str = STRICT, is_insecure: bool = False, serve_args: tuple[str, ...] = ()
    ) -> MeshUnderTest:
        work = tmp_path / f"mesh-{len(running)}"
        mesh = MeshUnderTest(work, apps, manifests, is_insecure=is_insecure, serve_args=serve_args)
        running.append(mesh)
        return mesh.start()

    try:
        yield start
    finally:
        for mesh in reversed(running):
            mesh.stop()


@pytest.fixture
def start_pods(tmp_path: Path) -> Iterator[StartPods]:
    """Start meshes of intercepted pods for one test; needs root, for network namespaces."""
    yield from pods(tmp_path)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build and install what the chosen tests need: on a new machine that takes minutes, and is no test's time.

    A module names what it needs besides the shop in ``NEEDS``. What cannot be had is told by the test that asks for
    it.
    """
    here = Path(__file__).parent
    modules = {
        item.module
        for item in session.items
        if isinstance(item, pytest.Function) and item.path.is_relative_to(here)
    }
    if not modules or session.config.option.collectonly:
        return
    needs = (need for module in modules for need in getattr(module, "NEEDS", ()))
    for need in dict.fromkeys((programs.shop, *needs)):
        with contextlib.suppress(DemoError, RuntimeError, OSError, subprocess.SubprocessError):
            need()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this directory: it starts processes."""
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.envoy)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(_TEST_S))
