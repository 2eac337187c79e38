"""What a control plane's gauges say at the moment of a scrape, read from the facts that it has anyway.

It owns the words and units of these readings; it must never keep anything between two scrapes, nor read a clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from xds.ledger import Ledger
    from xds.sources.informer import Status as Following
    from xds.trust import RotationStatus, Status

EXPLANATIONS: Final = {
    "proa_answers_awaited": "Answers that proxies still owe to the pushes that are kept: the queue of a fan-out.",
    "proa_pushes_open": "Pushes that not every concerned proxy has answered.",
    "proa_ca_expiry_timestamp_seconds": "When the newest root of a certificate authority ends (epoch).",
    "proa_ca_rotation_phase": "1 for the phase in which a rotation of a root is.",
    "proa_leaves": "Certificates that connected proxies hold.",
    "proa_kind_synced": "Whether a kind of the Kubernetes API has been read completely.",
    "proa_kind_failing": "Whether the last request for a kind failed.",
    "proa_kind_silence_seconds": "How long the API has said nothing of a kind; bookmarks come each minute.",
    "proa_kind_requests": "Lists, watches and failures of a kind since the start.",
    "proa_event_loop_lag_seconds": "How much later than asked the last tick of a second came.",
}
"""Each gauge and its HELP line."""


class Reading(NamedTuple):
    """One value of one gauge."""

    name: str
    value: float
    labels: tuple[tuple[str, str], ...] = ()


def of_ledger(ledger: Ledger) -> Iterator[Reading]:
    """Yield what is on its way: a queue that does not shrink is a proxy that does not answer."""
    waiting = [push.waiting for push in ledger.pushes()]
    yield Reading("proa_answers_awaited", sum(waiting))
    yield Reading("proa_pushes_open", sum(1 for count in waiting if count > 0))


def of_trust(status: Status) -> Iterator[Reading]:
    """Yield when what ends, and where rotations stand."""
    for name, found in (("workload", status.workload), ("channel", status.channel)):
        yield from _of_rotation(name, found)
    yield Reading("proa_leaves", status.leaves)


def _of_rotation(name: str, found: RotationStatus) -> Iterator[Reading]:
    authority = ("ca", name)
    ends = max((root.not_after for root in found.roots), default=0)
    yield Reading("proa_ca_expiry_timestamp_seconds", ends, (authority,))
    yield Reading("proa_ca_rotation_phase", 1, (authority, ("phase", found.phase.value)))


def of_kinds(found: Iterable[Following], *, now_s: float) -> Iterator[Reading]:
    """Yield how each kind of the API is doing."""
    for each in found:
        kind = ("kind", each.kind)
        yield Reading("proa_kind_synced", each.is_synced, (kind,))
        yield Reading("proa_kind_failing", bool(each.failure), (kind,))
        if each.heard_at:
            yield Reading("proa_kind_silence_seconds", max(0.0, now_s - each.heard_at), (kind,))
        for word, count in (("list", each.lists), ("watch", each.watches), ("failure", each.failures)):
            yield Reading("proa_kind_requests", count, (kind, ("request", word)))
