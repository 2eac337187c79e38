"""Facts in YAML: what each case of ``tests/golden`` makes of one proxy's configuration."""

from __future__ import annotations

import os

import pytest

from tests import goldens

MAX_LINES = 30
"""A case says one sentence; what needs more is two cases."""


@pytest.mark.parametrize("sentence", goldens.sentences())
def test_golden(sentence: str, request: pytest.FixtureRequest) -> None:
    """The case gives exactly the files that stand beside it."""
    folder = goldens.ROOT / sentence
    actual = goldens.rendered(sentence)
    if request.config.getoption("--golden-update"):
        is_ci = bool(os.environ.get("CI"))  # a name of its own: a failed assert would print the environment
        assert not is_ci, "golden files are what CI compares with: it must not write them"
        _rewrite(sentence, actual)
    expected = {
        path.name: path.read_text(encoding="utf-8") for path in folder.iterdir() if path.name != goldens.INPUT
    }

    assert actual == expected


@pytest.mark.parametrize("sentence", goldens.sentences())
def test_a_case_is_short(sentence: str) -> None:
    """A reviewer takes it in at a glance."""
    text = (goldens.ROOT / sentence / goldens.INPUT).read_text(encoding="utf-8")

    assert len(text.splitlines()) <= MAX_LINES


def test_the_base_is_without_fault() -> None:
    """What every case builds on has no problem of its own."""
    assert goldens.compiled("").problems == ()


def _rewrite(sentence: str, files: dict[str, str]) -> None:
    folder = goldens.ROOT / sentence
    for path in folder.iterdir():
        if path.name != goldens.INPUT and path.name not in files:
            path.unlink()
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
