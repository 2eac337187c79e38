"""Two versions of an EndpointSlice against each other: what they share, and which Pods moved.

It must never know what stands behind an endpoint.
"""

from __future__ import annotations

from itertools import compress, count
from operator import ne

from xds.api.core import Endpoint, EndpointSlice


def share(old: EndpointSlice, new: EndpointSlice) -> EndpointSlice:
    """Return the new slice with the old one's equal endpoints, so that who compares them compares by identity."""
    if len(old.endpoints) != len(new.endpoints):
        return new
    shared = list(old.endpoints)
    for i in compress(count(), map(ne, old.endpoints, new.endpoints)):
        shared[i] = new.endpoints[i]
    return EndpointSlice(new.meta, new.service, new.ports, tuple(shared))


def moved(old: tuple[Endpoint, ...], new: tuple[Endpoint, ...]) -> tuple[list[str], list[str]]:
    """Return the Pods of endpoints that came and of those that went, once for each endpoint."""
    if len(old) == len(new):
        pairs = [(a, b) for a, b in zip(old, new, strict=True) if a is not b]
        return [b.pod for _, b in pairs if b.pod], [a.pod for a, _ in pairs if a.pod]
    return [e.pod for e in new if e.pod], [e.pod for e in old if e.pod]
