"""A directory of manifests: what is in force, what is kept when something breaks, and what is refused."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import time
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

import pytest

from tests.fakes.objects import Raw, peer_authentication, pod, raw, service
from xds import settings
from xds.api.core import EndpointSlice, Key, Service
from xds.fields import Problem, Severity
from xds.sources.directory import Batch, Directory
from xds.sources.manifest_file import OBJECTS_MAX

ORDERS = Key("Service", "shop", "orders")
DEADLINE_S = 20
"""For one notice on a machine under load; the usual time is 20 ms."""

CLOCK_TICK_S = 0.02
"""The kernel stamps files with the time of its last tick, which may lie a little before the edit."""


def write(path: Path, *values: Raw | str) -> Path:
    """Write objects as documents of one file, by a rename as editors do it; text is written as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text("\n---\n".join(v if isinstance(v, str) else json.dumps(v, indent=1) for v in values))
    return fresh.rename(path)


def keys(batch: Batch) -> dict[str, bool]:
    """Return the changed keys as text, and whether the object is there."""
    return {str(key): new is not None for key, new in batch.changes}


def said(batch: Batch, root: Path) -> list[str]:
    """Return the problems as lines with paths below the root."""
    return [str(problem).replace(f"{root}/", "") for problem in batch.problems]


# -- What is in force ------------------------------------------------------------------------------


def test_every_manifest_below_the_directory_is_read(tmp_path: Path) -> None:
    """YAML and JSON, documents and Lists, in any depth."""
    write(tmp_path / "a.yaml", service("a"), service("b"))
    write(tmp_path / "deep/er/c.yml", service("c"))
    write(
        tmp_path / "d.json",
        json.dumps({"apiVersion": "v1", "kind": "List", "items": [service("d"), service("e")]}),
    )
    write(tmp_path / "README.md", "no manifest")

    batch = Directory(tmp_path).load()

    assert [key.name for key, _ in batch.changes] == ["a", "b", "c", "d", "e"]
    assert batch.problems == ()


def test_hidden_files_are_left_alone(tmp_path: Path) -> None:
    """Version control and editors keep theirs there."""
    write(tmp_path / ".git/a.yaml", "a: [")
    write(tmp_path / ".a.yaml.swp.yaml", "a: [")

    assert Directory(tmp_path).load().problems == ()


def test_a_second_look_changes_nothing(tmp_path: Path) -> None:
    """Only what differs is a change."""
    write(tmp_path / "a.yaml", service())
    directory = Directory(tmp_path)
    directory.load()

    assert directory.load().changes == ()


def test_a_rewritten_object_is_one_change(tmp_path: Path) -> None:
    """Its neighbours in the file stay silent."""
    write(tmp_path / "a.yaml", service(), service("web"))
    directory = Directory(tmp_path)
    directory.load()
    write(tmp_path / "a.yaml", service(ports=[{"name": "http", "port": 81}]), service("web"))

    assert keys(directory.load()) == {"Service shop/orders": True}


def test_an_object_goes_with_its_file(tmp_path: Path) -> None:
    """And with its document."""
    path = write(tmp_path / "a.yaml", service())
    write(tmp_path / "b.yaml", service("web"), service("api"))
    directory = Directory(tmp_path)
    directory.load()
    path.unlink()
    write(tmp_path / "b.yaml", service("web"))

    assert keys(directory.load()) == {"Service shop/orders": False, "Service shop/api": False}


def test_a_renamed_file_changes_nothing(tmp_path: Path) -> None:
    """The object is what counts, not where it stands."""
    path = write(tmp_path / "a.yaml", service())
    directory = Directory(tmp_path)
    directory.load()
    path.rename(tmp_path / "z.yaml")

    assert directory.load().changes == ()


def test_slices_are_derived_with_the_batch(tmp_path: Path) -> None:
    """Services, Pods and their endpoints come as one step."""
    write(tmp_path / "a.yaml", service(), pod())

    batch = Directory(tmp_path).load()

    assert [key.name for key, new in batch.changes if isinstance(new, EndpointSlice)] == ["orders-derived"]


def test_a_port_without_container_port_has_a_place(tmp_path: Path) -> None:
    """The warning of the derivation points into the Service's file."""
    text = (
        "apiVersion: v1\nkind: Service\nmetadata: {name: orders, namespace: shop}\n"
        "spec:\n  selector: {app: orders}\n  ports:\n  - name: http\n    port: 80\n    targetPort: 81\n"
    )
    write(tmp_path / "s.yaml", text)
    write(tmp_path / "p.yaml", pod())

    (line,) = said(Directory(tmp_path).load(), tmp_path)

    assert line.startswith(
        "s.yaml:9:5: warning: Service shop/orders: spec.ports[0].targetPort: Service port 80 (http)"
    )
    assert line.endswith("its container ports: 8080 (http)")


