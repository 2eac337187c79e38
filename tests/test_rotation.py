"""Rotating a root of trust: the table, the barriers, and what a restart in any phase finds.

Owns the facts about both rotations; it must never wait.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.fakes.entropy import counted_entropy
from xds import ca
from xds.ca import Authority
from xds.rotation import (
    TRANSITIONS,
    ChannelRotation,
    Elsewhere,
    Event,
    Phase,
    Slots,
    WorkloadRotation,
    advance,
    succeed,
)

NOW = 1_800_000_000.0
DWELL_S = 10.0
ENTROPY = counted_entropy("rotation")


def root() -> Authority:
    """A workload root that no other test has."""
    return ca.new_root("cluster.local", now=NOW, entropy=ENTROPY)


def in_phase(phase: Phase) -> Slots:
    """Slots that entered a phase at NOW."""
    return Slots(phase, root(), None if phase is Phase.STEADY else root(), NOW)


def workload(slots: Slots, saved: list[Slots], started: float = NOW) -> WorkloadRotation:
    """A rotation that appends to `saved` what it persists."""
    return WorkloadRotation(
        slots,
        trust_domain="cluster.local",
        entropy=ENTROPY,
        save=saved.append,
        started=started,
        dwell_s=DWELL_S,
    )


def always() -> bool:
    """A barrier that holds."""
    return True


def never() -> bool:
    """A barrier that does not hold."""
    return False


def unasked() -> bool:
    """A barrier that must not be asked."""
    message = "asked for a barrier of another phase"
    raise AssertionError(message)


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("event", list(Event))
def test_a_pair_without_a_row_changes_nothing(phase: Phase, event: Event) -> None:
    """Every (phase, event) either is in the table or leaves the very same slots."""
    slots = in_phase(phase)
    following = advance(slots, event, now=NOW + 1, new_root=root)

    assert (following is slots) is ((phase, event) not in TRANSITIONS)


def test_prepare_publishes_the_new_root_and_signs_with_the_old() -> None:
    """Both are trusted before anybody presents a leaf of the new one."""
    steady = in_phase(Phase.STEADY)
    prepared = advance(steady, Event.ROTATE, now=NOW, new_root=root)

    assert prepared.signer is steady.signer
    assert prepared.trusted == (steady.signer, prepared.newest)
    assert prepared.newest is not steady.signer


def test_activate_signs_with_the_new_root_and_trusts_the_old() -> None:
    """Leaves of the old root keep working until they are replaced."""
    prepared = in_phase(Phase.PREPARED)
    activated = advance(prepared, Event.BUNDLE_LIVE, now=NOW, new_root=root)

    assert activated.signer is prepared.newest
    assert activated.trusted == prepared.trusted


def test_retire_leaves_only_the_new_root() -> None:
    """A retired root is worth nothing."""
    activated = in_phase(Phase.ACTIVATED)

    assert advance(activated, Event.LEAVES_LIVE, now=NOW, new_root=root).trusted == (activated.signer,)


def test_slots_with_the_wrong_number_of_roots_cannot_exist() -> None:
    """A damaged file is an error at start, not a rotation that trusts nobody."""
    with pytest.raises(ValueError, match="two roots"):
        Slots(Phase.STEADY, root(), root())
    with pytest.raises(ValueError, match="one root"):
        Slots(Phase.PREPARED, root())


def test_the_bundle_barrier_holds_back_activation() -> None:
    """One proxy without the new root, and nothing is signed with it."""
    rotation = workload(in_phase(Phase.PREPARED), [])

    assert rotation.tick(NOW + 1000, bundle_live=never, leaves_live=unasked) is None
    assert rotation.slots.phase is Phase.PREPARED


def test_the_leaf_barrier_holds_back_retirement() -> None:
    """One proxy with a leaf of the old root, and the old root stays trusted."""
    rotation = workload(in_phase(Phase.ACTIVATED), [])

    assert rotation.tick(NOW + 1000, bundle_live=unasked, leaves_live=never) is None
    assert rotation.slots.phase is Phase.ACTIVATED


@pytest.mark.parametrize("phase", [Phase.PREPARED, Phase.ACTIVATED])
def test_a_phase_lasts_its_dwell(phase: Phase) -> None:
    """Worker threads of a proxy that has just ACKed get their moment."""
    rotation = workload(in_phase(phase), [])

    assert rotation.tick(NOW + DWELL_S - 0.1, bundle_live=always, leaves_live=always) is None
    assert rotation.tick(NOW + DWELL_S, bundle_live=always, leaves_live=always) is not None


@pytest.mark.parametrize("phase", [Phase.PREPARED, Phase.ACTIVATED])
def test_a_restart_begins_the_dwell_anew(phase: Phase) -> None:
    """Right after a start nobody is connected, and "every connected proxy" would be vacuously true."""
    rotation = workload(in_phase(phase), [], started=NOW + 5000)

    assert rotation.tick(NOW + 5000 + DWELL_S - 0.1, bundle_live=always, leaves_live=always) is None


@pytest.mark.parametrize("phase", list(Phase))
def test_a_rotation_goes_on_from_any_phase(phase: Phase) -> None:
    """Killed in any phase, the next process ends with one root, the newest."""
    slots = in_phase(phase)
    rotation = workload(slots, [])
    now = NOW
    for _ in range(3):
        now += DWELL_S
        rotation.tick(now, bundle_live=always, leaves_live=always)

    assert rotation.slots.phase is Phase.STEADY
    assert rotation.slots.trusted == ((slots.signer if phase is Phase.ACTIVATED else slots.newest),)


def test_a_step_is_persisted_before_it_is_seen() -> None:
    """A crash while saving repeats the step; it never leaves a published root without a stored key."""

    def failing(_: Slots) -> None:
        message = "disk full"
        raise OSError(message)

    slots = in_phase(Phase.PREPARED)
    rotation = WorkloadRotation(
        slots, trust_domain="cluster.local", entropy=ENTROPY, save=failing, started=NOW, dwell_s=DWELL_S
    )

    with pytest.raises(OSError, match="disk full"):
        rotation.tick(NOW + DWELL_S, bundle_live=always, leaves_live=always)
    assert rotation.slots is slots


def test_asking_twice_for_a_rotation_is_one_rotation() -> None:
    """An impatient operator does not make a third root."""
    saved: list[Slots] = []
    rotation = workload(in_phase(Phase.STEADY), saved)
    first = rotation.rotate(NOW)

    assert rotation.rotate(NOW + 1) is first
    assert len(saved) == 1


def test_retiring_before_activation_changes_nothing() -> None:
    """The only root that signs cannot be retired."""
    rotation = workload(in_phase(Phase.PREPARED), [])

    assert rotation.retire(NOW).phase is Phase.PREPARED


# --- the control channel ----------------------------------------------------------------------


def channel(saved: list[Slots] | None = None) -> ChannelRotation:
    """A channel rotation in PREPARED, with a dwell of DWELL_S."""
    rotation = ChannelRotation(
        Slots(Phase.STEADY, ca.new_channel_root(now=NOW, entropy=ENTROPY), None, NOW),
        entropy=ENTROPY,
        save=(saved if saved is not None else []).append,
        started=NOW,
        dwell_s=DWELL_S,
    )
    rotation.rotate(NOW)
    return rotation


def reports(*fingerprints: str | None) -> Callable[[], frozenset[str | None]]:
    """Connected proxies that report these fingerprints."""
    return lambda: frozenset(fingerprints)


def test_the_old_channel_root_signs_while_a_proxy_reports_it() -> None:
    """A running pod's bootstrap never changes: it must be able to come back."""
    rotation = channel()
    old, new = rotation.slots.signer.fingerprint, rotation.slots.newest.fingerprint

    assert rotation.tick(NOW + 1000, reports(old, new)) is None
    assert rotation.slots.signer.fingerprint == old


