"""A directory of manifests: what is refused, and where the fault stands."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.fakes.directory import keys, said, write
from tests.fakes.objects import raw, service
from xds import settings
from xds.fields import Problem, Severity
from xds.sources.directory import Directory
from xds.sources.manifest_file import OBJECTS_MAX


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
    (b"a:\n\t- b", "2:1: is not YAML: a tab indents this line; use spaces"),
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
