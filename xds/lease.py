"""Electing a leader by a Lease, in client-go's terms and without I/O: what to write, and who leads until when.

Owns the rules of one candidate; it must never read a clock: every method takes monotonic seconds, because what a
wall clock says on another machine proves nothing. The shell (`xds.kube.election`) reads, writes and waits.

    candidate.heard(found, now)      a Lease was read (None: there is none) → what to write, or None: another leads
    candidate.wrote(lease, began)    the write that began then has succeeded
    candidate.leads(now)             whether this process may act as the leader now
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Final

import msgspec

from xds import settings


class LeaseSpec(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """`coordination.k8s.io/v1` LeaseSpec; times are RFC 3339 with microseconds, for people alone."""

    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    acquire_time: str | None = None
    renew_time: str | None = None
    lease_transitions: int | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """A Lease as the apiserver has it."""

    spec: LeaseSpec
    version: str
    """`metadata.resourceVersion`: every write names the one that it replaces."""


@dataclass(frozen=True, slots=True)
class Write:
    """A Lease to write: created if `version` is empty, else replaced only if it still has that version."""

    spec: LeaseSpec
    version: str


class _Metadata(msgspec.Struct, frozen=True, rename="camel"):
    resource_version: str
    name: str = ""
    annotations: dict[str, str] | None = None


class LeaseObject(msgspec.Struct, frozen=True):
    """The parts of a Lease that are read."""

    metadata: _Metadata
    spec: LeaseSpec = LeaseSpec()


def read(answer: bytes) -> Found:
    """Read a Lease; raises ValueError (also msgspec's errors are) if it is none."""
    found = msgspec.json.decode(answer, type=LeaseObject)
    return Found(found.spec, found.metadata.resource_version)


def micro_time(wall: float) -> str:
    """Seconds since the epoch as Kubernetes' MicroTime."""
    return dt.datetime.fromtimestamp(wall, dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@dataclass(frozen=True, slots=True)
class Timing:
    """client-go's three durations, in seconds."""

    lease_s: float = settings.LEASE_S
    renew_deadline_s: float = settings.LEASE_RENEW_DEADLINE_S
    retry_s: float = settings.LEASE_RETRY_S

    def __post_init__(self) -> None:
        if not self.retry_s * settings.LEASE_JITTER < self.renew_deadline_s < self.lease_s:
            message = "lease: retry (with its jitter) < renew deadline < lease duration"
            raise ValueError(message)


_NEVER: Final = float("-inf")


class Candidate:
    """One process that may lead."""

    def __init__(self, identity: str, timing: Timing | None = None) -> None:
        """`identity` is unique to this process: two that share one would both believe that they hold the Lease."""
        self.identity = identity
        self.timing = Timing() if timing is None else timing
        self._observed: Found | None = None
        self._observed_at = _NEVER
        self._renewed_at = _NEVER

    def leads(self, now: float) -> bool:
        """Whether our last successful write is young enough: nobody else may start before it no longer is."""
        return now < self._renewed_at + self.timing.renew_deadline_s

    @property
    def holder(self) -> str:
        """Who held the Lease when it was last looked at, "" for nobody."""
        return self._observed.spec.holder_identity or "" if self._observed else ""

    def heard(self, found: Found | None, now: float, wall: float) -> Write | None:
        """What to write after reading the Lease, None while another is believed; `now` is when the answer came.

        Expiry is counted from when *we* saw the Lease change (client-go's observedTime): the holder's
        clock, and the times in the Lease, are not compared with ours.
        """
        if found is None:
            self._observed = None
            return Write(self._spec(None, wall), "")
        if self._observed is None or found.version != self._observed.version:
            self._observed, self._observed_at = found, now
        holder = found.spec.holder_identity or ""
        if holder and holder != self.identity:
            lasts_s = found.spec.lease_duration_seconds or self.timing.lease_s
            if now < self._observed_at + lasts_s:
                self._renewed_at = _NEVER  # whatever we believed, another holds it
                return None
        return Write(self._spec(found, wall), found.version)

    def wrote(self, found: Found, began: float) -> None:
        """Our write, which began then, succeeded: lead from its beginning, which is before anyone can see it."""
        self._observed, self._observed_at = found, began
        self._renewed_at = began

    def renewal(self, wall: float) -> Write | None:
        """The write that renews a Lease that nobody has touched since ours; None if it must be read first."""
        observed = self._observed
        if observed is None or observed.spec.holder_identity != self.identity:
            return None
        return Write(self._spec(observed, wall), observed.version)

    def refused(self) -> None:
        """Somebody else has written: what we have seen is old, so the Lease is read before the next write."""
        self._observed = None

    def release(self, wall: float) -> Write | None:
        """The write that gives the Lease back at once, None if it is not ours; we lead no more from now on."""
        observed, self._renewed_at = self._observed, _NEVER
        if observed is None or observed.spec.holder_identity != self.identity:
            return None
        given_back = LeaseSpec(
            holder_identity="",
            lease_duration_seconds=1,
            acquire_time=observed.spec.acquire_time,
            renew_time=micro_time(wall),
            lease_transitions=observed.spec.lease_transitions,
        )
        return Write(given_back, observed.version)

    def pause_s(self, now: float, draw: float) -> float:
        """How long to wait before the next attempt: a candidate's is jittered by `draw` (0..1), a leader's is not."""
        jitter = 0.0 if self.leads(now) else settings.LEASE_JITTER * draw
        return self.timing.retry_s * (1 + jitter)

    def _spec(self, found: Found | None, wall: float) -> LeaseSpec:
        is_ours = found is not None and found.spec.holder_identity == self.identity
        transitions = (found.spec.lease_transitions or 0) if found else 0
        stamp = micro_time(wall)
        return LeaseSpec(
            holder_identity=self.identity,
            lease_duration_seconds=int(self.timing.lease_s),
            acquire_time=(found.spec.acquire_time or stamp) if found and is_ours else stamp,
            renew_time=stamp,
            lease_transitions=transitions if found is None or is_ours else transitions + 1,
        )
