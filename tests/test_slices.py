"""Versions of an EndpointSlice: who comes after the store does work for what differs, not for the whole slice."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from xds.api.core import Endpoint, EndpointSlice, Key, Meta, SlicePort
from xds.api.istio_security import MtlsMode
from xds.backend import Backend
from xds.indexes.members import Members
from xds.resources.endpoint import Frames
from xds.slices import edits, share

KEY = Key("EndpointSlice", "shop", "orders-a")
POD = Backend("orders", "shop", "orders", (), is_meshed=True, mode=MtlsMode.STRICT)
SIZE = 100


def versions() -> tuple[EndpointSlice, dict[str, EndpointSlice]]:
    """A full slice, and the next version of it for each thing that happens in a rollout, decoded anew."""
    new = Endpoint("10.0.9.9", pod="new", zone="b")
    old, found = _endpoints(), _endpoints()
    gone = (*found[:50], *found[51:])
    draining = Endpoint(found[50].address, ready=False, terminating=True, pod="p50", zone="a")
    cases = {
        "grows": (*found, new),
        "shrinks": gone,
        "one goes, one comes at the end": (*gone, new),
        "one is replaced": (*found[:50], new, *found[51:]),
        "one drains": (*found[:50], draining, *found[51:]),
    }
    return _slice(old), {name: _slice(endpoints) for name, endpoints in cases.items()}


def _endpoints() -> tuple[Endpoint, ...]:
    return tuple(Endpoint(f"10.0.0.{n}", pod=f"p{n}", zone="a") for n in range(SIZE))


def _slice(endpoints: tuple[Endpoint, ...]) -> EndpointSlice:
    return EndpointSlice(Meta("shop", "orders-a"), "orders", (SlicePort("http", 80),), endpoints)


CASES = tuple(versions()[1])


@dataclass
class Asked:
    """What a Pod means, and for which Pods that was asked."""

    pods: list[str] = field(default_factory=list[str])

    def backend(self, pod: tuple[str, str]) -> Backend:
        """Every Pod means the same."""
        self.pods.append(pod[1])
        return POD


@pytest.mark.parametrize("case", CASES)
def test_edits_are_as_few_as_the_endpoints_that_differ(case: str) -> None:
    """Endpoints behind one that went or came are the same as before, though they stand elsewhere."""
    old, found = versions()
    new = share(old, found[case])
    differing = edits(old.endpoints, new.endpoints)

    assert new == found[case]
    assert sum(at.stop - at.start for edit in differing for at in edit) <= 2


@pytest.mark.parametrize("case", CASES)
def test_framing_looks_at_no_pod_that_stayed(case: str) -> None:
    """A patch is what framing the whole slice gives, and asks for the Pod of the one endpoint that is new."""
    old, found = versions()
    new, frames, asked = share(old, found[case]), Frames(), Asked()
    chunk = frames.chunk(old, "http", (), asked.backend)
    asked.pods.clear()
    patched = frames.patch(chunk, old, new, "http", (), asked.backend)
    pods = list(asked.pods)

    assert patched == frames.chunk(new, "http", (), asked.backend)
    assert len(pods) <= 1


@pytest.mark.parametrize("case", CASES)
def test_members_look_at_few_pods_that_stayed(case: str) -> None:
    """Who stands behind a service is known from the Pods that moved, and from one that can prove the same account."""
    old, found = versions()
    asked = Asked()
    members = Members(asked.backend)
    members.take(KEY, None, old)
    asked.pods.clear()
    touched = members.take(KEY, old, share(old, found[case]))

    assert touched == {("endpoints", "shop", "orders")}
    assert len(asked.pods) <= 3
