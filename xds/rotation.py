"""Which root signs and which roots are trusted, through a rotation: prepare → activate → retire.

Owns the two state machines (workload roots, control-channel roots) as one table and a pure step each; it
must never publish, persist or read a clock: the caller saves a step before it acts on it.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from xds import ca, settings
from xds.ca import Authority
from xds.keys import Entropy


class Root(enum.Enum):
    """The two roots of trust, which have nothing in common: neither rotates with, or signs for, the other."""

    WORKLOAD = "workload"
    """Signs workload certificates; its bundle travels over SDS."""
    CHANNEL = "channel"
    """Signs the xDS server's certificate alone; its bundle is inlined into every bootstrap."""


class Phase(enum.Enum):
    """Where a rotation stands. Every phase may last for ever, and survives a restart."""

    STEADY = "steady"
    """One root signs and is trusted."""
    PREPARED = "prepared"
    """The old root signs; the new one is already in every bundle that we serve."""
    ACTIVATED = "activated"
    """The new root signs; the old one is still trusted for the leaves that it has signed."""


class Event(enum.Enum):
    """What moves a rotation on."""

    ROTATE = "rotate"
    """An operator asks for a new root."""
    BUNDLE_LIVE = "bundle-live"
    """Every connected proxy trusts the new root."""
    LEAVES_LIVE = "leaves-live"
    """Every connected proxy presents a leaf of the new root."""
    RETIRE = "retire"
    """An operator no longer trusts the old root and does not wait."""


TRANSITIONS: Final[Mapping[tuple[Phase, Event], Phase]] = {
    # Publish before use: a peer that does not know the new root yet would refuse its leaves.
    (Phase.STEADY, Event.ROTATE): Phase.PREPARED,
    # Use after everybody knows it.
    (Phase.PREPARED, Event.BUNDLE_LIVE): Phase.ACTIVATED,
    # Forget the old one after nobody uses it.
    (Phase.ACTIVATED, Event.LEAVES_LIVE): Phase.STEADY,
    # A compromised root is worth a failed handshake of a straggler.
    (Phase.ACTIVATED, Event.RETIRE): Phase.STEADY,
}
"""(phase, event) → phase. A pair without a row changes nothing: asking twice for a rotation is one."""


@dataclass(frozen=True, slots=True)
class Slots:
    """The roots of one trust: the one that signs, and during a rotation the other one."""

    phase: Phase
    signer: Authority
    other: Authority | None = field(default=None)
    """PREPARED: the next signer. ACTIVATED: the previous one. STEADY: None."""
    entered: float = 0.0
    """When the phase began, seconds since the epoch."""

    def __post_init__(self) -> None:
        if (self.other is None) is not (self.phase is Phase.STEADY):
            message = (
                f"slots: phase {self.phase.value} with {'one root' if self.other is None else 'two roots'}"
            )
            raise ValueError(message)

    @property
    def trusted(self) -> tuple[Authority, ...]:
        """Every root of the bundle, oldest first; the one that signs is always among them."""
        match self.phase, self.other:
            case Phase.ACTIVATED, Authority() as old:
                return (old, self.signer)
            case _, Authority() as new:
                return (self.signer, new)
            case _:
                return (self.signer,)

    @property
    def newest(self) -> Authority:
        """The root that was made last."""
        return self.trusted[-1]


def advance(slots: Slots, event: Event, *, now: float, new_root: Callable[[], Authority]) -> Slots:
    """The slots after an event; the very same object if the table has no row for it."""
    phase = TRANSITIONS.get((slots.phase, event))
    match phase:
        case None:
            return slots
        case Phase.PREPARED:
            return Slots(phase, slots.signer, new_root(), now)
        case Phase.ACTIVATED:
            return Slots(phase, slots.newest, slots.signer, now)
        case Phase.STEADY:
            return Slots(phase, slots.signer, None, now)


def succeed(slots: Slots, authority: Authority, *, now: float) -> Slots:
    """The slots that lead to a user's own signer; the same object while a rotation is under way, or if it signs.

    One below the same roots signs at once (peers trust it already); one below others is prepared first.
    """
    if slots.phase is not Phase.STEADY or authority.fingerprint == slots.signer.fingerprint:
        return slots
    if authority.pem == slots.signer.pem:
        return Slots(Phase.STEADY, authority, None, now)
    return advance(slots, Event.ROTATE, now=now, new_root=lambda: authority)


