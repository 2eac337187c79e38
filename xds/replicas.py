"""What a replica tells the others about its proxies, and how it stands in the annotations of a Lease.

Owns the form and the rule who is alive; it must never read a clock or talk to anybody.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from xds import settings

LABEL: Final = "proa.dev/replica"
"""Label by which the Leases of replicas are listed; its value is "true"."""
_REPORT: Final = "proa.dev/trust"


class Report(msgspec.Struct, frozen=True):
    """What all proxies that are connected to one replica have accepted."""

    bundle: str = ""
    """Version of the trust bundle that each of them has ACKed; "" while one has not."""
    signer: str = ""
    """Fingerprint of the root that signed each one's leaf, ACKed; "" while one has another."""
    channel_roots: tuple[str, ...] = ()
    """The channel roots that they report, sorted; "" for one that reports none."""


UNKNOWN: Final = Report("", "", ("",))
"""A live replica that says nothing readable: no barrier holds, and it may need any root."""


def write(report: Report) -> dict[str, str]:
    """The annotations of a replica's Lease."""
    return {_REPORT: msgspec.json.encode(report).decode()}


def read(annotations: Mapping[str, str] | None) -> Report:
    """What a Lease says; UNKNOWN if it says nothing, or nothing that this version understands."""
    text = (annotations or {}).get(_REPORT, "")
    try:
        return msgspec.json.decode(text, type=Report)
    except (msgspec.MsgspecError, ValueError):
        return UNKNOWN


@dataclass(frozen=True, slots=True)
class _Seen:
    version: str
    at: float
    lasts_s: float
    report: Report


class Roll:
    """The replicas that are alive, by the same rule as an election: a Lease that changed within its duration.

    Only our own monotonic clock counts, from when we saw a change; a Lease that is deleted is gone at once.
    """

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}

    def heard(self, leases: Mapping[str, tuple[str, float | None, Report]], now: float) -> None:
        """Take a complete list: name → (resourceVersion, duration in seconds, what it says)."""
        self._seen = {
            name: self._see(name, version, lasts_s, report, now)
            for name, (version, lasts_s, report) in leases.items()
        }

    def alive(self, now: float, *, but: str) -> tuple[Report, ...]:
        """Return the reports of all live replicas but one, our own."""
        return tuple(
            seen.report for name, seen in self._seen.items() if name != but and now < seen.at + seen.lasts_s
        )

    def _see(self, name: str, version: str, lasts_s: float | None, report: Report, now: float) -> _Seen:
        before = self._seen.get(name)
        if before is not None and before.version == version:
            return before
        return _Seen(version, now, lasts_s or settings.REPLICA_LEASE_S, report)
