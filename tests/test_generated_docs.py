"""docs/features.md: what it says of the code is what the code does, for every field of Istio's API."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parent.parent / "docs"
sys.path.insert(0, str(DOCS))

import field_fates  # noqa: E402 -- docs/ holds programs, and is no package
import generate  # noqa: E402


def test_the_document_is_what_the_code_says() -> None:
    """``make docs`` would change nothing, and every feature has its section."""
    text = (DOCS / "features.md").read_text(encoding="utf-8")

    assert text == generate.render()
    assert [name for name in generate.features() if f"\n## {name}\n" not in text] == []


def test_no_field_of_istio_is_unknown() -> None:
    """Whatever Istio's API has is supported, left out with a warning, or refused as not supported yet."""
    unknown = [fate.field for fate in field_fates.fates() if fate.status == field_fates.UNKNOWN]

    assert unknown == []


def test_every_field_of_istio_has_its_row() -> None:
    """The list and the document name the same fields."""
    text = (DOCS / "features.md").read_text(encoding="utf-8")
    listed = [line for line in field_fates.LIST.read_text(encoding="utf-8").splitlines() if line[:1] != "#"]
    rows = (f"| {line.replace(' ', ' | `')}` |" for line in listed)

    assert len(listed) > 150
    assert [row for row in rows if row not in text] == []


@pytest.mark.parametrize(
    ("kind", "field", "status"),
    [
        ("VirtualService", "http[].match[].uri", field_fates.SUPPORTED),
        ("VirtualService", "http[].corsPolicy.maxAge", field_fates.LEFT_OUT),
        ("VirtualService", "http[].delegate.name", field_fates.REFUSED),
        ("VirtualService", "http[].frobnicate", field_fates.UNKNOWN),
        ("PeerAuthentication", "portLevelMtls.PORT.mode", field_fates.SUPPORTED),
        ("PeerAuthentication", "portLevelMtls.PORT.modus", field_fates.UNKNOWN),
    ],
)
def test_the_code_tells_what_becomes_of_a_field(kind: str, field: str, status: str) -> None:
    """One of each, so that the question itself is known to work."""
    assert field_fates.fate(kind, field).status == status


def test_every_difference_from_istio_is_told_in_full() -> None:
    """What, Istio, Proa, why: a row of docs/differences.md has all four, but the reason may go without saying."""
    text = (DOCS / "differences.md").read_text(encoding="utf-8")
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line.startswith("| ")]

    assert len(rows) > 30
    assert [row for row in rows if len(row) != 4 or not all(cell.strip() for cell in row[:3])] == []