class Elsewhere(Exception):  # noqa: N818  # a fact about the home of the roots
    """A step was handed to the home of the roots: it holds once that home says so, and nothing has changed yet."""


class WorkloadRotation:
    """The workload root's rotation: asks the barriers, takes one step at a time, saves before it returns."""

    def __init__(  # noqa: PLR0913  # its collaborators, each of them replaceable in a test
        self,
        slots: Slots,
        *,
        trust_domain: str,
        entropy: Entropy,
        save: Callable[[Slots], None],
        started: float,
        dwell_s: float = settings.ROTATION_DWELL_S,
    ) -> None:
        self.slots = slots
        self._trust_domain = trust_domain
        self._entropy = entropy
        self._save = save
        self._started = started
        self._dwell_s = dwell_s

    def rotate(self, now: float) -> Slots:
        """Begin a rotation (`POST /api/v1/ca/rotate`); one that is under way simply goes on."""
        return self._step(Event.ROTATE, now)

    def retire(self, now: float) -> Slots:
        """Drop the old root without waiting for stragglers; changes nothing before the new one signs."""
        return self._step(Event.RETIRE, now)

    def tick(
        self, now: float, *, bundle_live: Callable[[], bool], leaves_live: Callable[[], bool]
    ) -> Slots | None:
        """The next slots if this phase's barrier holds, else None. Call it on every ACK, or each second.

        `bundle_live`: every connected proxy has ACKed the bundle that has both roots. `leaves_live`: every
        connected proxy has ACKed its leaf of the new root. Neither is asked before the phase has lasted
        `dwell_s`, counted from the start of this process: without streams both are vacuously true.
        """
        if now - max(self.slots.entered, self._started) < self._dwell_s:
            return None
        match self.slots.phase:
            case Phase.STEADY:
                return None
            case Phase.PREPARED:
                return self._step(Event.BUNDLE_LIVE, now) if bundle_live() else None
            case Phase.ACTIVATED:
                return self._step(Event.LEAVES_LIVE, now) if leaves_live() else None

    def _step(self, event: Event, now: float) -> Slots:
        following = advance(
            self.slots,
            event,
            now=now,
            new_root=lambda: ca.new_root(self._trust_domain, now=now, entropy=self._entropy),
        )
        if following is not self.slots:
            try:
                self._save(
                    following
                )  # before anybody can see it: a crash here repeats a step, never skips one
            except Elsewhere:
                return self.slots
            self.slots = following
        return following


class ChannelRotation:
    """The control channel's root: two are trusted by new bootstraps until nobody depends on the old one.

    A running pod's bootstrap never changes, so the new root cannot sign before every connected proxy was
    started with it; from then on the old one has no use, and the two last phases are one moment.
    """

    def __init__(
        self,
        slots: Slots,
        *,
        entropy: Entropy,
        save: Callable[[Slots], None],
        started: float,
        dwell_s: float = settings.CHANNEL_DWELL_S,
    ) -> None:
        self.slots = slots
        self._entropy = entropy
        self._save = save
        self._started = started
        self._dwell_s = dwell_s

    def rotate(self, now: float) -> Slots:
        """Make the next channel root: bootstraps carry both from now on, the old one keeps signing."""
        return self._step((Event.ROTATE,), now)

    def retire(self, now: float) -> Slots:
        """Sign with the new root now, locking out every proxy whose bootstrap lacks it."""
        return self._step((Event.BUNDLE_LIVE, Event.RETIRE), now)

    def tick(self, now: float, reported: Callable[[], frozenset[str | None]]) -> Slots | None:
        """The slots after the switch if no connected proxy needs the old root, else None.

        `reported`: what connected proxies have under node metadata `proa.dev/channel-root`, None for one
        that says nothing; everything but the new root's fingerprint counts as the old one.
        """
        if self.slots.phase is Phase.STEADY or now - max(self.slots.entered, self._started) < self._dwell_s:
            return None
        if self.slots.phase is Phase.PREPARED and not reported() <= {self.slots.newest.fingerprint}:
            return None
        return self.retire(now)

    def _step(self, events: Iterable[Event], now: float) -> Slots:
        following = self.slots
        for event in events:
            following = advance(
                following,
                event,
                now=now,
                new_root=lambda: ca.new_channel_root(now=now, entropy=self._entropy),
            )
        if following is not self.slots:
            try:
                self._save(following)
            except Elsewhere:
                return self.slots
            self.slots = following
        return following
