"""A guard that could never be read: what stands for it, and for how long, from files and from the API."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from tests.fakes.objects import authorization_policy
from xds.api.core import Key
from xds.api.istio_authorization import Action, AuthorizationPolicy
from xds.sources.envelope import Name
from xds.sources.manifest_file import read_file
from xds.sources.manifests import Manifests
from xds.sources.mirror import Kind, Mirror

KEY = Key("AuthorizationPolicy", "shop", "policy")
NAME = Name("shop", "policy")
KIND = Kind("AuthorizationPolicy", "security.istio.io/v1", "/")
BROKEN = authorization_policy(action="DENY", rules=[{"from": [{"source": {}}]}])
WORSE = authorization_policy(rules=[{"from": [{"source": {}}]}])
GOOD = authorization_policy(rules=[{}])


class Files:
    """One file of a directory."""

    def __init__(self) -> None:
        self.manifests = Manifests()

    def put(self, raw: dict[str, Any]) -> None:
        """Write the file."""
        self.manifests.put("a.json", read_file("a.json", json.dumps(raw).encode()))

    def gone(self) -> None:
        """Delete it."""
        self.manifests.drop("a.json")

    def settle(self) -> dict[Key, object]:
        """Return what changed."""
        return dict(self.manifests.settle())


class Api:
    """One object of the API."""

    def __init__(self) -> None:
        self.mirror = Mirror()

    def put(self, raw: dict[str, Any]) -> None:
        """Write the object."""
        self.mirror.put(KIND, NAME, msgspec.Raw(json.dumps(raw).encode()))

    def gone(self) -> None:
        """Delete it."""
        self.mirror.gone(KIND, NAME)

    def settle(self) -> dict[Key, object]:
        """Return what changed."""
        return dict(self.mirror.settle())


def action(changes: dict[Key, object]) -> Action | None:
    """The action of the policy that came into force, None for one that is gone."""
    assert list(changes) == [KEY]
    found = changes[KEY]
    return found.action if isinstance(found, AuthorizationPolicy) else None


def follow(source: Files | Api) -> None:
    """Broken at first, broken otherwise, read at last, broken again, deleted."""
    source.put(BROKEN)
    assert action(source.settle()) is Action.DENY
    source.put(WORSE)
    assert action(source.settle()) is Action.ALLOW
    source.put(GOOD)
    good = source.settle()
    assert action(good) is Action.ALLOW
    source.put(BROKEN)
    assert source.settle() == {}, "the last good version stays"
    source.gone()
    assert action(source.settle()) is None
    source.put(BROKEN)
    assert action(source.settle()) is Action.DENY
    source.gone()
    assert action(source.settle()) is None


def test_in_a_directory() -> None:
    """The stand-in is in force from the first read until the file can be read, or is gone."""
    follow(Files())


def test_in_a_cluster() -> None:
    """The same of an object of the API, which admission let through."""
    follow(Api())
