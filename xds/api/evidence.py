"""The mesh setting ``evidence``: of how many requests sidecars tell the control plane what they saw.

It owns the setting; it must never turn anything on by default.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xds.fields import Reader


def read_sampling(parent: Reader) -> float:
    """Return the per cent of requests, 0 where nothing is said."""
    reader = parent.object("evidence")
    if reader is None:
        return 0.0
    sampling = reader.number("sampling", 0.0, low=0, high=100)
    reader.done()
    return sampling
