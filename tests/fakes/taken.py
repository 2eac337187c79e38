"""Raw objects, read as every source reads them: what must be taken, and the words of a refusal."""

from __future__ import annotations

from typing import TypeVar

from tests.fakes.objects import Raw
from xds.api.manifest import Parsed, read
from xds.fields import ConfigError

T = TypeVar("T")


def parsed(value: Raw) -> Parsed:
    """Read an object that must be taken, with what is told of it."""
    found = read(value)
    assert isinstance(found, Parsed), found
    return found


def taken(value: Raw, kind: type[T]) -> T:
    """Read an object that must be taken, as what it is."""
    found = parsed(value).object
    assert isinstance(found, kind)
    return found


def refusal(value: Raw) -> str:
    """Return why an object is refused; it is a failure when it is not."""
    try:
        accepted = read(value)
    except ConfigError as error:
        return str(error)
    raise AssertionError(f"was accepted: {accepted}")
