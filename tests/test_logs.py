"""Lines of log: the fields that a caller gives are on them."""

from __future__ import annotations

import logging

import pytest

from xds.logs import FieldsFormatter


def line(**fields: object) -> str:
    """Return what is written of one record, without its time."""
    record = logging.LogRecord("xds.server", logging.WARNING, __file__, 1, "response rejected", (), None)
    vars(record).update(fields)
    return FieldsFormatter().format(record).partition(" WARNING ")[2]


def test_fields_follow_the_event() -> None:
    """A constant phrase, then what it is about."""
    assert line(proxy="web-0.shop", nonce="7") == "xds.server response rejected proxy=web-0.shop nonce=7"


@pytest.mark.parametrize(
    ("value", "shown"),
    [("two words", "'two words'"), ("a\nWARNING forged", r"'a\nWARNING forged'"), ("", "''")],
)
def test_a_value_cannot_forge_a_line(value: str, shown: str) -> None:
    """Words of a stranger are quoted where they would not read as one value."""
    assert line(error=value) == f"xds.server response rejected error={shown}"


def test_a_record_without_fields_is_only_its_event() -> None:
    """What logging itself puts on a record is no field."""
    assert line() == "xds.server response rejected"
