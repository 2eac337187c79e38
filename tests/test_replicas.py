"""What replicas tell each other, and which of them a rotation waits for.

Owns the facts about xds.replicas and the joined fleet; it must never wait or talk to an apiserver.
"""

from __future__ import annotations

import pytest

from xds.replicas import UNKNOWN, Report, Roll, read, write
from xds.trust import Fleet, joined

REPORT = Report("v2", "f" * 64, ("c" * 64,))


def fleet(bundle: str = "v2", *channel_roots: str) -> Fleet:
    """Our own proxies, which have all ACKed this bundle."""
    return Fleet(
        lambda version: version == bundle, lambda _stream, _version: True, lambda: frozenset(channel_roots)
    )


def test_a_report_survives_the_annotations() -> None:
    """What one replica writes, the other reads."""
    assert read(write(REPORT)) == REPORT


@pytest.mark.parametrize("annotations", [None, {}, {"proa.dev/trust": ""}, {"proa.dev/trust": "null"}])
def test_a_replica_that_says_nothing_holds_every_barrier_up(annotations: dict[str, str] | None) -> None:
    """A Lease that somebody edited is not a proof that its proxies trust anything."""
    together = joined(fleet(), lambda: (read(annotations),))

    assert read(annotations) == UNKNOWN
    assert not together.bundle_acked("v2")
    assert not together.signer_live("f" * 64)
    assert None in together.channel_roots()


def test_a_bundle_is_live_when_the_proxies_of_every_replica_have_it() -> None:
    """Ours and theirs; one that is behind keeps the next root from signing."""
    assert joined(fleet(), lambda: (REPORT, REPORT)).bundle_acked("v2")
    assert not joined(fleet(), lambda: (REPORT, Report("v1"))).bundle_acked("v2")
    assert not joined(fleet("v1"), lambda: (REPORT,)).bundle_acked("v2")


def test_a_signer_is_live_when_every_other_replica_says_so() -> None:
    """Our own leaves are asked for stream by stream."""
    assert joined(fleet(), lambda: (REPORT,)).signer_live("f" * 64)
    assert not joined(fleet(), lambda: (REPORT, Report("v2", ""))).signer_live("f" * 64)


def test_a_channel_root_is_needed_while_a_proxy_of_any_replica_reports_it() -> None:
    """And one that reports none may need the oldest."""
    assert joined(fleet("v2", "a"), lambda: (REPORT,)).channel_roots() == {"a", "c" * 64}
    assert None in joined(fleet("v2", "a"), lambda: (Report("v2", "", ("",)),)).channel_roots()


def test_before_the_others_are_known_no_barrier_holds() -> None:
    """A leader that has not read the Leases yet is not alone: it does not know."""
    together = joined(fleet(), lambda: None)

    assert not together.bundle_acked("v2")
    assert not together.signer_live("f" * 64)
    assert together.channel_roots() == {None}


def test_a_replica_alone_waits_for_nobody() -> None:
    """No other Lease, no other proxies."""
    together = joined(fleet(), lambda: ())

    assert together.bundle_acked("v2")
    assert together.signer_live("x")


def test_a_replica_is_alive_while_its_lease_changes() -> None:
    """By our own clock, from when we saw the change; after its duration without one it is waited for no more."""
    roll = Roll()
    roll.heard({"a": ("1", 120.0, REPORT), "b": ("5", 120.0, REPORT), "us": ("9", 120.0, REPORT)}, 0.0)
    roll.heard({"a": ("2", 120.0, REPORT), "b": ("5", 120.0, REPORT), "us": ("9", 120.0, REPORT)}, 100.0)

    assert len(roll.alive(119.0, but="us")) == 2
    assert len(roll.alive(120.0, but="us")) == 1
    assert roll.alive(220.0, but="us") == ()


def test_a_replica_that_left_is_gone_at_once() -> None:
    """It deletes its Lease when it stops."""
    roll = Roll()
    roll.heard({"a": ("1", None, REPORT)}, 0.0)
    roll.heard({}, 1.0)

    assert roll.alive(1.0, but="us") == ()