def test_only_a_directory_is_one(tmp_path: Path) -> None:
    """A wrong path must not look like an empty mesh."""
    with pytest.raises(NotADirectoryError):
        Directory(tmp_path / "absent").load()


# -- Last good -------------------------------------------------------------------------------------

BROKEN = [
    pytest.param(
        "a: [", "a.yaml:2:1: error: a.yaml: is not YAML: did not find expected node content", id="syntax"
    ),
    pytest.param("a: 1\na: 2", 'a.yaml:2:1: error: a.yaml: key "a" appears twice', id="duplicate key"),
    pytest.param("{}", "a.yaml:1:1: error: a.yaml: apiVersion: is required", id="nameless"),
    pytest.param("kind: Pod", "a.yaml:1:1: error: a.yaml: apiVersion: is required", id="no version"),
    pytest.param("just text", "a.yaml:1:1: error: a.yaml: must be an object, got a string", id="text"),
    pytest.param("", "a.yaml:1:1: warning: a.yaml: is empty: its last objects stay", id="truncated"),
]


@pytest.mark.parametrize(("text", "line"), BROKEN)
def test_a_broken_file_keeps_its_last_good_objects(tmp_path: Path, text: str, line: str) -> None:
    """It is reported with its place, and fixing it clears the report."""
    write(tmp_path / "a.yaml", service(), service("web"))
    directory = Directory(tmp_path)
    directory.load()
    write(tmp_path / "a.yaml", text)
    broken = directory.load()
    write(tmp_path / "a.yaml", service())
    fixed = directory.load()

    assert broken.changes == ()
    assert said(broken, tmp_path)[0].replace(f"error: {tmp_path}/", "error: ").startswith(line)
    assert (keys(fixed), fixed.problems) == ({"Service shop/web": False}, ())


def test_a_broken_object_keeps_its_last_good_version(tmp_path: Path) -> None:
    """Its neighbours in the same file change as they say."""
    write(tmp_path / "a.yaml", service(), service("web"))
    directory = Directory(tmp_path)
    directory.load()
    write(tmp_path / "a.yaml", service(ports=[{"port": 0}]), service("api"))
    batch = directory.load()

    assert keys(batch) == {"Service shop/web": False, "Service shop/api": True}
    assert batch.broken == frozenset()


def test_a_broken_object_survives_a_move(tmp_path: Path) -> None:
    """Last good belongs to the key: a file may be renamed and broken in one edit."""
    path = write(tmp_path / "a.yaml", service())
    directory = Directory(tmp_path)
    directory.load()
    path.unlink()
    write(tmp_path / "b.yaml", service(ports=[{"port": 0}]))

    assert directory.load().changes == ()


def test_a_deleted_object_leaves_no_last_good(tmp_path: Path) -> None:
    """Deleted and then written wrongly is as if it had never been good."""
    path = write(tmp_path / "a.yaml", service())
    directory = Directory(tmp_path)
    directory.load()
    path.unlink()
    directory.load()
    write(tmp_path / "a.yaml", service(ports=[{"port": 0}]))

    assert directory.load().broken == {ORDERS}


def test_an_object_that_was_never_good_is_named(tmp_path: Path) -> None:
    """A policy that cannot be read must be able to fail closed."""
    path = write(tmp_path / "a.yaml", peer_authentication(mtls={"mode": "STRCT"}))
    directory = Directory(tmp_path)
    before = directory.load().broken
    path.unlink()

    assert before == {Key("PeerAuthentication", "shop", "default")}
    assert directory.load().broken == frozenset()


def test_a_move_out_of_a_file_that_breaks_takes_the_new_version(tmp_path: Path) -> None:
    """What is said now wins over what is only kept."""
    write(tmp_path / "a.yaml", service())
    directory = Directory(tmp_path)
    directory.load()
    write(tmp_path / "a.yaml", "a: [")
    write(tmp_path / "b.yaml", service(ports=[{"name": "http", "port": 81}]))
    batch = directory.load()

    assert keys(batch) == {"Service shop/orders": True}
    assert [problem.severity for problem in batch.problems] == [Severity.ERROR]


# -- Duplicates ------------------------------------------------------------------------------------