def test_a_proxy_that_reports_no_channel_root_counts_as_old() -> None:
    """Absence of information retires nothing."""
    rotation = channel()

    assert rotation.tick(NOW + 1000, reports(None, rotation.slots.newest.fingerprint)) is None


def test_the_new_channel_root_signs_when_no_proxy_needs_the_old() -> None:
    """One step: what nobody depends on is neither served nor inlined any more."""
    rotation = channel()
    new = rotation.slots.newest
    rotation.tick(NOW + DWELL_S, reports(new.fingerprint))

    assert rotation.slots.phase is Phase.STEADY
    assert rotation.slots.trusted == (new,)


def test_the_channel_rotation_waits_even_if_nobody_is_connected() -> None:
    """A control plane that has just started does not lock out those who are about to return."""
    rotation = channel()

    assert rotation.tick(NOW + DWELL_S - 0.1, reports()) is None
    assert rotation.tick(NOW + DWELL_S, reports()) is not None


def test_a_channel_root_is_switched_and_retired_in_one_write() -> None:
    """Nobody finds the two last phases half done."""
    saved: list[Slots] = []
    first = channel(saved)
    first.tick(NOW + DWELL_S, reports(first.slots.newest.fingerprint))

    assert [slots.phase for slots in saved if slots.phase is not Phase.PREPARED] == [Phase.STEADY]


def test_a_channel_rotation_goes_on_between_its_last_two_steps() -> None:
    """Stored between the switch and the retirement (by an earlier version), it retires at the next tick."""
    activated = advance(channel().slots, Event.BUNDLE_LIVE, now=NOW, new_root=root)
    second = ChannelRotation(
        activated, entropy=ENTROPY, save=list[Slots]().append, started=NOW, dwell_s=DWELL_S
    )

    assert second.tick(NOW + 1000, reports("anything")) is not None
    assert second.slots.trusted == (activated.signer,)


def test_a_step_that_is_handed_on_changes_nothing_yet() -> None:
    """Where the roots live elsewhere, a step holds once that home says so; asked again, it is handed on again."""
    handed: list[Slots] = []

    def hand_on(slots: Slots) -> None:
        handed.append(slots)
        raise Elsewhere

    rotation = WorkloadRotation(
        in_phase(Phase.PREPARED),
        trust_domain="cluster.local",
        entropy=ENTROPY,
        save=hand_on,
        started=NOW,
        dwell_s=DWELL_S,
    )
    before = rotation.slots
    for _ in range(2):
        assert rotation.tick(NOW + DWELL_S, bundle_live=always, leaves_live=unasked) is before

    assert rotation.slots is before
    assert [slots.phase for slots in handed] == [Phase.ACTIVATED] * 2


def test_a_signer_below_other_roots_is_prepared_first() -> None:
    """A user's new CA is in every bundle before it signs, and only between two rotations."""
    steady, theirs = in_phase(Phase.STEADY), root()
    prepared = succeed(steady, theirs, now=NOW)

    assert (prepared.phase, prepared.signer, prepared.newest) == (Phase.PREPARED, steady.signer, theirs)
    assert succeed(prepared, root(), now=NOW) is prepared
    assert succeed(steady, steady.signer, now=NOW) is steady


def test_a_signer_below_the_same_roots_signs_at_once() -> None:
    """Peers trust it already: cert-manager renews an intermediate, and nothing waits."""
    anchors = (root().certificate,)
    old, new = (Authority(one.certificate, one.key, (one.certificate,), anchors) for one in (root(), root()))

    assert succeed(Slots(Phase.STEADY, old), new, now=NOW) == Slots(Phase.STEADY, new, None, NOW)
