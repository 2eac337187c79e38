"""Which TLS mode a Pod's ports have: port over workload over namespace over mesh, the oldest policy of each.

A rule without state; it must never ask what exists.
"""

from __future__ import annotations

from collections.abc import Iterable

from xds.api.core import Pod, selects
from xds.api.istio_security import MtlsMode, PeerAuthentication

Modes = tuple[MtlsMode, tuple[tuple[int, MtlsMode], ...]]
"""The mode of a Pod, and of the ports that have one of their own."""


def modes_of(pod: Pod, policies: Iterable[PeerAuthentication], inherited: MtlsMode) -> Modes:
    """Return a Pod's modes, given its namespace's policies (oldest first) and what the namespace inherits."""
    for policy in policies:
        if policy.selector and selects(policy.selector, pod.meta.labels):
            mode = policy.mode or inherited
            return mode, tuple((port, found or mode) for port, found in policy.ports)
    return inherited, ()


def scope_mode(policies: Iterable[PeerAuthentication], inherited: MtlsMode) -> MtlsMode:
    """Return the mode of a namespace, or of the mesh, by its own policies (oldest first)."""
    for policy in policies:
        if not policy.selector:
            return policy.mode or inherited
    return inherited