def test_the_second_object_of_a_key_is_the_problem(tmp_path: Path) -> None:
    """By path, then by place; the message names the first one's place."""
    write(tmp_path / "a.yaml", service("web"), service(ports=[{"name": "http", "port": 1}]))
    write(tmp_path / "b.yaml", service(ports=[{"name": "http", "port": 2}]))
    directory = Directory(tmp_path)
    batch = directory.load()

    (problem,) = batch.problems
    assert str(problem).replace(f"{tmp_path}/", "") == (
        "b.yaml:1:1: error: Service shop/orders: is defined at a.yaml:22:1 already, and that one counts;"
        " remove one of the two"
    )
    assert [
        new.ports[0].port for key, new in batch.changes if key == ORDERS and isinstance(new, Service)
    ] == [1]


def test_removing_the_first_puts_the_second_in_force(tmp_path: Path) -> None:
    """And clears the problem."""
    path = write(tmp_path / "a.yaml", service(ports=[{"name": "http", "port": 1}]))
    write(tmp_path / "b.yaml", service(ports=[{"name": "http", "port": 2}]))
    directory = Directory(tmp_path)
    directory.load()
    path.unlink()
    batch = directory.load()

    assert (keys(batch), batch.problems) == ({"Service shop/orders": True}, ())


def test_duplicates_within_a_file(tmp_path: Path) -> None:
    """Also among the items of one List."""
    items = [service("web"), service(), service()]
    write(tmp_path / "a.json", json.dumps({"apiVersion": "v1", "kind": "List", "items": items}, indent=1))

    (problem,) = Directory(tmp_path).load().problems

    assert "already" in problem.reason


# -- Refusals --------------------------------------------------------------------------------------


def test_links_out_of_the_directory_are_refused(tmp_path: Path) -> None:
    """Neither files nor directories outside are read, whatever they hold."""
    write(tmp_path / "outside/secret.yaml", service())
    root = tmp_path / "root"
    root.mkdir()
    (root / "a.yaml").symlink_to(tmp_path / "outside/secret.yaml")
    (root / "b.yaml").symlink_to("../outside/secret.yaml")
    (root / "dir").symlink_to(tmp_path / "outside")
    (root / "gone.yaml").symlink_to("nowhere.yaml")
    (root / "loop.yaml").symlink_to("loop.yaml")

    batch = Directory(root).load()

    assert batch.changes == ()
    assert [f"{Path(p.subject).name}: {p.reason}" for p in batch.problems] == [
        "a.yaml: is a link that leads out of the directory; copy the file into it",
        "b.yaml: is a link that leads out of the directory; copy the file into it",
        "dir: is a link that leads out of the directory; copy the file into it",
        "gone.yaml: is a link to nothing; remove it",
        "loop.yaml: is a link to nothing; remove it",
    ]


def test_links_within_the_directory_are_followed(tmp_path: Path) -> None:
    """A mounted ConfigMap is made of them: file → ..data/file, ..data → a hidden directory."""
    write(tmp_path / "..2026/a.yaml", service())
    (tmp_path / "..data").symlink_to("..2026")
    (tmp_path / "a.yaml").symlink_to("..data/a.yaml")

    batch = Directory(tmp_path).load()

    assert (keys(batch), batch.problems) == ({"Service shop/orders": True}, ())


def test_linked_directories_are_not_followed(tmp_path: Path) -> None:
    """Within the directory as well: everything would be there twice."""
    write(tmp_path / "real/a.yaml", service())
    (tmp_path / "alias").symlink_to("real")

    (problem,) = Directory(tmp_path).load().problems

    assert problem.reason == "is a link to a directory, which is not followed; remove it"


def test_large_files_are_refused(tmp_path: Path) -> None:
    """The largest that is read is exactly as large as the limit."""
    text = json.dumps(service())
    (tmp_path / "a.yaml").write_text(text + " " * (settings.DIRECTORY_FILE_MAX_BYTES - len(text)))
    (tmp_path / "b.yaml").write_text(" " * (settings.DIRECTORY_FILE_MAX_BYTES + 1))

    batch = Directory(tmp_path).load()

    assert keys(batch) == {"Service shop/orders": True}
    assert [p.reason for p in batch.problems] == ["is larger than 8 MiB; split it"]


