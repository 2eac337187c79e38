"""A directory of manifests: what is in force, and what is kept when something breaks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.fakes.directory import ORDERS, keys, said, write
from tests.fakes.objects import peer_authentication, pod, service
from xds.api.core import EndpointSlice, Key, Service
from xds.fields import Severity
from xds.sources.directory import Directory


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
