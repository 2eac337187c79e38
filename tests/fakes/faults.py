"""Realistic mistakes in manifests: each a folder of `tests/explain`, with a request that shows it and what explains it.

It owns the way from a folder to a value; it must never decide whether an explanation is right: the folder says.

A folder holds ``in.yaml`` (the mistake), perhaps ``then.yaml`` (an edit after it, in the same file), and
``question.yaml``: ``ask`` (source, destination, request), ``headers``, ``status`` (what the sender gets: a number, or
``closed``), ``before`` (the same without the mistake, where that can be asked), ``cause`` and what it ``says``.
``direct`` names the Pod that a client without a sidecar calls at its own address.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any, Final, cast

import yaml

ROOT: Final = Path(__file__).parent.parent / "explain"
BASE: Final = ROOT / "base.yaml"

APPLICATION: Final = "127.0.9.250"
"""Where no sidecar stands in front of the application, in tests without processes."""


@dataclass(frozen=True, slots=True)
class Mistake:
    """One folder."""

    name: str
    edits: tuple[str, ...]
    ask: tuple[str, str, str]
    headers: tuple[str, ...]
    status: str
    before: str
    cause: str
    says: str
    direct: str

    def written(self, application: str = APPLICATION) -> tuple[str, ...]:
        """Return the edits with the address of an application that has no sidecar."""
        return tuple(Template(text).substitute(orders_application=application) for text in self.edits)


def mistakes() -> list[Mistake]:
    """Return every folder, by name."""
    return [_read(path.parent) for path in sorted(ROOT.glob("*/question.yaml"))]


def _read(folder: Path) -> Mistake:
    said = cast("dict[str, Any]", yaml.safe_load((folder / "question.yaml").read_text("utf-8")))
    source, destination, request = said["ask"]
    files = [folder / name for name in ("in.yaml", "then.yaml")]
    return Mistake(
        name=folder.name,
        edits=tuple(path.read_text("utf-8") for path in files if path.exists()),
        ask=(source, destination, request),
        headers=tuple(said.get("headers", ())),
        status=str(said["status"]),
        before=str(said.get("before", "")),
        cause=said["cause"],
        says=said["says"],
        direct=said.get("direct", ""),
    )