def test_the_objects_of_a_file_are_bounded(tmp_path: Path) -> None:
    """A file of nothing but separators must not become a million problems; what comes later is not taken for gone."""
    write(tmp_path / "a.yaml", service())
    directory = Directory(tmp_path)
    directory.load()
    write(tmp_path / "a.yaml", "--- x\n" * (OBJECTS_MAX + 2), service())
    batch = directory.load()

    assert batch.changes == ()
    assert len(batch.problems) == OBJECTS_MAX + 1
    assert batch.problems[-1].where == f"{tmp_path}/a.yaml:{OBJECTS_MAX + 1}:5"
    assert "holds more than 20000 objects" in batch.problems[-1].reason


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    """Opening one would hang the whole source."""
    os.mkfifo(tmp_path / "a.yaml")

    assert [p.reason for p in Directory(tmp_path).load().problems] == ["is not a regular file"]


CORPUS = [
    (b"a: \xff\n", "1:4: is not UTF-8: invalid start byte; save the file as UTF-8"),
    ("a: 1".encode("utf-16"), "1:1: is not UTF-8: invalid start byte; save the file as UTF-8"),
    (b"a:\n\t- b", "2:1: is not YAML: found character that cannot start any token"),
    (b"a: &a [*a]", '1:8: alias "a" stands inside or before its anchor'),
    (b"a: " + b"[" * 200 + b"]" * 200, "1:67: is nested deeper than 64 levels"),
    (b"a: !!python/object:os.system x", '1:4: tag "tag:yaml.org,2002:python/object:os.system" is not taken'),
]


@pytest.mark.parametrize(("content", "line"), CORPUS)
def test_what_is_no_manifest_is_refused_with_its_place(tmp_path: Path, content: bytes, line: str) -> None:
    """Encodings, syntax, bombs and tags that build objects."""
    (tmp_path / "a.yaml").write_bytes(content)

    problem = Directory(tmp_path).load().problems[0]

    assert f"{problem.where.removeprefix(f'{tmp_path}/a.yaml:')}: {problem.reason}".startswith(line)


FIELDS = """\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: orders
  namespace: shop
spec:
  hosts: [orders]
  http:
  - route:
    - destination: {host: orders}
      weight: -1
    retries: {attempts: 3}
---
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Service
  metadata: {name: a, labels: {x.y/z: a b}}
  spec: {}
- apiVersion: security.istio.io/v1
  kind: PeerAuthentication
  metadata: {name: b}
  spec:
    mtls:
      mod: STRICT
---
apiVersion: v1
kind: Service
metadata: {name: c}
spec:
  ports:
  - {name: a, port: .nan}
"""


def test_fields_are_reported_with_line_and_column(tmp_path: Path) -> None:
    """Lists within lists, items of a List, flow style, keys with dots."""
    write(tmp_path / "a.yaml", FIELDS)

    lines = said(Directory(tmp_path).load(), tmp_path)

    assert [line.split(": error: ")[0] for line in lines] == [
        "a.yaml:11:7",
        "a.yaml:19:32",
        "a.yaml:26:7",
        "a.yaml:33:15",
    ]
    assert "spec.http[0].route[0].weight: must be" in lines[0]
    assert "Service default/a: metadata.labels.x.y/z:" in lines[1]
    assert "PeerAuthentication default/b: spec.mtls.mod: unknown field; did you mean mode?" in lines[2]
    assert "spec.ports[0].port: must be 1..65535, got nan" in lines[3]


def test_places_for_the_compiler(tmp_path: Path) -> None:
    """A problem that is found later is placed by its object and its field; strangers stay without a place."""
    write(tmp_path / "a.yaml", FIELDS)
    write(tmp_path / "n.yaml", raw("Namespace", "shop", namespace=None))
    directory = Directory(tmp_path)
    directory.load()

    found = directory.placed(
        Problem(Severity.ERROR, subject, path, "")
        for subject, path in [
            ("VirtualService shop/orders", "spec.http[0].route[0].destination.host"),
            ("Namespace shop", "metadata.name"),
            ("Service shop/stranger", "spec"),
        ]
    )

    assert [problem.where.removeprefix(f"{tmp_path}/") for problem in found] == [
        "a.yaml:10:21",
        "n.yaml:5:3",
        "",
    ]


def test_an_unreadable_directory_takes_nothing_away(tmp_path: Path) -> None:
    """Absence of information never deletes: a root that vanished for a moment leaves everything in force."""
    root = tmp_path / "root"
    write(root / "a.yaml", service())
    directory = Directory(root)
    directory.load()
    root.rename(tmp_path / "elsewhere")
    gone = directory.rescan()
    (tmp_path / "elsewhere").rename(root)

    assert gone.changes == ()
    assert [p.reason for p in gone.problems] == ["cannot be listed; what it held stays in force"]
    assert directory.load().problems == ()


# -- Watching --------------------------------------------------------------------------------------


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
