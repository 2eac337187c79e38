"""Electing a leader: the rules of one candidate, and two that must never lead at once.

Owns the facts about xds.lease; it must never wait: clocks are numbers that a test moves.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from xds.lease import Candidate, Found, LeaseSpec, Timing, Write, micro_time, read

WALL = 1_800_000_000.25


def leading(identity: str = "a", now: float = 100.0, version: str = "2") -> Candidate:
    """A candidate that has just become the leader of a Lease that did not exist."""
    candidate = Candidate(identity)
    write = candidate.heard(None, now, WALL)
    assert write is not None
    candidate.wrote(Found(write.spec, version), now)
    return candidate


def held_by(identity: str, version: str = "7", **changes: Any) -> Found:
    """A Lease in another's hands."""
    spec = LeaseSpec(identity, 15, micro_time(WALL), micro_time(WALL), 3)
    fields = {name: getattr(spec, name) for name in LeaseSpec.__struct_fields__}
    return Found(LeaseSpec(**{**fields, **changes}), version)


def test_a_lease_that_nobody_made_is_created() -> None:
    """The first one in leads, and the record says since when."""
    write = Candidate("a").heard(None, 0.0, WALL)

    stamp = "2027-01-15T08:00:00.250000Z"
    assert write == Write(LeaseSpec("a", 15, stamp, stamp, 0), "")


def test_a_leader_leads_until_its_renew_deadline() -> None:
    """Ten seconds from the beginning of the write, five before anybody else may start."""
    candidate = leading(now=100.0)

    assert candidate.leads(109.9)
    assert not candidate.leads(110.0)


def test_another_is_believed_for_its_lease_from_when_we_saw_it_change() -> None:
    """The times that stand in the Lease are another machine's and count for nothing."""
    candidate = Candidate("b")
    old = held_by("a", renew_time="2001-01-01T00:00:00.000000Z")

    assert candidate.heard(old, 100.0, WALL) is None
    assert candidate.heard(old, 114.9, WALL) is None
    taken = candidate.heard(old, 115.0, WALL)
    assert taken is not None
    assert (taken.version, taken.spec.holder_identity, taken.spec.lease_transitions) == ("7", "b", 4)


def test_a_renewal_by_the_holder_starts_the_wait_again() -> None:
    """A new resourceVersion is a sign of life, whatever else it says."""
    candidate = Candidate("b")
    candidate.heard(held_by("a", "7"), 100.0, WALL)

    assert candidate.heard(held_by("a", "8"), 114.0, WALL) is None
    assert candidate.heard(held_by("a", "8"), 128.9, WALL) is None
    assert candidate.heard(held_by("a", "8"), 129.0, WALL) is not None


def test_the_holders_own_duration_counts() -> None:
    """Replicas of two versions may wait for different times."""
    candidate = Candidate("b")
    found = held_by("a", lease_duration_seconds=60)
    candidate.heard(found, 0.0, WALL)

    assert candidate.heard(found, 59.0, WALL) is None
    assert candidate.heard(found, 60.0, WALL) is not None


def test_a_renewal_keeps_the_beginning_and_the_count() -> None:
    """`acquireTime` and `leaseTransitions` change with the holder alone."""
    candidate = leading()
    write = candidate.renewal(WALL + 2)

    assert write is not None
    assert (write.version, write.spec.lease_transitions) == ("2", 0)
    assert (write.spec.acquire_time, write.spec.renew_time) == (micro_time(WALL), micro_time(WALL + 2))


def test_who_was_overtaken_reads_before_it_writes() -> None:
    """409: what we know is old."""
    candidate = leading()
    candidate.refused()

    assert candidate.renewal(WALL) is None


def test_who_sees_another_holder_stops_at_once() -> None:
    """An operator may hand the Lease to somebody else."""
    candidate = leading(now=100.0)

    assert candidate.heard(held_by("b"), 101.0, WALL) is None
    assert not candidate.leads(101.0)


def test_a_leader_that_was_away_takes_its_own_lease_up_again() -> None:
    """Nobody else took it during the outage: no transition is counted."""
    candidate = leading(now=100.0)
    assert not candidate.leads(200.0)
    write = candidate.heard(held_by("a", "9", lease_transitions=0), 200.0, WALL)

    assert write is not None
    assert (write.version, write.spec.lease_transitions) == ("9", 0)


def test_a_released_lease_is_taken_at_once() -> None:
    """A rolling update does not wait fifteen seconds for the one that left."""
    leader, other = leading(now=100.0), Candidate("b")
    given_back = leader.release(WALL)
    assert given_back is not None
    assert not leader.leads(100.0)
    write = other.heard(Found(given_back.spec, "3"), 101.0, WALL)

    assert write is not None
    assert (write.spec.holder_identity, write.spec.lease_transitions) == ("b", 1)
    assert Candidate("c").release(WALL) is None


@pytest.mark.parametrize(("draw", "pause_s"), [(0.0, 2.0), (1.0, 4.4)])
def test_candidates_wait_a_jittered_time_and_leaders_do_not(draw: float, pause_s: float) -> None:
    """client-go: JitterUntil(retryPeriod, 1.2) for the one, a fixed retryPeriod for the other."""
    assert Candidate("a").pause_s(0.0, draw) == pytest.approx(pause_s)
    assert leading(now=0.0).pause_s(1.0, draw) == 2.0


