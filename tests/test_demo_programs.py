"""Where the demonstration finds its programs, and what it says when one is missing; must never build anything."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from xds.demo import programs
from xds.demo.processes import DemoError


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A Go module that needs Go 1.26."""
    (tmp_path / "go.mod").write_text("module x\n\ngo 1.26.0\n")
    return tmp_path


def _fake_go(place: Path, version: str) -> None:
    place.mkdir(exist_ok=True)
    (place / "go").write_text(f"#!/bin/sh\necho {version}\n")
    (place / "go").chmod(0o755)


def test_go_of_the_path_comes_first(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Go that people have installed is used before the wheel's."""
    _fake_go(tmp_path / "bin", "go1.26.3")
    _fake_go(tmp_path / "venv", "go1.27.0")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "venv" / "python"))

    assert programs.go(source) == tmp_path / "bin" / "go"


def test_go_of_the_wheel_replaces_one_that_is_too_old(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wheel's command lies beside the interpreter, off the PATH."""
    _fake_go(tmp_path / "bin", "go1.22.9")
    _fake_go(tmp_path / "venv", "go1.27.0")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "venv" / "python"))

    assert programs.go(source) == tmp_path / "venv" / "go"


@pytest.mark.parametrize(("version", "words"), [("", "there is no go"), ("go1.22.9", "is older")])
def test_without_go_the_error_says_how_to_get_it(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, words: str
) -> None:
    """The message names the version that is needed and both ways to it."""
    if version:
        _fake_go(tmp_path / "bin", version)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "venv" / "python"))

    with pytest.raises(
        DemoError, match=rf"needs Go 1\.26 or newer, and .*{words}.*{re.escape('proa[demo]')}"
    ):
        programs.go(source)


def test_the_cache_follows_the_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A changed source has another binary; nothing is built when the binary is there."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "main.go").write_text("package main\n")
    digest = programs.source_hash(tmp_path)
    binary = tmp_path / "cache" / "proa" / "shop" / digest / "shop"
    binary.parent.mkdir(parents=True)
    binary.touch()

    assert programs.shop(tmp_path) == binary
    (tmp_path / "main.go").write_text("package main // changed\n")
    assert programs.source_hash(tmp_path) != digest
