"""A directory of manifests that is edited while it is watched."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

import pytest

from tests.fakes.directory import keys, write
from tests.fakes.objects import service
from xds.sources.directory import Batch, Directory

DEADLINE_S = 20
"""For one notice on a machine under load; the usual time is 20 ms."""

CLOCK_TICK_S = 0.02
"""The kernel stamps files with the time of its last tick, which may lie a little before the edit."""


async def after(directory: Directory, *edits: Callable[[], object]) -> list[Batch]:
    """Watch while edits are made, each after the batch of the one before; return the batches."""
    found: list[Batch] = []
    async with aclosing(directory.watch()) as batches:
        for edit in edits:
            pending = asyncio.ensure_future(anext(batches))
            edit()
            found.append(await asyncio.wait_for(pending, DEADLINE_S))
    return found


def loaded(root: Path) -> Directory:
    """Return a directory that has been read."""
    directory = Directory(root)
    directory.load()
    return directory


async def test_an_edit_is_noticed(tmp_path: Path) -> None:
    """With the time of the file itself, which is before the notice."""
    write(tmp_path / "a.yaml", service())
    before = time.time()
    (found,) = await after(loaded(tmp_path), lambda: write(tmp_path / "a.yaml", service(), service("web")))

    assert keys(found) == {"Service shop/web": True}
    assert before - CLOCK_TICK_S <= found.detected_at <= time.time()


async def test_an_edit_before_the_watch_is_noticed(tmp_path: Path) -> None:
    """Nothing is lost between load and watch."""
    directory = loaded(tmp_path)
    write(tmp_path / "a.yaml", service())

    assert keys((await after(directory, lambda: None))[0]) == {"Service shop/orders": True}


async def test_edits_follow_each_other(tmp_path: Path) -> None:
    """Written in place, broken, fixed, moved into a new directory, and removed with it."""
    path = write(tmp_path / "a.yaml", service())
    moved = tmp_path / "new/a.yaml"
    good, other = json.dumps(service()), json.dumps(service(ports=[{"name": "http", "port": 81}]))
    batches = await after(
        loaded(tmp_path),
        lambda: path.write_text(other),
        lambda: path.write_text("a: ["),
        lambda: path.write_text(good),
        lambda: write(tmp_path / "new/b.yaml", service("web")),
        lambda: path.rename(moved).write_text(other),
        lambda: shutil.rmtree(tmp_path / "new"),
    )

    assert [(list(keys(b).items()), len(b.problems)) for b in batches] == [
        ([("Service shop/orders", True)], 0),
        ([], 1),
        ([("Service shop/orders", True)], 0),
        ([("Service shop/web", True)], 0),
        ([("Service shop/orders", True)], 0),
        ([("Service shop/orders", False), ("Service shop/web", False)], 0),
    ]


async def test_an_edit_of_many_files_is_one_batch(tmp_path: Path) -> None:
    """A checkout or an apply changes all of them, and no state in between is served."""
    for index in range(20):
        write(tmp_path / f"{index}.yaml", service(f"s{index}"))

    def edit() -> None:
        for index in range(20):
            write(tmp_path / f"{index}.yaml", service(f"s{index}", ports=[{"name": "http", "port": 81}]))

    (found,) = await after(loaded(tmp_path), edit)

    assert len(found.changes) == 20


async def test_a_swapped_config_map_is_noticed(tmp_path: Path) -> None:
    """Kubernetes replaces one hidden link, and no file of a visible name is touched."""
    write(tmp_path / "..1/a.yaml", service())
    write(tmp_path / "..2/a.yaml", service(ports=[{"name": "http", "port": 81}]))
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "a.yaml").symlink_to("..data/a.yaml")

    def swap() -> None:
        (tmp_path / "..tmp").symlink_to("..2")
        (tmp_path / "..tmp").rename(tmp_path / "..data")

    # The first edit takes up the look that every watch begins with, so that the swap itself must be noticed.
    _, found = await after(loaded(tmp_path), lambda: write(tmp_path / "b.yaml", service("web")), swap)

    assert keys(found) == {"Service shop/orders": True}


async def test_what_does_not_matter_is_silent(tmp_path: Path) -> None:
    """Hidden files, other files and rewrites of the same bytes give no batch; the next edit does."""
    path = write(tmp_path / "a.yaml", service())
    directory = loaded(tmp_path)

    def noise_then_edit() -> None:
        path.write_bytes(path.read_bytes())
        (tmp_path / "notes.txt").write_text("x")
        (tmp_path / ".a.swp").write_text("x")
        write(tmp_path / "b.yaml", service("web"))

    assert keys((await after(directory, noise_then_edit))[0]) == {"Service shop/web": True}


async def test_the_watch_ends_when_it_is_cancelled(tmp_path: Path) -> None:
    """At once, although the watcher waits in a thread."""
    pending = asyncio.ensure_future(anext(loaded(tmp_path).watch()))
    await asyncio.sleep(0)
    pending.cancel()

    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(pending, DEADLINE_S)
