"""Two versions of an EndpointSlice against each other: where they differ, what they share, and which Pods moved.

It must never know what stands behind an endpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import compress, count, islice
from operator import is_not, ne
from typing import Final

from xds.api.core import Endpoint, EndpointSlice

_Endpoints = tuple[Endpoint, ...]
_Differ = Callable[[Endpoint, Endpoint], bool]

Edit = tuple[slice, slice]
"""One place where two versions differ: what went of the old one, and what came in the new one."""

EDITS_MAX: Final = 8
"""Edits after which all that follows is one: finding the next walks past all before, and a change of so many
endpoints is no longer worth looking for."""

_NEAREST: Final = ((1, 1), (1, 0), (0, 1))
"""How many went and came at nearly every edit: one replaced or changed, one gone, one come."""


def edits(old: _Endpoints, new: _Endpoints, differ: _Differ = is_not) -> list[Edit]:
    """Return where two versions differ, in order; between the edits they are the same, endpoint for endpoint.

    By identity unless told otherwise, for slices that `share` has seen.
    """
    if len(old) == len(new):
        differing = list(compress(count(), map(differ, old, new)))
        if len(differing) <= EDITS_MAX:
            return [(at, at) for at in [slice(k, k + 1) for k in differing]]
    return _walk(old, new, differ)


def _walk(old: _Endpoints, new: _Endpoints, differ: _Differ) -> list[Edit]:
    """Return the edits of versions whose endpoints do not stand at the same places."""
    found: list[Edit] = []
    i = j = 0
    while len(found) < EDITS_MAX:
        pairs = map(differ, islice(old, i, None), islice(new, j, None))
        same = next(compress(count(), pairs), min(len(old) - i, len(new) - j))
        i, j = i + same, j + same
        if i == len(old) or j == len(new):
            break
        gone, came = _edit(old, i, new, j, differ)
        found.append((slice(i, gone), slice(j, came)))
        i, j = gone, came
    if i < len(old) or j < len(new):
        found.append((slice(i, len(old)), slice(j, len(new))))
    return found


def _edit(old: _Endpoints, i: int, new: _Endpoints, j: int, differ: _Differ) -> tuple[int, int]:
    """Return where the edit ends that begins with two endpoints that differ."""
    for gone, came in _NEAREST:
        if i + gone < len(old) and j + came < len(new) and not differ(old[i + gone], new[j + came]):
            return i + gone, j + came
    places = {endpoint.address: k for k, endpoint in enumerate(islice(old, i, None), i)}
    for k, endpoint in enumerate(islice(new, j, None), j):
        place = places.get(endpoint.address)
        if place is not None:
            is_changed = differ(old[place], endpoint)
            return place + is_changed, k + is_changed
    return len(old), len(new)


def share(old: EndpointSlice, new: EndpointSlice) -> EndpointSlice:
    """Return the new slice with the old one's equal endpoints, so that who compares them compares by identity."""
    shared: list[Endpoint] = []
    done = 0
    for gone, came in edits(old.endpoints, new.endpoints, ne):
        shared += old.endpoints[done : gone.start]
        shared += new.endpoints[came]
        done = gone.stop
    shared += old.endpoints[done:]
    return EndpointSlice(new.meta, new.service, new.ports, tuple(shared))


def moved(old: _Endpoints, new: _Endpoints) -> tuple[list[str], list[str]]:
    """Return the Pods of endpoints that came and of those that went, once for each endpoint."""
    found = edits(old, new)
    came = [e.pod for _, at in found for e in new[at] if e.pod]
    gone = [e.pod for at, _ in found for e in old[at] if e.pod]
    return came, gone