@pytest.mark.parametrize("timing", [(10.0, 10.0, 2.0), (15.0, 2.0, 2.0)])
def test_timings_that_could_let_two_lead_are_refused(timing: tuple[float, float, float]) -> None:
    """As client-go refuses them."""
    with pytest.raises(ValueError, match="renew deadline"):
        Timing(*timing)


def test_what_kubernetes_writes_is_read() -> None:
    """Kubectl and client-go write all fields; a fresh Lease may have none."""
    document: dict[str, Any] = {"metadata": {"name": "proa", "resourceVersion": "5", "uid": "u"}}

    assert read(json.dumps(document).encode()) == Found(LeaseSpec(), "5")
    document["spec"] = {
        "holderIdentity": "a",
        "leaseDurationSeconds": 15,
        "leaseTransitions": 2,
        "strategy": "x",
    }
    assert read(json.dumps(document).encode()).spec.holder_identity == "a"


# --- two candidates, one apiserver, bad clocks and a bad network ---------------------------------


@dataclass
class Runner:
    """A candidate, its clock, and the one request that it has under way."""

    candidate: Candidate
    offset_s: float
    rate: float
    request: Write | str = ""
    """What is being asked: "read", a write, or nothing."""
    began: float = 0.0
    served: bool = False
    answer: Found | Exception | None = field(default=None)

    def clock(self, true: float) -> float:
        """What its clock shows."""
        return self.offset_s + self.rate * true


class Overtaken(Exception):  # noqa: N818
    """409."""


class Election(RuleBasedStateMachine):
    """Requests begin, are served and are heard of in any order with any delay; answers and writes get lost."""

    @initialize(offsets=st.tuples(*[st.floats(-1e6, 1e6)] * 2), rates=st.tuples(*[st.floats(0.9, 1.1)] * 2))
    def start(self, offsets: tuple[float, float], rates: tuple[float, float]) -> None:
        """Two candidates whose clocks neither agree nor run equally fast."""
        self.true = 0.0
        self.stored: Found | None = None
        self.version = 0
        self.runners = [
            Runner(Candidate(name), offset, rate)
            for name, offset, rate in zip("ab", offsets, rates, strict=True)
        ]

    @rule(seconds=st.floats(0, 12))
    def pass_time(self, seconds: float) -> None:
        """Nothing happens for a while."""
        self.true += seconds

    @rule(number=st.integers(0, 1), reads=st.booleans())
    def begin(self, number: int, reads: bool) -> None:  # noqa: FBT001  # Hypothesis names its arguments
        """A candidate asks, or renews what it believes to hold."""
        runner = self.runners[number]
        if runner.request:
            return
        write = None if reads else runner.candidate.renewal(self.true)
        runner.request = write or "read"
        runner.began, runner.served = runner.clock(self.true), False

    @rule(number=st.integers(0, 1))
    def serve(self, number: int) -> None:
        """The apiserver takes a request: writes are fenced by the version."""
        runner = self.runners[number]
        if not runner.request or runner.served:
            return
        runner.served = True
        if isinstance(runner.request, Write):
            have = self.stored.version if self.stored else ""
            if runner.request.version != have:
                runner.answer = Overtaken()
                return
            self.version += 1
            self.stored = Found(runner.request.spec, str(self.version))
        runner.answer = self.stored

    @rule(number=st.integers(0, 1), is_lost=st.booleans())
    def hear(self, number: int, is_lost: bool) -> None:  # noqa: FBT001  # Hypothesis names its arguments
        """The answer arrives, or never does; after a read the write follows."""
        runner = self.runners[number]
        if not runner.request or not (runner.served or is_lost):
            return
        request, runner.request = runner.request, ""
        if is_lost:
            return
        candidate, now = runner.candidate, runner.clock(self.true)
        if isinstance(runner.answer, Overtaken):
            candidate.refused()
        elif isinstance(request, Write):
            assert isinstance(runner.answer, Found)
            candidate.wrote(runner.answer, runner.began)
        else:
            assert not isinstance(runner.answer, Exception)
            write = candidate.heard(runner.answer, now, self.true)
            if write is not None:
                runner.request, runner.began, runner.served = write, now, False

    @rule(number=st.integers(0, 1))
    def attempt(self, number: int) -> None:
        """The usual case: a candidate reads and writes, and nothing comes in between."""
        self.begin(number, reads=True)
        for _ in range(2):
            self.serve(number)
            self.hear(number, is_lost=False)

    @rule(number=st.integers(0, 1), one_in_eight=st.integers(0, 7))
    def stop(self, number: int, one_in_eight: int) -> None:
        """A leader gives the Lease back, and may come back as a candidate."""
        runner = self.runners[number]
        if one_in_eight:
            return
        write = runner.candidate.release(self.true)
        if write is None or runner.request:
            return
        have = self.stored.version if self.stored else ""
        if write.version == have:
            self.version += 1
            self.stored = Found(write.spec, str(self.version))
        runner.candidate.refused()

    @invariant()
    def never_two(self) -> None:
        """Whatever happened, at most one of them leads."""
        if hasattr(self, "runners"):
            leaders = [r.candidate.identity for r in self.runners if r.candidate.leads(r.clock(self.true))]
            assert len(leaders) <= 1, leaders


TestElection = Election.TestCase
TestElection.settings = hypothesis_settings(max_examples=200, stateful_step_count=50, deadline=None)
